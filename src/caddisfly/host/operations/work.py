"""What a step gets to work with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from caddisfly.host.drivers.driver import Driver, Drives, Sandbox
from caddisfly.host.guest import Surroundings, compile_sandbox
from caddisfly.host.images.image import Image, ResolvedImage
from caddisfly.host.images.rootfs import LaidOut
from caddisfly.host.isolation import Choice
from caddisfly.host.journal.operation import Operation
from caddisfly.host.network.network import Attachment
from caddisfly.host.settings import HostSettings
from caddisfly.model.config import Config
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.machine import Exit, Machine


class Roots(Protocol):
    """Writable roots. Which there are, and how long, is in `root.py`."""

    async def mount(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> Path:
        """With `keep`, what an `unmount` with `keep` left is used again."""
        ...

    async def lay_out(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> LaidOut:
        """As disks, for a sandbox that has a kernel of its own."""
        ...

    async def unmount(self, key: str, *, keep: bool = False) -> None:
        """Does nothing when there is none."""
        ...

    async def mark(self, key: str) -> str:
        """Make one that is not mounted durable. Returns what tells it from any later state of it; empty: none."""
        ...

    def known(self) -> set[str]:
        """Every root that has anything on the disk, mounted or not."""
        ...


@dataclass(frozen=True, slots=True)
class Root:
    """What a program finds as `/`: a directory, or the disks that its own kernel makes one of."""

    path: Path
    """With disks it only shows the image."""
    drives: Drives | None = None


class Images(Protocol):
    """Where images come from."""

    async def resolve(self, reference: str, *, organization: str = "") -> ResolvedImage:
        """`organization` is the id of whoever's Machine it is for."""
        ...

    async def fetch(self, image: ResolvedImage) -> Image: ...

    async def config_of(self, image: ResolvedImage) -> bytes:
        """Its OCI config as it came, which is JSON."""
        ...

    @property
    def roots(self) -> Roots: ...


class Links(Protocol):
    """Where Machines are plugged in."""

    async def attach(self, attachment: Attachment) -> Path: ...

    async def reattach(self, attachment: Attachment) -> Path:
        """For what was plugged in before and has not run since: as it was, made anew where it is gone."""
        ...

    async def detach(self, attachment: Attachment) -> None: ...


class Snapshots(Protocol):
    """Where the memory of suspended Machines is, by incarnation."""

    def make(self, key: str) -> Path: ...

    def path(self, key: str) -> Path: ...

    async def seal(self, key: str) -> tuple[str, int]: ...

    async def check(self, key: str, sha256: str) -> None: ...

    async def remove(self, key: str) -> None: ...

    def known(self) -> set[str]: ...


async def _no_secrets(_: Machine) -> Mapping[str, str]:
    return {}


@dataclass(frozen=True, slots=True)
class Parts:
    """The rooms of the agent that steps use."""

    settings: HostSettings
    driver: Driver
    images: Images
    links: Links
    snapshots: Snapshots
    check_room: Callable[[Machine], None]
    """Raises `Aborted` when the host cannot take this Machine now."""
    accept: Callable[[Config], tuple[str, ...]] = lambda config: ()
    """What of a config has no effect here. Raises `InvalidArgument` for one that makes no sense here."""
    compile: Callable[[Machine, Surroundings], Sandbox] = compile_sandbox
    choice: Choice = field(default_factory=Choice)
    open_secrets: Callable[[Machine], Awaitable[Mapping[str, str]]] = _no_secrets
    """What a Machine is given of its app's secrets, by name."""
    boot: str = ""
    """Another after each boot of the host."""


class GaveWay(Exception):
    """The operation ended between two steps, for another to take over."""


@dataclass(slots=True)
class Work:
    """One operation under way. `machine` and `operation` are replaced as it goes on."""

    parts: Parts
    machine: Machine
    operation: Operation
    record_exit: Callable[[Exit], Awaitable[None]]
    alter: Callable[[Callable[[Machine], Machine]], Awaitable[None]]
    """Write something down that the next steps, or the next agent, go by."""
    hurry: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when someone cannot wait: graces end at once."""
    give_way: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when another operation wants to take over: a step that only waits then ends this one."""
    images: Mapping[str, Image] = field(default_factory=dict)
    """By container, as `Machine.references`."""
    image_configs: Mapping[str, bytes] = field(default_factory=dict)
    """What is written into files, by the name of the image."""
    roots: Mapping[str, Root] = field(default_factory=dict)
    netns: Path | None = None
    keeps_root: bool = False
    """Whether what was written to its root outlives a release."""
    timings_ms: dict[str, float] = field(default_factory=dict)

    @property
    def args(self) -> Any:
        return self.operation.args

    @property
    def attachment(self) -> Attachment:
        return attachment_of(self.machine)


def attachment_of(machine: Machine) -> Attachment:
    """Where this incarnation is plugged in."""
    if not machine.run_id:
        raise FailedPrecondition("machine has no incarnation")
    return Attachment(
        id=machine.run_id,
        number=machine.run_number,
        ipv4=machine.ipv4,
        ipv6=machine.private_ip,
        network_id=machine.network_id,
    )


def log_of(settings: HostSettings, machine_id: str, container: str = "") -> Path:
    """The file that holds the console of a Machine, or of one of several containers, over all its incarnations."""
    name = f"current.{container}.log" if container else "current.log"
    return settings.data_dir / "logs" / machine_id / name
