"""The `oci` driver: a Machine as an OCI container under conmon.

Everything it knows of a sandbox is in one directory on a file system that a reboot empties:

    <run_dir>/sandboxes/<id>/   config.json   pid   conmon.pid   exit/<id>   started   resuming

`started` is written last. A sandbox without it was interrupted half-way and counts as never started, unless it is one
that was resumed: that runs as soon as its memory is there, and `resuming` is written before.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import os
import shutil
import signal
import tempfile
from dataclasses import replace
from pathlib import Path

from caddisfly.host.drivers.driver import (
    Attach,
    Bind,
    Command,
    CommandResult,
    Ended,
    Fingerprint,
    Limits,
    Running,
    Sandbox,
    Session,
    Stats,
    Unusable,
)
from caddisfly.host.drivers.oci import checkpoint, command, entry, session
from caddisfly.host.drivers.oci.bundle import specification
from caddisfly.host.drivers.oci.cgroups import ControlGroups, layout
from caddisfly.host.drivers.oci.checkpoint import Quiet, Suspending
from caddisfly.host.drivers.oci.conmon import Shim, gone
from caddisfly.host.drivers.oci.init import INIT, INIT_BINARY, holds_signals
from caddisfly.host.drivers.oci.runtime import Name, Runtime, outdated
from caddisfly.model.errors import FailedPrecondition, Internal, Problem, Unavailable, Unimplemented
from caddisfly.model.machine import Exit, wall_ms

log = logging.getLogger(__name__)

ABILITIES = frozenset({"programs", "limits", "several"})
_PAUSES = frozenset({"pause"})
_SUSPENDS = frozenset({"suspend"})
_REMOVE_TRIES = 50
_REMOVE_WAIT_S = 0.02
_FREEZE_LOOK_S = 0.002


class OciDriver:
    """Machines as OCI containers. `choose` and `installed` find the runtime; the rest is the contract of drivers."""

    def __init__(
        self,
        *,
        run_dir: Path,
        runtime: Runtime,
        groups: ControlGroups,
        timeout_s: float = 30.0,
        quiet: Quiet | None = None,
    ) -> None:
        """Without `quiet` nothing can be suspended."""
        self._sandboxes = run_dir / "sandboxes"
        self._sandboxes.mkdir(parents=True, exist_ok=True)
        self._sandboxes.chmod(0o700)  # a bundle says with which environment, so with which secrets, it is run
        self._runtime, self._groups, self._timeout_s = runtime, groups, timeout_s
        self.name = f"oci/{runtime.name}"
        self._warming: asyncio.Task[None] | None = None
        self._quiet = quiet
        self._suspending: dict[str, Suspending] = {}
        self._met: set[str] = set()
        """Sandboxes in which every command is one that this driver began."""

    @property
    def runtime(self) -> str:
        return self._runtime.name

    @classmethod
    async def choose(cls, *, run_dir: Path, wanted: str, timeout_s: float, quiet: Quiet | None = None) -> OciDriver:
        """The wanted runtime, or the first that proves to work. Raises `FailedPrecondition` when none does."""
        names: tuple[Name, ...] = ("crun", "runc") if wanted == "auto" else (wanted,)  # type: ignore[assignment]
        reasons = []
        for name in names:
            try:
                driver = cls.installed(name, run_dir=run_dir, timeout_s=timeout_s, quiet=quiet)
            except FailedPrecondition as problem:
                reasons.append(str(problem))
                continue
            found = await driver.fingerprint()
            if found.works:
                log.info("driver.chosen", extra={"runtime": name, "version": found.version, "cgroups": layout()})
                return driver
            reasons.append(f"{name}: {found.reason}")
        raise FailedPrecondition("no OCI runtime works on this host", why="; ".join(reasons), next="caddis doctor")

    @classmethod
    def installed(cls, name: Name, *, run_dir: Path, timeout_s: float, quiet: Quiet | None = None) -> OciDriver:
        """With this runtime, which was not tried. Raises `FailedPrecondition` when it is not installed."""
        groups = ControlGroups(layout())
        runtime = Runtime.install(name, directory=run_dir, groups=groups)
        return cls(run_dir=run_dir, runtime=runtime, groups=groups, timeout_s=timeout_s, quiet=quiet)

    async def fingerprint(self) -> Fingerprint:
        """Run a real sandbox with real limits, and see that it ran inside them."""
        if not INIT_BINARY.exists():
            return Fingerprint(works=False, reason=f"{INIT_BINARY} is missing: apt-get install tini")
        id = f"probe-{os.getpid():07d}-{wall_ms() % 1_000_000:06d}"
        try:
            version = (await self._runtime.run("--version", timeout_s=self._timeout_s)).split("\n")[0]
            if refusal := outdated(self._runtime.name, version):
                return Fingerprint(works=False, version=version, reason=refusal)
            with tempfile.TemporaryDirectory(prefix="caddis-probe-") as root:
                Path(root).chmod(0o755)  # the probe is not root and must reach its own /
                await self.start(_probe(id, Path(root)))
                ended = await asyncio.wait_for(self.wait(id), self._timeout_s)
                counted = self._groups.stats(id).cpu_ns
                await self.destroy(id)
        except (Problem, TimeoutError) as problem:
            await self._tidy_probe(id)
            return Fingerprint(works=False, reason=str(problem) or "no answer in time")
        if ended.exit_code != 0:
            return Fingerprint(works=False, version=version, reason=f"a probe ended with {ended.exit_code}")
        if not counted and self._runtime.name != "runsc":
            return Fingerprint(works=False, version=version, reason="its processes escape the control groups")
        abilities = ABILITIES if self._runtime.name == "runsc" else ABILITIES | _PAUSES
        if not self._cannot_suspend:
            abilities |= _SUSPENDS
        return Fingerprint(works=True, version=version, abilities=abilities)

    async def _tidy_probe(self, id: str) -> None:
        try:
            await self.destroy(id)
        except Problem as problem:
            log.warning("driver.probe_left", extra={"id": id, "reason": str(problem)})

    def expect(self) -> None:
        if self._warming is None or self._warming.done():
            self._warming = asyncio.create_task(asyncio.to_thread(self._groups.warm), name="warm-groups")

    async def start(self, sandbox: Sandbox) -> Running:
        found = await self.recover(sandbox.id)
        if isinstance(found, Running):
            return found
        self._met.add(sandbox.id)
        shim = self._shim(sandbox.id)
        try:
            pid = await self._make(shim, sandbox)
            await self._runtime.run("start", sandbox.id, timeout_s=self._timeout_s)
            if self._runtime.name != "runsc":  # its host process is gVisor's kernel, which holds them from the start
                await holds_signals(pid, timeout_s=self._timeout_s)
        except Problem:
            await self.destroy(sandbox.id)
            raise
        (shim.directory / "started").touch()
        return Running(pid)

    async def _make(self, shim: Shim, sandbox: Sandbox, *, memory: Path | None = None) -> int:
        """Its bundle, its groups, its conmon. Returns the pid of its first process, which goes on from `memory`."""
        shim.directory.mkdir(exist_ok=True)
        sandbox.log.parent.mkdir(parents=True, exist_ok=True)
        tools = () if self._cannot_suspend else (checkpoint.BIND,)
        binds = (Bind(source=INIT_BINARY, target=INIT), *tools, *sandbox.binds)
        own = self._runtime.makes_groups
        config = specification(
            replace(sandbox, binds=binds),
            cgroups_path=self._groups.path(sandbox.id) if own else None,
            with_seccomp=self._runtime.name != "runsc",
        )
        (shim.directory / "config.json").write_text(json.dumps(config))
        group, dot, _ = sandbox.id.partition(".")
        if dot:
            self._groups.limit(group, sandbox.limits)
        joins = () if own else self._groups.make(sandbox.id, None if dot else sandbox.limits)
        return await shim.create(self._runtime, sandbox, groups=joins, timeout_s=self._timeout_s, memory=memory)

    @property
    def _cannot_suspend(self) -> str:
        return checkpoint.unavailable(self._runtime.name, self._quiet)

    def snapshot_build(self, id: str) -> str:
        checkpoint.must_be(self._cannot_suspend)
        return checkpoint.build(self.name)

    async def suspend(self, id: str, directory: Path) -> None:
        checkpoint.must_be(self._cannot_suspend)
        assert self._quiet is not None
        if not isinstance(await self.recover(id), Running):
            raise FailedPrecondition("machine not running", why="it ended before its memory was written")
        suspending = self._suspending[id] = Suspending(
            id,
            directory=self._shim(id).directory,
            runtime=self._runtime,
            quiet=self._quiet,
            execute=self.execute,
            timeout_s=self._timeout_s,
        )
        try:
            await suspending.run(directory)
        finally:
            del self._suspending[id]

    async def keep_running(self, id: str) -> bool:
        suspending = self._suspending.get(id)
        return suspending is not None and suspending.keep_running()

    async def resume(self, sandbox: Sandbox, directory: Path) -> Running:
        checkpoint.must_be(self._cannot_suspend)
        found = await self.recover(sandbox.id)
        if isinstance(found, Running):
            return found
        await self.destroy(sandbox.id)
        shim = self._shim(sandbox.id)
        shim.directory.mkdir(exist_ok=True)
        (shim.directory / "resuming").touch()
        try:
            pid = await self._make(shim, sandbox, memory=directory)
        except Internal as problem:
            await self.destroy(sandbox.id)
            raise Unusable("gVisor cannot go on from its memory", why=problem.why[-500:]) from problem
        (shim.directory / "started").touch()
        return Running(pid)

    async def signal(self, id: str, number: int) -> None:
        shim = self._shim(id)
        # While conmon lives it has not reaped the process, so the number cannot have been taken over by another.
        pid = shim.pid() if shim.own_pid() is not None and shim.exit_code() is None else None
        if pid is None:
            return
        if self._runtime.name == "runsc" and number != signal.SIGKILL:
            # The host's process is gVisor's kernel, not the Machine's program: only gVisor can pass a signal on.
            await self._runtime.run("kill", id, str(number), timeout_s=self._timeout_s)
        else:
            _send(pid, number)

    async def kill(self, id: str) -> None:
        await self.signal(id, signal.SIGKILL)
        for pid in self._groups.processes(id):
            _send(pid, signal.SIGKILL)
        self._groups.thaw(id)  # version 1 does not let a frozen process die

    async def memory_limit(self, id: str) -> int:
        return self._groups.memory_limit(id) >> 20

    async def limit_memory(self, id: str, memory_mb: int) -> None:
        await asyncio.to_thread(self._groups.limit_memory, id, memory_mb << 20)

    async def reclaim_memory(self, id: str, memory_mb: int) -> int:
        before = self._groups.stats(id).memory_bytes
        await asyncio.to_thread(self._groups.reclaim_memory, id, memory_mb << 20)
        return max(0, before - self._groups.stats(id).memory_bytes) >> 20

    async def pause(self, id: str) -> None:
        await self._freeze(id, frozen=True)

    async def unpause(self, id: str) -> None:
        await self._freeze(id, frozen=False)

    async def _freeze(self, id: str, *, frozen: bool) -> None:
        if self._runtime.name == "runsc":
            raise Unimplemented("this machine cannot be paused", why="gVisor's kernel keeps time of its own")
        async with asyncio.timeout(self._timeout_s):
            # The kernel freezes one task after the other and says when all are.
            while not self._groups.freeze(id, frozen=frozen):  # noqa: ASYNC110 - version 1 tells nobody
                await asyncio.sleep(_FREEZE_LOOK_S)

    async def wait(self, id: str) -> Exit:
        shim = self._shim(id)
        pid = shim.own_pid()
        if pid is not None:
            await gone(pid)
        return await self._ended(shim)

    async def _ended(self, shim: Shim) -> Exit:
        code = shim.exit_code()
        if code is None:
            # conmon was killed: its sandbox has lost its console and its witness, and must not run on unseen.
            await self.kill(shim.id)
            return Exit(exit_code=137, signal=9, error="the supervisor of its sandbox was killed", at_ms=wall_ms())
        number = code - 128 if 128 < code <= 192 else -1
        oom = code == 137 and self._groups.stats(shim.id).oom_kills > 0
        at_ms = int(shim.exit_file.stat().st_mtime * 1000)
        return Exit(exit_code=code, signal=number, oom_killed=oom, at_ms=at_ms)

    async def execute(self, id: str, wanted: Command) -> CommandResult:
        directory, joins = self._way_into(id)
        return await command.execute(self._runtime, id, wanted, directory=directory, groups=joins)

    async def attach(self, id: str, wanted: Attach) -> Session:
        directory, joins = self._way_into(id)
        return await session.attach(
            self._runtime, id, wanted, directory=directory, groups=joins, timeout_s=self._timeout_s
        )

    def _way_into(self, id: str) -> tuple[Path, tuple[Path, ...]]:
        """Where the files of a command go, and the control groups that it is to be started in."""
        shim = self._shim(id)
        if shim.own_pid() is None or shim.exit_code() is not None:
            raise FailedPrecondition("machine not running")
        if self._runtime.makes_groups:
            return shim.directory, ()
        return shim.directory, tuple(group for group in self._groups.directories(id) if group.is_dir())

    async def _end_leftovers(self, id: str) -> None:
        """Commands that an agent before this one began in a sandbox: nobody reads what they print."""
        if id in self._met:
            return
        self._met.add(id)
        for left in entry.leftovers(self._runtime, self._sandboxes / id):
            await entry.end_leftover(left, self._groups.processes(id))

    async def stats(self, id: str) -> Stats:
        return self._groups.stats(id)

    async def processes(self, id: str) -> frozenset[int]:
        if self._runtime.name == "runsc":
            raise Unimplemented(
                "the processes of this machine cannot be listed", why="gVisor keeps them from the host", next="exec ps"
            )
        return self._groups.processes(id)

    async def recover(self, id: str) -> Running | Ended | None:
        shim = self._shim(id)
        pid = shim.pid()
        begun = (shim.directory / "started").exists()
        if not begun and (shim.directory / "resuming").exists():
            begun = shim.own_pid() is not None or shim.exit_code() is not None
        if pid is None or not begun:
            return None
        await self._end_leftovers(id)
        if shim.exit_code() is not None or shim.own_pid() is None:
            return Ended(await self._ended(shim))
        return Running(pid)

    async def destroy(self, id: str) -> None:
        self._met.discard(id)
        shim = self._shim(id)
        await self.kill(id)
        pid = shim.own_pid()
        if pid is not None:
            await asyncio.wait_for(gone(pid), self._timeout_s)
        if self._runtime.name == "runsc":
            # Nothing of it runs any more, and its own `delete` panics over what was paused.
            for file in self._runtime.state.glob(f"{id}_*"):
                file.unlink()
        elif (self._runtime.state / id).exists():
            await self._runtime.run("delete", "--force", id, timeout_s=self._timeout_s)
        await self._remove_groups(id)
        if shim.directory.exists():
            await asyncio.to_thread(shutil.rmtree, shim.directory)

    async def _remove_groups(self, id: str) -> None:
        for attempt in range(_REMOVE_TRIES):
            try:
                self._groups.remove(id)
            except Unavailable:
                # The kernel lets a killed process linger in its group for some milliseconds.
                await self.kill(id)
                if attempt == _REMOVE_TRIES - 1:
                    raise
                await asyncio.sleep(_REMOVE_WAIT_S)
            else:
                return

    async def known(self) -> frozenset[str]:
        found = {entry.name for entry in self._sandboxes.iterdir()} | self._groups.known()
        return frozenset(found | {entry.name for entry in self._runtime.state.iterdir() if entry.is_dir()})

    async def reopen_log(self, id: str) -> None:
        """Make conmon open its log file again, after the old one was renamed."""
        shim = self._shim(id)
        if shim.own_pid() is not None:
            await asyncio.to_thread(_order, shim.control, b"2 0 0\n")

    def _shim(self, id: str) -> Shim:
        return Shim(id, self._sandboxes / id)


def _probe(id: str, root: Path) -> Sandbox:
    return Sandbox(
        id=id,
        root=root,
        argv=(INIT, "--version"),
        env=("PATH=/",),
        cwd="/",
        uid=65534,
        gid=65534,
        gids=(),
        hostname="probe",
        netns=None,
        binds=(),
        limits=Limits(cores=1.0, weight=100, memory_mb=128, pids=512),
        log=root / "log",
    )


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except OSError as error:
        raise Internal(f"cannot signal process {pid}", why=str(error)) from error


def _order(fifo: Path, line: bytes) -> None:
    try:
        descriptor = os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError as error:
        if error.errno in (errno.ENXIO, errno.ENOENT):  # conmon has just gone
            return
        raise
    try:
        os.write(descriptor, line)
    finally:
        os.close(descriptor)
