"""The contract that every driver fulfils.

A driver is handed a `Sandbox`: everything about one incarnation of a Machine and nothing about why it should run. It
must survive its caller: whatever it started keeps running, keeps its log and keeps its exit code when the agent is
killed, and `recover` finds all of it again. Abilities that not every driver has are separate protocols, so that a
caller asks `isinstance(behind(driver, id), Pausable)` and a driver never pretends.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, runtime_checkable

from caddisfly.host.processes import Process
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.machine import Exit
from caddisfly.model.program import GuestFile, RestartPolicy, StopConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`cores` is the ceiling in physical cores, `weight` the share (1-10000, 100 is one full core) under contention."""

    cores: float
    weight: int
    memory_mb: int
    pids: int
    swap_mb: int = 0
    """Beyond `memory_mb`, where the host has any."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """A file or directory of the host shown inside, read-only."""

    source: Path
    target: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Drives:
    """A root for a sandbox with a kernel of its own: files that it has as disks. `image` is read-only and shared.

    `scratch` is an ext4 file system with the directories `upper` and `work` of an overlay over the image. With `kept`
    it may have been there before, be smaller than its file, and is wanted again.
    """

    image: Path
    scratch: Path
    kept: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """One incarnation, ready to start. `id` is never used twice; `uid` and `gids` are numbers of the image's world.

    A dot in the id makes it one of a group: what stands before the dot names a control group that all of them are in,
    and `limits` holds for them together. `destroy` of the group's own name takes the group away.
    """

    id: str
    root: Path
    argv: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    uid: int
    gid: int
    gids: tuple[int, ...]
    hostname: str
    netns: Path | None
    """None means an empty network of its own."""
    binds: tuple[Bind, ...]
    limits: Limits
    log: Path
    members: tuple[Member, ...] = ()
    """When several programs run in it: `Pods` takes those apart, and no other driver is given any."""
    tty: bool = False
    """Whether its console is a terminal; both outputs are then one."""
    log_max_bytes: int = 0
    """A log that has grown past this is begun anew, also while nobody looks after it. 0: never."""
    organization: str = ""
    """Whose it is, for a driver that must know who may enter it."""
    drives: Drives | None = None
    """The root, for a driver that `TakesDrives`; `root` then only shows the image, read-only."""
    files: tuple[GuestFile, ...] = ()
    """What such a driver is to write into the root before the program starts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """One of several programs of an incarnation. The id of its sandbox is given to it when it starts."""

    name: str
    sandbox: Sandbox
    restart: RestartPolicy
    stop: StopConfig | None
    after: tuple[tuple[str, str], ...]
    """Names of members, and the condition that each must meet before this one starts."""
    essential: bool
    """Whether all end when this one does."""


@dataclass(frozen=True, slots=True)
class Running:
    """A live sandbox. `pid` is the host's number of its first process."""

    pid: int


@dataclass(frozen=True, slots=True)
class Ended:
    """A sandbox whose first process is gone, not yet destroyed."""

    exit: Exit


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A command to run inside a live sandbox. It inherits the sandbox's environment and user."""

    argv: tuple[str, ...]
    stdin: bytes = b""
    timeout_s: float
    container: str = ""
    """In which of several programs. Empty: the first that runs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandResult:
    exit_code: int
    stdout: bytes
    stderr: bytes


@dataclass(frozen=True, slots=True)
class Window:
    """The size of a terminal, in characters."""

    columns: int
    rows: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Attach:
    """A command to run inside a live sandbox with its streams open. It inherits the sandbox's environment."""

    argv: tuple[str, ...] = ()
    """Empty: a shell, the best one that is there."""
    window: Window | None = None
    """Gives it a terminal of this size, in which both outputs are one."""
    term: str = "xterm"
    """What the terminal can do, as `TERM`."""
    user: str = ""
    """As in `USER` of an image, looked up in the sandbox's own files. Empty: the sandbox's own."""
    container: str = ""
    """In which of several programs. Empty: the first that runs."""


