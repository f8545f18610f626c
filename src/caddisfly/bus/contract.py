"""What control and edge may ask of a host: every method, with what goes in and what comes out.

Replies that change a Machine carry the catalog revision of the change, so that control can answer once its own replica
has caught up ("read your writes", docs/architecture.md). Revision 0 means that the bus was away: the change is durable
in the host's journal and will be published when it returns.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from caddisfly.bus.rpc import Method


class Message(BaseModel):
    """Unknown members are ignored, so that a fleet can be upgraded host by host."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class Nothing(Message):
    pass


class AppRecord(Message):
    id: str
    name: str
    org_id: str
    org_slug: str
    network_id: int


class BidRequest(Message):
    """Who could take this Machine? `memory_mb` is MiB, `cores` physical cores."""

    app_id: str
    regions: tuple[str, ...]
    memory_mb: int
    cores: float
    gpu_kind: str = ""
    image: str = ""
    isolation: tuple[str, ...] = ()
    """One of these classes, the host chooses which. None: any."""


class Bid(Message):
    """An offer. The highest `score` wins; `refusal` says why a host cannot, in words for people."""

    host_id: str
    region: str
    score: float = 0.0
    refusal: str = ""
    isolation: str = ""
    """What the Machine would run in. Empty, from a host of before there was a choice, it is anyone's guess."""


class MachineReply(Message):
    """`record` is `Machine.to_record()`."""

    record: dict[str, Any]
    revision: int = 0


class SecretSet(Message):
    """An app's secrets at a version, sealed (`bus/sealing.py`), by name."""

    version: int
    values: dict[str, str]


class CreateMachine(Message):
    """`machine_id` is chosen by control: sending the same create twice makes one Machine."""

    machine_id: str
    app: AppRecord
    name: str
    config: dict[str, Any]
    region: str
    skip_launch: bool = False
    skip_service_registration: bool = False
    lease_ttl_s: int = 0
    """Create it leased, to `owner`. 0: without a lease."""
    owner: str = ""
    secrets: SecretSet | None = None
    isolation: tuple[str, ...] = ()
    """As in the `BidRequest`."""


class MachineCall(Message):
    """`nonce` is that of the caller's lease, if it has one. `reason` goes into the event of a stop or suspend."""

    machine_id: str
    source: str = "user"
    nonce: str = ""
    grant: str = ""
    """What the edge was given by `GRANT_REST`: it stops and suspends with that only."""
    reason: str = ""


class UpdateMachine(MachineCall):
    config: dict[str, Any]
    current_version: str = ""
    skip_launch: bool = False
    skip_service_registration: bool = False
    lease_ttl_s: int = 0
    owner: str = ""
    secrets: SecretSet | None = None


class TakeLease(MachineCall):
    """Acquire; or refresh, with `nonce`."""

    owner: str
    ttl_s: int
    description: str = ""


class LeaseReply(Message):
    """`lease` is `Lease.to_record()`."""

    lease: dict[str, Any]


class SetMetadata(MachineCall):
    """Named keys are set, those with None are removed, others stay. A `machine_version` that is not current refuses."""

    metadata: dict[str, str | None]
    machine_version: str = ""


class CordonMachine(MachineCall):
    cordoned: bool


class MemoryReply(Message):
    """MiB: what it may take now, and what is left of that."""

    limit_mb: int
    available_mb: int


class SetMemory(MachineCall):
    limit_mb: int


class ReclaimMemory(MachineCall):
    amount_mb: int


class Reclaimed(Message):
    actual_mb: int


class VersionList(Message):
    """Newest first, as the API shows them."""

    versions: tuple[dict[str, Any], ...]


class ProcessList(Message):
    processes: tuple[dict[str, Any], ...]


class StopMachine(MachineCall):
    """`timeout_s` 0 means the Machine's own stop_config."""

    signal: str = ""
    timeout_s: float = 0.0
    force: bool = False


class GrantReply(Message):
    grant: str


class SignalMachine(MachineCall):
    signal: str


class DestroyMachine(MachineCall):
    force: bool = False


class StartReply(MachineReply):
    previous_state: str


class ExecMachine(MachineCall):
    """`timeout_s` bounds the command; it is killed when it is over."""

    command: tuple[str, ...]
    stdin: str = ""
    timeout_s: float = 30.0
    container: str = ""


class ExecReply(Message):
    exit_code: int
    exit_signal: int | None = None
    stdout: str
    stderr: str


class AttachMachine(MachineCall):
    """Begin a command whose streams go over a `Line`. `subject` is where the caller's end of it listens.

    A command may hold a secret: whoever receives this must not log it. Without one it is a shell. `columns` 0 means
    without a terminal.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    subject: str
    command: tuple[str, ...] = ()
    columns: int = 0
    rows: int = 0
    term: str = ""
    user: str = ""
    container: str = ""
    stop_after: bool = False
    """Stop the Machine when the session is over, however that comes about. `nonce` must allow it."""


class AttachReply(Message):
    """`subject` is where the host's end of the line listens."""

    subject: str


