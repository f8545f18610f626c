"""Bodies as the OpenAPI document shows them. Replies are loose: members may be added."""

from __future__ import annotations

import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field


class Taken(BaseModel):
    """What comes in: members that this version does not know are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)


class CreateApp(Taken):
    name: str = Field(default="", description="Up to 63 of a-z, 0-9 and dashes. Empty: one is made up.")
    app_name: str = Field(default="", description="Older spelling of `name`.")
    org_slug: str = Field(default="", description="Required.")
    network: str = Field(default="", description='Private network. Empty: "default".')
    app_role_id: str = ""
    idempotency_key: str = Field(default="", max_length=200, description="The same key makes the same app.")


class LaunchMachine(Taken):
    """Create, and update."""

    config: dict[str, Any] | None = Field(default=None, description="See the reference; `image` is required in it.")
    name: str = Field(default="", max_length=128, description="Unique among the app's machines. Empty: made up.")
    region: str = Field(default="", max_length=200, description="A code, a list with commas, or an alias such as eu.")
    skip_launch: bool = False
    skip_service_registration: bool = False
    current_version: str = Field(default="", description="Update only: refuse if the machine is at another version.")
    skip_secrets: bool = Field(default=False, description="Give it none of the app's secrets.")
    min_secrets_version: int = Field(default=0, ge=0, description="Refuse (412) when the app's secrets are older.")
    lease_ttl: int = Field(
        default=0, ge=0, description="Seconds. Lease it in the same step; the nonce is in the reply."
    )


class StopBody(Taken):
    signal: str = ""
    timeout: str | int | float | None = Field(default=None, description='As in "30s", or a number of nanoseconds.')


class SignalBody(Taken):
    signal: str | int = Field(default="", description="A name such as SIGTERM, or a number.")


class ExecBody(Taken):
    command: list[str] = Field(default=[], description="The command line, word by word.")
    cmd: str = Field(default="", description="The command line as one text, split as a shell would split it.")
    stdin: str = ""
    timeout: int = Field(default=0, ge=0, description="Seconds. 0: thirty.")
    container: str = ""


class PlacementBody(Taken):
    org_slug: str = Field(default="", description="Required.")
    region: str = Field(default="", description="A code, a list with commas, or an alias. Empty: here, else anywhere.")
    compute: dict[str, Any] | None = Field(default=None, description="A guest, as in a machine's config.")
    count: int = Field(default=0, ge=0, le=1000, description="How many machines. 0: one in each region.")


class LeaseBody(Taken):
    ttl: int = Field(default=0, ge=0, description="Seconds, 1 to 3600. 0: thirty.")
    description: str = ""


class DeployTokenBody(Taken):
    name: str = Field(default="", max_length=200, description="For a person to tell it by.")
    expiry: str | int = Field(default="", description='As in "24h", or a number of nanoseconds. Empty: 20 years.')


class SecretValue(Taken):
    value: str = Field(description="At most 64 KiB.")


class SecretValues(Taken):
    values: dict[str, str | None] = Field(default={}, description="By name. null removes.")


class CreateRelease(Taken):
    image: str = Field(default="", max_length=1024, description="What its Machines run.")
    strategy: str = Field(default="", max_length=20, description="As in fly.toml. Empty: rolling.")
    definition: dict[str, Any] = Field(default={}, description="The fly.toml as JSON. Kept as it is, not read.")
    progress: dict[str, Any] = Field(default={}, description="What a deploy that goes on later must know. Not read.")
    description: str = Field(default="", max_length=1000)
    reason: str = Field(default="", max_length=1000)
    ttl: int = Field(default=0, ge=0, description="Seconds, at most 3600, until it must be changed again. 0: 60.")


class ReleaseChange(Taken):
    nonce: str = Field(default="", max_length=200, description="Required: what its making gave.")
    status: str | None = Field(default=None, description="pending, running, complete, failed or interrupted.")
    error: str | None = Field(default=None, max_length=16_384, description="Why it failed, for people.")
    progress: dict[str, Any] | None = Field(default=None, description="Replaces what was there.")
    ttl: int | None = Field(default=None, ge=0, description="Seconds. Left out: as before.")


class GroupScale(Taken):
    count: int = Field(ge=0, le=1000, description="Machines, standbys not counted.")
    regions: list[Annotated[str, Field(pattern=r"^[a-z0-9-]{1,20}$")]] = Field(default=[], max_length=50)
    max_per_region: int | None = Field(default=None, ge=1, le=1000, description="Null: any number.")


class ScaleBody(Taken):
    groups: dict[Annotated[str, Field(pattern=r"^[^\x00-\x1f,]{1,63}$")], GroupScale | None] = Field(
        default={}, description="By process group. Null forgets one; those that are not named stay."
    )


class MemoryBody(Taken):
    limit_mb: int = Field(default=0, description="MiB, at most those of the guest.")


class ReclaimBody(Taken):
    amount_mb: int = Field(default=0, description="MiB.")


class MetadataBody(Taken):
    metadata: dict[str, str | None] = Field(default={}, description='Null or "" removes a key.')
    machine_version: str = Field(default="", description="Refuse if the machine is at another version.")


class StartBuild(Taken):
    # What is wrong with a secret is not shown with it.
    model_config = ConfigDict(extra="ignore", frozen=True, hide_input_in_errors=True)

    context: str = Field(default="", description="Required. Digest of the context's manifest in the app's repository.")
    dockerfile: str = Field(default="Dockerfile", max_length=4096, description="What messages call the Dockerfile.")
    target: str = Field(default="", max_length=256, description="Stage to stop at. Empty: the last.")
    args: dict[str, str] = Field(default={}, description="Values of ARG. They are in the image's history: no secrets.")
    labels: dict[str, str] = Field(default={}, description="Labels of the image.")
    secrets: dict[str, str] = Field(
        default={}, repr=False, description="By id, for RUN --mount=type=secret. Not kept, not in the image."
    )
    no_cache: bool = Field(default=False, description="Run every step.")
    tag: str = Field(default="latest", max_length=128, description="Tag of the image in the app's repository.")


class MetadataValue(Taken):
    value: str = ""


class Given(BaseModel):
    model_config = ConfigDict(extra="allow")


class ErrorReply(Given):
    error: str
    status: str | None = None
    why: str | None = None
    next: str | None = None


class OkReply(Given):
    ok: bool


class OrganizationReply(Given):
    name: str
    slug: str
    internal_numeric_id: int


class AppReply(Given):
    id: str
    name: str
    status: str
    machine_count: int
    volume_count: int
    network: str
    internal_numeric_id: int
    organization: OrganizationReply
    app_role: str
    url: str
    created_at: int | None = None


class AppsReply(Given):
    total_apps: int
    apps: list[AppReply]


class EventReply(Given):
    id: str
    type: str
    status: str
    source: str
    timestamp: int


class ContainerReply(Given):
    name: str
    state: str


class MachineSummary(Given):
    id: str
    name: str
    state: str
    region: str
    instance_id: str
    private_ip: str
    created_at: str
    updated_at: str


class MachineObject(MachineSummary):
    config: dict[str, Any] | None = None
    image_ref: dict[str, Any] | None = None
    events: list[EventReply] | None = None
    checks: list[dict[str, Any]] | None = None
    containers: list[ContainerReply] | None = None
    host_status: str | None = None
    cordoned: bool | None = None
    isolation: str | None = Field(default=None, description="microvm, gvisor or container. Not in Fly's API.")


class StartedReply(Given):
    previous_state: str
    migrated: bool
    new_host: str


class WaitedReply(OkReply):
    state: str
    event_id: str
    version: str


class ExecReply(Given):
    exit_code: int
    exit_signal: int | None
    stdout: str
    stderr: str


class LeaseEnvelope(Given):
    status: str
    data: dict[str, Any]


class VersionReply(Given):
    version: str
    user_config: dict[str, Any]


class ProcessReply(Given):
    pid: int
    stime: int
    rtime: int
    command: str
    directory: str
    cpu: int
    rss: int
    listen_sockets: list[dict[str, str]]


class MemoryReply(Given):
    limit_mb: int
    available_mb: int


class ReclaimReply(Given):
    actual_mb: int


class OrganizationMachines(Given):
    machines: list[dict[str, Any]]
    next_cursor: str
    last_machine_id: str
    last_updated_at: str
    error_regions: list[str]


class TokenReply(Given):
    token_id: str
    organization: str
    org_slug: str
    apps: list[str]
    user: str
    restricted_to_machine: str
    source_machine_id: str


class TokensReply(Given):
    tokens: list[TokenReply]


class SecretReply(Given):
    name: str
    digest: str
    created_at: str
    updated_at: str


class SecretsReply(Given):
    secrets: list[SecretReply]


class SecretVersionReply(Given):
    version: int


class DeployTokenReply(Given):
    token: str
    id: str


class StoredTokenReply(Given):
    id: str
    name: str
    prefix: str
    user: str
    created_at: str
    expires_at: str | None
    last_used_at: str | None


class DeployTokensReply(Given):
    tokens: list[StoredTokenReply]


class RegionReply(Given):
    code: str
    name: str
    latitude: float
    longitude: float
    gateway_available: bool
    requires_paid_plan: bool
    deprecated: bool
    capacity: int
    geo_region: str


class RegionsReply(Given):
    Regions: list[RegionReply]
    Nearest: str


class ResolvedImage(Given):
    registry: str
    repository: str
    tag: str
    digest: str
    labels: dict[str, str] | None
    reference: str


class RegistryReply(Given):
    host: str
    url: str


class PlacementReply(Given):
    Region: str
    Count: int
    Concurrency: int


class PlacementsReply(Given):
    Regions: list[PlacementReply]


class BuildReply(Given):
    id: str
    app: str
    state: str
    context: str
    dockerfile: str
    target: str
    args: dict[str, str]
    labels: dict[str, str]
    secrets: list[str]
    no_cache: bool
    tag: str
    image: str
    digest: str
    step: dict[str, Any] | None
    failure: dict[str, str] | None
    created_at: str | None
    started_at: str | None
    ended_at: str | None
    ahead: int | None = None


class BuildsReply(Given):
    builds: list[BuildReply]


class BuildLogReply(Given):
    lines: list[dict[str, Any]]
    next_offset: int
    state: str
    ended: bool


class ReleaseUser(Given):
    id: str
    email: str
    name: str


class ReleaseReply(Given):
    id: str
    version: int
    status: str
    stable: bool
    in_progress: bool
    strategy: str
    image_ref: str
    description: str
    reason: str
    error: str
    user: ReleaseUser | None
    created_at: str
    updated_at: str
    expires_at: str | None


class ReleasesReply(Given):
    releases: list[ReleaseReply]


class WholeRelease(ReleaseReply):
    definition: dict[str, Any]
    progress: dict[str, Any]


class BegunRelease(WholeRelease):
    nonce: str


class ScaleReply(Given):
    groups: dict[str, dict[str, Any]]


class LogEntry(Given):
    id: str
    attributes: dict[str, Any]


class LogsReply(Given):
    data: list[LogEntry]
    meta: dict[str, Any]


ERRORS: dict[int | str, dict[str, Any]] = {"default": {"model": ErrorReply, "description": "What went wrong"}}


def takes(kind: type[Taken]) -> dict[str, Any]:
    """The part of the OpenAPI document that describes the body a route reads by itself."""
    schema = kind.model_json_schema()
    named = schema.pop("$defs", {})
    text = json.dumps(schema)
    for name, inner in named.items():  # a reference would be one into the whole document
        text = text.replace(json.dumps({"$ref": f"#/$defs/{name}"}), json.dumps(inner))
    return {"requestBody": {"required": False, "content": {"application/json": {"schema": json.loads(text)}}}}


def gives(kind: Any, status: int = 200) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": kind, "description": "Done"}}