STDIN, STDOUT, STDERR = 0, 1, 2


class Session(Protocol):
    """A command that runs with its streams open. It ends with `close` at the latest, and with this process."""

    async def read(self) -> tuple[int, bytes] | None:
        """What it prints next, and on which stream. None once it has ended and has printed everything."""
        ...

    async def write(self, data: bytes) -> None:
        """Give it input; returns once it has room for more. What it does not want is dropped."""
        ...

    async def end_input(self) -> None:
        """No more input. In a terminal that is Ctrl-D, which only means it where a line begins."""
        ...

    def resize(self, window: Window) -> None: ...

    async def signal(self, number: int) -> None:
        """Send a signal to the command itself. One that has ended ignores it."""
        ...

    async def wait(self) -> int:
        """Its exit code."""
        ...

    async def close(self) -> None:
        """Hang up: SIGHUP as for a terminal that is gone, and after a moment the end of what ignores that."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Stats:
    """CPU in nanoseconds since the start, memory in bytes, processes."""

    cpu_ns: int
    memory_bytes: int
    pids: int
    oom_kills: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fingerprint:
    """What really works here, found out by trying. `reason` says why not, and what would change it."""

    works: bool
    version: str = ""
    reason: str = ""
    abilities: frozenset[str] = field(default_factory=frozenset)


class Driver(Protocol):
    """Every call is idempotent and may be repeated after a crash."""

    name: str

    async def fingerprint(self) -> Fingerprint: ...

    def expect(self) -> None:
        """A start will follow in some milliseconds: what can be got ready meanwhile may be. Returns at once."""
        ...

    async def start(self, sandbox: Sandbox) -> Running:
        """Start it. Raises `Final` when this sandbox can never start, `Retryable` when the host was at fault."""
        ...

    async def signal(self, id: str, number: int) -> None:
        """Send a signal to its first process. A sandbox that has ended ignores it."""
        ...

    async def kill(self, id: str) -> None:
        """End every process in it at once."""
        ...

    async def wait(self, id: str) -> Exit:
        """Return once its first process is gone. May be awaited by a process that did not start it."""
        ...

    async def execute(self, id: str, command: Command) -> CommandResult:
        """Run a command beside the first process. Raises `DeadlineExceeded` after killing it."""
        ...

    async def stats(self, id: str) -> Stats: ...

    async def processes(self, id: str) -> frozenset[int]:
        """Its processes, by the host's numbers. Raises `Unimplemented` where they have none."""
        ...

    async def recover(self, id: str) -> Running | Ended | None:
        """What became of it: still running, ended with this exit, or never heard of."""
        ...

    async def destroy(self, id: str) -> None:
        """Remove every trace of it: processes, control groups, files of the driver. Not its root or its network."""
        ...

    async def known(self) -> frozenset[str]:
        """Ids of every sandbox that has a trace on this host."""
        ...


@runtime_checkable
class StandsBefore(Protocol):
    """Is a driver by means of others, which may differ in their abilities."""

    def behind(self, id: str) -> Driver: ...


def behind(driver: Driver, id: str) -> Driver:
    """Whoever has this sandbox in the end: it is this one that can do more than every driver, or cannot."""
    return behind(driver.behind(id), id) if isinstance(driver, StandsBefore) else driver


@runtime_checkable
class TakesDrives(Protocol):
    """Its sandboxes have kernels of their own, which want disks for a root, and no directory."""

    takes_drives: bool


@runtime_checkable
class ListsProcesses(Protocol):
    """Its sandboxes' processes have no numbers of the host: it asks the kernel that has them."""

    async def list_processes(self, id: str) -> list[Process]: ...


@runtime_checkable
class KeepsLog(Protocol):
    """Holds a sandbox's log open, and must be told when the file was moved away."""

    async def reopen_log(self, id: str) -> None: ...


