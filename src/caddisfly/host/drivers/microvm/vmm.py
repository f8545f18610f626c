"""What stands between the driver and a VMM: one driver, several programs that can run a virtual machine.

The driver knows the guest: kernel, initramfs, drives, exit codes, who may enter. A `Vmm` knows its program: the command
line, how to talk to it. Neither holds a process. conmon does, as it does for containers (docs/decisions/0018): it
outlives the agent, writes what the program prints on its two outputs to the Machine's log, and sees it end. So nothing
here kills, waits or asks whether something is alive, and pausing is the control group's business.

    launch   what conmon is to run, unprivileged, inside the sandbox's control groups
    boot     once that process is there: what remains to be said to it, until the guest's kernel runs
    tell     a line to the guest's init, also before it listens: it must not be lost
    shell    a stream to the guest's sshd, which the guest opens when it is told to
    save     the whole state into a file, with the guest standing still; it never goes on afterwards
    resume   it does, after a save that failed

What the guest's program prints must come out of the process's stdout and stderr, or all of it of stdout where there is
only one way out. What the VMM itself has to say must go elsewhere: it is not the tenant's.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from caddisfly.host.drivers.driver import Fingerprint

GOING = "going"
"""A file in a machine's directory, made before what was saved is let go on: from then on it may have run."""

_UIDS = 2_000_000_000
"""Users of VMMs begin here: beyond what distributions, directories and user namespaces give out."""
_UID_COUNT = 100_000_000

Role = Literal["image", "tools", "config", "status", "scratch", "swap"]
"""What a drive is for. The guest is told on its command line which disk, vda first, has which role."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Drive:
    """A raw file that the guest sees as a disk."""

    role: Role
    path: Path
    writable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tap:
    """Where the guest's network card is plugged in: `name` is bridged to the Machine's link in its namespace."""

    netns: Path
    name: str
    mac: str
    mtu: int = 1500


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """One virtual machine, ready to start. `directory` is its own, of root alone, and empty after a reboot."""

    id: str
    directory: Path
    kernel: Path
    """An ELF `vmlinux` with a PVH note on x86_64, an `Image` on aarch64."""
    initrd: Path
    words: tuple[str, ...]
    """Of the kernel's command line: those that the guest needs. The VMM adds those that it needs."""
    vcpus: int
    memory_mb: int
    drives: tuple[Drive, ...]
    """In the order in which the guest is to see them."""
    tap: Tap | None
    uid: int
    """Of nobody else on this host. The process must run as this user, without any capability."""
    terminal: bool = False
    """Whether the guest's console is a terminal, with one output."""
    saved: Path | None = None
    """Go on from this state, written by `save`, in place of booting. All else is as it was then."""
    template: Path | None = None
    """Go on from this state of a guest that stood still as `halts` says, in place of booting. Only what makes up its
    shape is as it was then (templates.py)."""
    halts: bool = False
    """The guest is to stand still once, just before it looks for its devices, for a `Clones` that asks for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """A command for conmon. The caller closes the descriptors once it is started; each has the same number inside."""

    argv: tuple[str, ...]
    descriptors: tuple[int, ...] = field(default=())
    errors: int | None = None
    """The end of a pipe, from which the caller reads what the VMM itself has to say until the guest is up."""


class Vmm(Protocol):
    """Calls may come from an agent that did not start the process: everything they need is in the directory."""

    name: str
    """As in `qemu`, `firecracker`."""

    @property
    def build(self) -> str:
        """Changes whenever a saved state could no longer be read. Known after `fingerprint`."""
        ...

    async def fingerprint(self) -> Fingerprint:
        """Whether its program is here and what it would use, without booting a guest: the driver does that."""
        ...

    async def launch(self, spec: Spec) -> Launch:
        """Raises `Final` when this can never be started, `Retryable` when the host was at fault."""
        ...

    async def boot(self, spec: Spec) -> None:
        """Return once the guest's kernel is under way, or the state is loaded and goes on."""
        ...

    async def tell(self, directory: Path, line: str) -> None:
        """Raises `Unavailable` when there is no room for more, which takes a guest that does not listen."""
        ...

    async def shell(self, directory: Path) -> socket.socket:
        """Connect. One at a time. Raises `Unavailable` when nobody is there."""
        ...

    async def save(self, directory: Path, target: int) -> None:
        """Stop the guest and write its state to an open file. Raises `Problem` with the guest still standing."""
        ...

    async def resume(self, directory: Path) -> None: ...


@runtime_checkable
class Balloons(Protocol):
    """Can change how much memory a running guest has, up to what it was started with. Units are MiB."""

    async def memory(self, directory: Path) -> int: ...

    async def set_memory(self, directory: Path, memory_mb: int) -> None:
        """Ask for it. The guest gives back what it can, in its own time, and `memory` says how far it has come."""
        ...


@runtime_checkable
class Clones(Protocol):
    """Can let a guest go on from where another one stood before it had looked for its devices."""

    @property
    def clones(self) -> bool:
        """Whether that was measured to be worth it and safe, on this kind of processor."""
        ...

    async def halted(self, directory: Path) -> None:
        """Return once a guest that `halts` stands still; `resume` lets it go on. Raises `Unavailable`."""
        ...


def user_of(id: str) -> int:
    """Whose process a sandbox's is. Nobody else's: an incarnation's number is never used twice on a host."""
    digits = id.rpartition("-")[2]
    number = int(digits, 16) if re.fullmatch(r"[0-9a-f]{1,8}", digits) else 0
    return _UIDS + number % _UID_COUNT
