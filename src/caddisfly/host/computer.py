"""What an agent is built from: the parts of a computer.

The agent's own logic (journal, operations, catalog, calls) is the same on every computer; what touches the kernel, the
disk and the network comes from here. `ThisComputer` is the real one. `host/simulation.py` has one that is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import IO, Protocol

from caddisfly.host.builds.buildah import Destination
from caddisfly.host.builds.builds import Carrier
from caddisfly.host.builds.contexts import Contexts, Repositories
from caddisfly.host.builds.sandbox import GROUPS as BUILDS
from caddisfly.host.builds.sandbox import Workshop
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.capacity import Capacity
from caddisfly.host.checks.probe import Finding, probe
from caddisfly.host.drivers.driver import Sandbox
from caddisfly.host.drivers.oci.cgroups import ControlGroups, has_swap, layout
from caddisfly.host.drivers.oci.checkpoint import Quiet
from caddisfly.host.drivers.several import DriverOf, Several
from caddisfly.host.guest import Surroundings, compile_sandbox, host_nameservers
from caddisfly.host.images.image import Collected, LayerStatus, ResolvedImage, StoredImage, Verified
from caddisfly.host.images.settings import Credentials, ImageSettings
from caddisfly.host.images.store import ImageStore
from caddisfly.host.isolation import open_drivers
from caddisfly.host.journal.journal import Journal
from caddisfly.host.lock import HeldError, hold
from caddisfly.host.network.network import Attachment, Network
from caddisfly.host.operations.work import Images, Links, Roots
from caddisfly.host.settings import HostSettings
from caddisfly.model.check import CheckConfig
from caddisfly.model.config import Config
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.machine import Machine

_LOCK = Path("/run/caddisfly-agent.lock")


class HostImages(Images, Protocol):
    """Images, and what an operator may do with them."""

    @property
    def roots(self) -> Roots: ...

    def referenced_by(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Say which digests Machines need. Asked whenever something may be deleted."""
        ...

    async def import_archive(self, path: Path, *, name: str, select: str = "") -> ResolvedImage: ...

    async def pull(self, reference: str, *, credentials: Credentials | None = None) -> ResolvedImage: ...

    def status(self, reference: str) -> tuple[LayerStatus, ...]: ...

    def list(self) -> Sequence[StoredImage]: ...

    def show(self, name: str) -> tuple[ResolvedImage, tuple[LayerStatus, ...]]: ...

    async def remove(self, name: str) -> None: ...

    async def collect(self, *, all_unused: bool = False) -> Collected: ...

    async def verify(self, name: str = "") -> Verified: ...


class HostLinks(Links, Protocol):
    """Links, and which of them there are."""

    @property
    def firewall(self) -> str:
        """How the rules between Machines are, for people."""
        ...

    async def readmit(self, attachment: Attachment) -> None:
        """Let what is plugged in already through a firewall that was loaded anew."""
        ...

    async def known(self) -> frozenset[str]: ...

    async def discard(self, id: str) -> None: ...


class Computer(Protocol):
    """`open` comes before everything else, but for `capacity` and `journal`."""

    @property
    def capacity(self) -> Capacity: ...

    @property
    def journal(self) -> Journal: ...

    @property
    def images(self) -> HostImages: ...

    @property
    def links(self) -> HostLinks: ...

    @property
    def workshop(self) -> Carrier | None:
        """Where builds are carried out, if they are."""
        ...

    async def open(self, driver_of: DriverOf) -> Several:
        """Become this computer's one agent. Raises `FailedPrecondition` when there is another."""
        ...

    async def close(self) -> None:
        """Leave it to the next agent, with everything that runs."""
        ...

    def accept(self, config: Config) -> tuple[str, ...]:
        """What of a config has no effect on this computer, in words. Raises `InvalidArgument` if it makes no sense."""
        ...

    @property
    def runs_programs(self) -> bool:
        """Whether there is anyone in its Machines who could ask something."""
        ...

    async def probe(self, check: CheckConfig, address: str) -> Finding:
        """Ask a Machine whether it is well."""
        ...

    def compile(self, machine: Machine, surroundings: Surroundings) -> Sandbox:
        """From a Machine to a sandbox. Called in a thread."""
        ...


class ThisComputer:
    """The computer that this process runs on."""

    runs_programs = True

    def __init__(
        self,
        settings: HostSettings,
        images: ImageSettings | None = None,
        *,
        builds: BuildSettings | None = None,
        registry: Destination | None = None,
        repositories: Repositories | None = None,
    ) -> None:
        """Without a `registry`, to which results go, and its `repositories`, where contexts lie, nothing is built."""
        self._settings = settings
        self.capacity = Capacity(settings)
        self.journal = Journal(settings.data_dir / "journal.db")
        self.images = ImageStore(settings.data_dir / "images", settings=images)
        self.links = Network(pool=settings.ipv4_pool)
        self.workshop = (
            _workshop(
                settings, builds or BuildSettings(), images or ImageSettings(), registry, repositories, self.links
            )
            if registry is not None and repositories is not None
            else None
        )
        self._lock: IO[str] | None = None

    async def open(self, driver_of: DriverOf) -> Several:
        settings = self._settings
        self._lock = _claim()
        settings.run_dir.mkdir(parents=True, exist_ok=True)
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        await self.links.open()
        await self.images.open()
        # After these two, because a driver may look at mounts from a namespace of its own.
        return await open_drivers(settings, driver_of, quiet=Quiet(self.links, settings.suspend_drain_s))

    async def close(self) -> None:
        await self.images.close()
        await self.links.leave()
        if self._lock is not None:
            self._lock.close()

    def accept(self, config: Config) -> tuple[str, ...]:
        warnings = []
        if config.swap_mb and not has_swap():
            warnings.append("config.init.swap_size_mb has no effect: its host has no swap")
        if config.kernel_args:
            warnings.append("kernel_args have no effect: a container runs on the kernel of its host")
        return tuple(warnings)

    async def probe(self, check: CheckConfig, address: str) -> Finding:
        return await probe(check, address)

    def compile(self, machine: Machine, surroundings: Surroundings) -> Sandbox:
        return compile_sandbox(machine, surroundings)


def _workshop(
    settings: HostSettings,
    builds: BuildSettings,
    images: ImageSettings,
    registry: Destination,
    repositories: Repositories,
    network: Network,
) -> Workshop:
    return Workshop(
        run_dir=settings.run_dir,
        data_dir=settings.data_dir,
        settings=builds,
        images=images,
        network=network,
        contexts=Contexts(repositories, max_bytes=builds.disk_gb << 30),
        destination=registry,
        nameservers=settings.nameservers or host_nameservers(),
        groups=ControlGroups(layout(), parent=BUILDS),
    )


def _claim() -> IO[str]:
    """Become this computer's one agent. Raises `FailedPrecondition` naming the other.

    Namespaces, control groups and the firewall's table belong to the computer, not to a data directory: a second agent
    would take what the first one runs for litter.
    """
    try:
        return hold(_LOCK)
    except HeldError as other:
        raise FailedPrecondition(
            "another agent runs on this host", why=f"process {other} holds {_LOCK}", next="caddis status; caddis down"
        ) from None