class ReadLogs(MachineCall):
    """Lines younger than `since_ns` (nanoseconds since the epoch), oldest first, at most the newest `limit`."""

    since_ns: int = 0
    limit: int = 100


class LogLines(Message):
    lines: tuple[dict[str, Any], ...]


class ImportImage(Message):
    """`path` is a file or directory on the host: an OCI layout or a docker-archive. `select` names one of several."""

    path: str
    name: str
    select: str = ""


class RegistryLogin(Message):
    """A user of a registry. The user name `<token>` makes an identity token of the password."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    username: str
    password: str = Field(repr=False)


class PullImage(Message):
    """`login` is used for this pull and kept nowhere."""

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    name: str
    login: RegistryLogin | None = None


class ImageName(Message):
    name: str


class ResolveImage(Message):
    """What a Machine of this organization would run by that name now."""

    name: str
    org_id: str


class ImageFound(Message):
    """`image` is the `image_ref` that a Machine would have, `reference` by which it is fetched."""

    image: dict[str, Any]
    reference: str


class ImageReply(Message):
    name: str
    digest: str


class ImageList(Message):
    images: tuple[dict[str, Any], ...]


class LayerProgress(Message):
    """`state` is waiting, downloading, unpacking or ready; `done` of `size` bytes of the compressed layer."""

    digest: str
    state: str
    done: int
    size: int


class ImageProgress(Message):
    """Empty while the registry has not said yet what the image is made of."""

    layers: tuple[LayerProgress, ...]


class ImageDetails(Message):
    record: dict[str, Any]


class RemoveImage(Message):
    """With `force` also one that Machines have: their content stays until they are gone."""

    name: str
    force: bool = False


class CollectImages(Message):
    """Delete what nothing needs; with `all_unused` also images with a tag that no Machine has."""

    all_unused: bool = False


class ImagesCollected(Message):
    images: int
    layers: int
    bytes: int


class VerifyImages(Message):
    """All layers, or those of one image."""

    name: str = ""


class ImagesVerified(Message):
    """`damaged` and `repaired` are layers; `problems` say what could not be repaired, and why."""

    layers: int
    damaged: tuple[str, ...]
    repaired: tuple[str, ...]
    problems: tuple[str, ...]


class StartBuild(Message):
    """`build_id` is chosen by control: sending the same start twice makes one build.

    `context` is the digest of the context's manifest in the app's repository. `secrets` and `token`, with which the
    result is pushed, are never kept: whoever receives this must not log it, and one that cannot be read is not shown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    build_id: str
    app: AppRecord
    context: str
    dockerfile: str = "Dockerfile"
    target: str = ""
    args: dict[str, str] = {}
    labels: dict[str, str] = {}
    secrets: dict[str, str] = Field(default={}, repr=False)
    no_cache: bool = False
    tag: str = "latest"
    token: str = Field(default="", repr=False)


class BuildCall(Message):
    """A build of this app, and of no other."""

    build_id: str
    app_id: str


class ListBuilds(Message):
    app_id: str


class BuildReply(Message):
    """`build` is as the API shows it. `ahead` is how many wait before it."""

    build: dict[str, Any]
    ahead: int = 0


class BuildList(Message):
    """Newest first."""

    builds: tuple[dict[str, Any], ...]


class ReadBuildLog(BuildCall):
    """Lines from an offset on. When there are none yet, the answer is held until there are, `wait_s` at most."""

    offset: int = 0
    wait_s: float = 0


class BuildLogPage(Message):
    """`ended`: nothing comes after these."""

    lines: tuple[dict[str, Any], ...]
    next_offset: int
    state: str
    ended: bool


class HostStatus(Message):
    """What the agent says of itself, for `caddis status`."""

    host_id: str
    region: str
    machines: dict[str, int]
    drivers: tuple[str, ...]
    isolation: tuple[str, ...] = ()
    """The classes it offers, the preferred first; their drivers are in the same order."""
    facts: dict[str, Any]


class Parked(Message):
    machines: int


class AskAccess(Message):
    """What may the bearer of this `Authorization` do with these repositories? `everything`: which are there for it?

    It carries a secret: whoever receives it must not log it, and a call that cannot be read is not shown.
    """

    model_config = ConfigDict(frozen=True, extra="ignore", hide_input_in_errors=True)

    authorization: str
    names: tuple[str, ...] = ()
    everything: bool = False


class RepositoryAccess(Message):
    """A repository is an app. `push` includes deleting."""

    name: str
    app_id: str
    org_id: str
    push: bool = True


class GrantedAccess(Message):
    """Those of the repositories asked for that are within reach. The others are left out, whether they exist or not."""

    repositories: tuple[RepositoryAccess, ...]


class AskNeeds(Message):
    app_id: str
    name: str
    org_id: str


class RepositoryNeeds(Message):
    """Whether the app is still there, and which images Machines of its organization run."""

    alive: bool
    digests: tuple[str, ...] = ()