@runtime_checkable
class StopsInOrder(Protocol):
    """Knows how each of the several programs of a sandbox wants to be stopped, and in which order."""

    async def stop(self, id: str, number: int) -> None:
        """Begin to end all of them. `number` is the signal for those that name none."""
        ...


@runtime_checkable
class Sizable(Protocol):
    """Can change the memory of what runs. Units are MiB; what is set ends with the sandbox."""

    async def stats(self, id: str) -> Stats: ...

    async def memory_limit(self, id: str) -> int: ...

    async def limit_memory(self, id: str, memory_mb: int) -> None:
        """Raises `FailedPrecondition` when more than that is in use and cannot be taken back."""
        ...

    async def reclaim_memory(self, id: str, memory_mb: int) -> int:
        """Take back what can be had again, such as cached files. Returns how much that was."""
        ...


@runtime_checkable
class Pausable(Protocol):
    """Can freeze all processes where they are, keeping memory, and let them go on."""

    async def pause(self, id: str) -> None: ...

    async def unpause(self, id: str) -> None: ...


class NotSuspended(FailedPrecondition):
    """A suspend came to nothing, and the sandbox runs on as if nobody had asked. Why is shown to people."""


class Unusable(FailedPrecondition):
    """Nothing can be resumed from this snapshot, now or later. Nothing of it has run, and no trace of it is left."""


@runtime_checkable
class Suspendable(Protocol):
    """Can write a live sandbox to disk, memory and all, and let it go on from there, also after a reboot.

    The agent calls, in this order, and may die between any two lines:

        snapshot_build(id)          into the journal, with what became of the files
        suspend(id, directory)      an empty directory on a disk that outlives a reboot; only root may enter it
        destroy(id)                 as always: processes and traces go, the root and what is in `directory` stay
                                    ... the root may be unmounted, and mounted again at the same path
        snapshot_build(id)          another than before: `resume` is not even tried
        resume(sandbox, directory)  the same id, root, network and addresses as when it was started
                                    ... then the agent removes `directory`, also while the driver has files in it open

    The agent makes files durable, keeps their checksum, and compares it before `resume`. A snapshot is resumed from
    once: what runs on from it changes the root, and old memory on a new disk is worse than none. So `recover` must say
    `Running` or `Ended`, not None, of a sandbox of which a `resume` that was cut short may have executed anything.
    """

    def snapshot_build(self, id: str) -> str:
        """What makes snapshots of this sandbox: those of another build cannot be resumed here.

        A program with its version, and what of this computer it depends on. Raises `FailedPrecondition` with words
        for people where this sandbox can never be suspended.
        """
        ...

    async def suspend(self, id: str, directory: Path) -> None:
        """Write its memory into `directory`. When this returns, nothing of it executes any more.

        It may still have its memory, standing still. Said again, also by another agent after a crash, it takes up what
        was begun. Raises `NotSuspended` when it runs on; after any other error the caller asks `recover`, and takes a
        sandbox that still runs for one that runs on.
        """
        ...

    async def keep_running(self, id: str) -> bool:
        """Someone needs it now: undo a suspend, one that is under way or one that has just returned.

        Either it has its memory and runs on from this moment (a `suspend` that is awaited then raises `NotSuspended`),
        or it is too late for that, the answer is False, and the suspend ends as if nobody had asked.
        """
        ...

    async def resume(self, sandbox: Sandbox, directory: Path) -> Running:
        """Let it go on where it was, its clock right and its sources of randomness fed anew.

        Said again of what runs, it only says so. Raises `Unusable` when that snapshot is to blame, `Retryable` when the
        host is. After any other error the caller asks `recover`, which must not say None of what may have run.
        """
        ...


@runtime_checkable
class Attachable(Protocol):
    """Can run a command with its streams open, in a terminal or without one."""

    async def attach(self, id: str, wanted: Attach) -> Session:
        """Returns once it runs. Raises `InvalidArgument` for a program, a shell or a user that is not there."""
        ...
