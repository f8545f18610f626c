"""The Machine: its record as the owning host keeps it, and its two outside shapes.

`to_wire` is what Fly's clients read (reference machines-api, part 3). `to_record` and `from_record` are the only doors
to storage and to the bus. The value is frozen: a transition makes a new one.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from caddisfly.model import ids, states
from caddisfly.model.check import Check
from caddisfly.model.config import Config
from caddisfly.model.lease import Lease
from caddisfly.model.snapshot import Snapshot

EVENTS_KEPT = 50
EVENTS_ON_OBJECT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to a Machine. `timestamp` is milliseconds since the epoch."""

    id: str
    type: str
    status: str
    source: str
    timestamp: int
    request: Mapping[str, Any] | None = None

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "id": self.id,
            "type": self.type,
            "status": self.status,
            "source": self.source,
            "timestamp": self.timestamp,
        }
        if self.request:
            wire["request"] = dict(self.request)
        return wire


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """The image that a reference resolved to."""

    registry: str
    repository: str
    tag: str
    digest: str
    labels: Mapping[str, str] | None = None

    def __str__(self) -> str:
        """By which it can be fetched again, and nothing else."""
        return f"{self.registry}/{self.repository}:{self.tag}@{self.digest}"

    def to_wire(self) -> dict[str, Any]:
        return {
            "registry": self.registry,
            "repository": self.repository,
            "tag": self.tag,
            "digest": self.digest,
            "labels": dict(self.labels) if self.labels else None,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Exit:
    """How the main process ended. `signal` is -1 when none was involved. `at_ms` is milliseconds since the epoch."""

    exit_code: int
    signal: int = -1
    oom_killed: bool = False
    error: str = ""
    at_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """One Machine. Times are milliseconds since the epoch. `private_ip` is the 6PN address, `ipv4` is host-local."""

    id: str
    name: str
    app_name: str
    app_id: str
    org_id: str
    org_slug: str
    network_id: int
    host_id: str
    region: str
    state: str
    instance_id: str
    config: Config
    image: ImageRef
    private_ip: str
    ipv4: str
    created_ms: int
    updated_ms: int
    events: tuple[Event, ...] = ()
    """Newest first."""
    cordoned: bool = False
    operation: str = ""
    """Id of the operation under way, empty when none: every write is fenced by it."""
    run_id: str = ""
    """The incarnation: a new one for each start, so that names of namespaces and links are never used twice."""
    run_number: int = 0
    """The number in `run_id`, unique among all incarnations of the host."""
    exited_run: str = ""
    """The incarnation whose exit has been recorded, so that a crash never records it twice."""
    restart_count: int = 0
    """Restarts by the policy since the last good run."""
    parked: bool = False
    """Stopped because the platform went down; starts again when it comes up."""
    slot: int = 0
    """Scheduled Machines: the last slot that was served (`host/schedule.py`)."""
    secrets_version: int = 0
    """Which set of its app's secrets it is started with. 0: none."""
    container_images: Mapping[str, str] = field(default_factory=dict)
    """References with digests, by container: what this version runs, whatever becomes of the tags."""
    file_images: Mapping[str, str] = field(default_factory=dict)
    """References with digests, by name, of the images whose configs are among its files."""
    root_of: str = ""
    """An earlier incarnation, when its root is gone on with: its memory was lost, and what it wrote was not."""
    snapshot: Snapshot | None = None
    """What it is resumed from. None unless it is suspended, or on its way there or back."""
    isolation: str = ""
    """Its class (`model/isolation.py`), chosen when it is created and kept. Empty: from before there was a choice."""
    driver: str = ""
    """Of its newest incarnation, such as oci/runsc."""
    lease: Lease | None = None
    """May have run out: ask its host's `Leases`."""
    checks: tuple[Check, ...] = ()
    """What health checks last found. Only what is published has them: the journal holds what must not be lost."""
    containers: tuple[tuple[str, str], ...] = ()
    """Names and states of its containers. Only what is published has them, too."""

    def with_event(
        self,
        type: str,
        status: str,
        *,
        source: str,
        request: Mapping[str, Any] | None = None,
        now_ms: int | None = None,
    ) -> Machine:
        """A new value with one more event, in front."""
        now = now_ms if now_ms is not None else wall_ms()
        event = Event(id=ids.ulid(), type=type, status=status, source=source, timestamp=now, request=request)
        return replace(self, events=(event, *self.events)[:EVENTS_KEPT], updated_ms=now)

    @property
    def references(self) -> Mapping[str, str]:
        """What it runs, as references with digests, by container. One image for all has an empty name."""
        return self.container_images or {"": str(self.image)}

    @property
    def digests(self) -> frozenset[str]:
        """Of all images that it runs, or is given the config of."""
        references = (*self.references.values(), *self.file_images.values())
        return frozenset(reference.rpartition("@")[2] for reference in references)

    @property
    def alive(self) -> bool:
        return self.state in states.ALIVE

    def ready(self, internal_port: int) -> bool:
        """Whether no check says that the service behind this port should be left alone."""
        return not any(check.keeps_from(internal_port) for check in self.checks)

    def newest(self, event_type: str) -> Event | None:
        return next((event for event in self.events if event.type == event_type), None)

    def to_wire(self) -> dict[str, Any]:
        containers = [{"name": name, "state": state} for name, state in self.containers]
        return {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "region": self.region,
            "instance_id": self.instance_id,
            "version": self.instance_id,
            "private_ip": self.private_ip,
            "created_at": rfc3339(self.created_ms),
            "updated_at": rfc3339(self.updated_ms),
            "config": dict(self.config.wire),
            "image_ref": self.image.to_wire(),
            "events": [event.to_wire() for event in self.events[:EVENTS_ON_OBJECT]],
            "checks": [check.to_wire() for check in self.checks],
            "host_status": "ok",
            "cordoned": self.cordoned,
            **({"containers": containers} if containers else {}),
            **({"isolation": self.isolation} if self.isolation else {}),
        }

    def to_record(self) -> dict[str, Any]:
        record = {name: getattr(self, name) for name in _PLAIN}
        return {
            **record,
            "config": dict(self.config.wire),
            "image": self.image.to_wire(),
            "events": [event.to_wire() for event in self.events],
            "lease": self.lease.to_record() if self.lease else None,
            "snapshot": self.snapshot.to_record() if self.snapshot else None,
            "checks": [check.to_record() for check in self.checks],
            "containers": [list(one) for one in self.containers],
        }

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Machine:
        """Members that this version does not know are ignored, absent ones take their default: records outlive code."""
        plain = {name: record[name] for name in _PLAIN if name in record}
        return cls(
            **plain,
            config=Config(record["config"]),
            image=ImageRef(**record["image"]),
            events=tuple(Event(**event) for event in record.get("events", ())),
            lease=Lease.from_record(record["lease"]) if record.get("lease") else None,
            snapshot=Snapshot.from_record(record["snapshot"]) if record.get("snapshot") else None,
            checks=tuple(Check.from_record(check) for check in record.get("checks", ())),
            containers=tuple((name, state) for name, state in record.get("containers", ())),
        )


_OTHER = ("config", "image", "events", "lease", "snapshot", "checks", "containers")
_PLAIN = tuple(name for name in Machine.__dataclass_fields__ if name not in _OTHER)


@dataclass(frozen=True, slots=True, kw_only=True)
class Version:
    """What a Machine was, or is, told to be (reference M15)."""

    version: str
    config: Mapping[str, Any]

    def to_wire(self) -> dict[str, Any]:
        return {"version": self.version, "user_config": dict(self.config)}


@dataclass(frozen=True, slots=True, kw_only=True)
class AppFacts:
    """What a host must know of an app to run a Machine for it."""

    id: str
    name: str
    org_id: str
    org_slug: str
    network_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRequest:
    """What a client asked for in create or update (reference M2, M4), checked."""

    config: Config
    name: str = ""
    region: str = ""
    skip_launch: bool = False
    skip_service_registration: bool = False
    current_version: str = ""
    lease_ttl_s: int = 0
    """Create, or update, and lease it in the same step. 0: no lease."""
    skip_secrets: bool = False
    min_secrets_version: int = 0
    unknown: Mapping[str, Any] = field(default_factory=dict)


def wall_ms() -> int:
    return time.time_ns() // 1_000_000


def rfc3339(ms: int) -> str:
    """Whole seconds and `Z`, as Fly writes times on machines."""
    return datetime.fromtimestamp(ms // 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