CREATE_MACHINE = Method("machine.create", CreateMachine, MachineReply, 60)
UPDATE_MACHINE = Method("machine.update", UpdateMachine, MachineReply, 60)
START_MACHINE = Method("machine.start", MachineCall, StartReply, 10)
STOP_MACHINE = Method("machine.stop", StopMachine, MachineReply, 10)
RESTART_MACHINE = Method("machine.restart", StopMachine, MachineReply, 10)
SUSPEND_MACHINE = Method("machine.suspend", MachineCall, MachineReply, 30)
SIGNAL_MACHINE = Method("machine.signal", SignalMachine, Nothing, 10)
DESTROY_MACHINE = Method("machine.destroy", DestroyMachine, MachineReply, 10)
EXEC_MACHINE = Method("machine.exec", ExecMachine, ExecReply, 75)
ATTACH_MACHINE = Method("machine.attach", AttachMachine, AttachReply, 40)
TAKE_LEASE = Method("machine.lease.take", TakeLease, MachineReply, 10)
RELEASE_LEASE = Method("machine.lease.release", MachineCall, MachineReply, 10)
SHOW_LEASE = Method("machine.lease.show", MachineCall, LeaseReply, 5)
SET_METADATA = Method("machine.metadata", SetMetadata, MachineReply, 10)
CORDON_MACHINE = Method("machine.cordon", CordonMachine, MachineReply, 10)
SHOW_MEMORY = Method("machine.memory.show", MachineCall, MemoryReply, 10)
SET_MEMORY = Method("machine.memory.set", SetMemory, MemoryReply, 10)
RECLAIM_MEMORY = Method("machine.memory.reclaim", ReclaimMemory, Reclaimed, 30)
LIST_VERSIONS = Method("machine.versions", MachineCall, VersionList, 10)
GRANT_REST = Method("machine.rest.grant", MachineCall, GrantReply, 5)
"""Leave to stop or suspend a Machine that nobody needs, for `GRANT_S`. Whoever wakes it takes that leave away."""
GRANT_S = 10.0
LIST_PROCESSES = Method("machine.processes", MachineCall, ProcessList, 30)
READ_LOGS = Method("machine.logs", ReadLogs, LogLines, 10)
WAKE_MACHINE = Method("machine.wake", MachineCall, MachineReply, 30)
"""Starts a Machine if it needs starting and answers once it is `started`. Many callers share one start."""

START_BUILD = Method("build.start", StartBuild, BuildReply, 10)
SHOW_BUILD = Method("build.show", BuildCall, BuildReply, 5)
LIST_BUILDS = Method("build.list", ListBuilds, BuildList, 5)
CANCEL_BUILD = Method("build.cancel", BuildCall, BuildReply, 30)
READ_BUILD_LOG = Method("build.log", ReadBuildLog, BuildLogPage, 30)

IMPORT_IMAGE = Method("image.import", ImportImage, ImageReply, 3600)
LIST_IMAGES = Method("image.list", Nothing, ImageList, 10)
RESOLVE_IMAGE = Method("image.resolve", ResolveImage, ImageFound, 60)
REMOVE_IMAGE = Method("image.remove", RemoveImage, Nothing, 30)
PULL_IMAGE = Method("image.pull", PullImage, ImageReply, 3600)
WATCH_IMAGE = Method("image.progress", ImageName, ImageProgress, 5)
"""How far a pull, an import or the fetch of a start is. Asked again and again by whoever shows it."""
SHOW_IMAGE = Method("image.show", ImageName, ImageDetails, 10)
COLLECT_IMAGES = Method("image.collect", CollectImages, ImagesCollected, 600)
VERIFY_IMAGES = Method("image.verify", VerifyImages, ImagesVerified, 3600)
HOST_STATUS = Method("host.status", Nothing, HostStatus, 5)
PARK_HOST = Method("host.park", Nothing, Parked, 330)
"""Stops every running Machine, remembering it: the next start of the agent starts it again."""

CONTROL = "control"
"""Prefix of the calls that control answers. With several controls each of them does, and the first answer counts."""

ASK_ACCESS = Method("registry.access", AskAccess, GrantedAccess, 5)
ASK_NEEDS = Method("registry.needs", AskNeeds, RepositoryNeeds, 10)

STDIN, STDOUT, STDERR, EXIT = 0, 1, 2, 3
"""Channels of an attached command's line. An empty piece on `STDIN` is its end; `EXIT` carries the code in decimal."""

BIDS = "bids"
"""Subject of the market: every host answers a `BidRequest` with a `Bid`."""


def host_prefix(host_id: str) -> str:
    return f"host.{host_id}"


def beat_subject(host_id: str) -> str:
    """Heartbeats of a host: an empty message every few seconds."""
    return f"beat.{host_id}"


def build_log_subject(*, app: str, build_id: str) -> str:
    """Live lines of a build: JSON, as in its log file."""
    return f"builds.{app}.{build_id}"


def log_subject(*, app: str, region: str, machine_id: str) -> str:
    """Live log lines of a Machine (reference edge-network, 8.3)."""
    return f"logs.{app}.{region}.{machine_id}"
