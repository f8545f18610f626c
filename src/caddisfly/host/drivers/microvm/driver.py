"""The `microvm` driver: a Machine as a virtual machine, whose VMM conmon holds.

Everything it knows of a sandbox is in one directory on a file system that a reboot empties:

    <run_dir>/microvms/<id>/   config  status  command  pid  conmon.pid  exit/<id>  started  killed

and what the VMM adds. `started` is written once the guest has said that its program runs. How that ended is on the
status drive; that its VMM ended otherwise is what conmon saw.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path
from socket import socket

from caddisfly.host.drivers.driver import (
    Attach,
    Command,
    CommandResult,
    Ended,
    Fingerprint,
    NotSuspended,
    Running,
    Sandbox,
    Session,
    Stats,
    Unusable,
)
from caddisfly.host.drivers.microvm import config, holder, link, memory, probe, processes, status, witness
from caddisfly.host.drivers.microvm.doorway import Authorities
from caddisfly.host.drivers.microvm.exec import Entrance
from caddisfly.host.drivers.microvm.holder import Holder
from caddisfly.host.drivers.microvm.kernel import GUEST
from caddisfly.host.drivers.microvm.parts import Parts
from caddisfly.host.drivers.microvm.passage import Passages
from caddisfly.host.drivers.microvm.templates import Templates
from caddisfly.host.drivers.microvm.vmm import GOING, Balloons, Drive, Launch, Spec, Vmm, user_of
from caddisfly.host.drivers.oci.cgroups import ControlGroups
from caddisfly.host.drivers.oci.conmon import Shim, gone, unless_gone
from caddisfly.host.processes import Process
from caddisfly.model.errors import DeadlineExceeded, FailedPrecondition, Internal, Problem, Unavailable, Unimplemented
from caddisfly.model.machine import Exit

log = logging.getLogger(__name__)

ABILITIES = frozenset({"programs", "pause", "suspend"})
_OVERHEAD_MB = 192
"""What a VMM needs beside its guest's memory: QEMU's translated code is 64 of it."""
_VMM_PIDS = 64
_LOOK_S = 0.02
_FREEZE_LOOK_S = 0.002
_BALLOON_S, _FORGET_S = 10.0, 2.5
_REMOVE_TRIES, _REMOVE_WAIT_S = 50, 0.02
_ERRORS_MAX = 16 * 1024


class MicrovmDriver:
    """Machines as virtual machines. The contract is in drivers/driver.py, the guest's in guest/init."""

    takes_drives = True

    def __init__(
        self,
        *,
        run_dir: Path,
        data_dir: Path,
        vmm: Vmm,
        groups: ControlGroups,
        guest: Path = GUEST,
        boot_timeout_s: float = 60.0,
    ) -> None:
        """`guest` is where what only guests use was unpacked; what is made of it goes to `data_dir`."""
        self._machines = run_dir / "microvms"
        self._machines.mkdir(parents=True, exist_ok=True)
        self._machines.chmod(0o700)
        self._data = data_dir
        self._data.mkdir(parents=True, exist_ok=True)
        self._proved = run_dir / "microvm-proved"
        self._vmm, self._groups, self._guest, self._boot_timeout_s = vmm, groups, guest, boot_timeout_s
        self._holder = Holder.install(vmm.name, directory=run_dir)
        self._authorities = Authorities(data_dir / "authorities")
        self._templates = Templates(data_dir / "templates", vmm)
        self._entrances: dict[str, Entrance] = {}
        self._passages = Passages(self._authorities)
        self._needed: set[str] = set()
        """Sandboxes that were to be suspended, when somebody came who needs them."""
        self.name = f"microvm/{vmm.name}"

    async def fingerprint(self) -> Fingerprint:
        """Boot a real guest, and see that its program ran in it. Once for each build of what it is made of."""
        found = await self._vmm.fingerprint()
        if not found.works:
            return found
        try:
            parts = await asyncio.to_thread(Parts.ready, self._data / "parts", guest=self._guest)
            build = f"{self._vmm.build} {parts.key}"
            if not (self._proved.exists() and self._proved.read_text() == build):
                ended = await probe.run(self, parts.probe, directory=self._data, timeout_s=self._boot_timeout_s)
                if ended.exit_code != 0:
                    return replace(found, works=False, reason=f"a probe ended with {ended.exit_code} {ended.error}")
                self._proved.write_text(build)
        except (Problem, OSError, TimeoutError) as problem:
            return replace(found, works=False, reason=str(problem) or "no answer in time")
        return replace(found, abilities=ABILITIES | found.abilities)

    def expect(self) -> None:
        """A boot takes so long that nothing is worth getting ready for it."""

    async def start(self, sandbox: Sandbox) -> Running:
        found = await self.recover(sandbox.id)
        return found if isinstance(found, Running) else await self._begin(sandbox)

    async def _begin(self, sandbox: Sandbox, saved: Path | None = None) -> Running:
        """Boot it, or let it go on from what was saved."""
        if "." in sandbox.id:
            raise FailedPrecondition(
                "a microVM runs one program", why="this machine has several", next="run it as containers"
            )
        (self._machines / sandbox.id).mkdir(exist_ok=True)
        sandbox.log.parent.mkdir(parents=True, exist_ok=True)
        template = None
        try:
            spec = replace(await asyncio.to_thread(self._prepare, sandbox), saved=saved)
            await self._passages.open(sandbox.id, self._machines / sandbox.id)
            if saved is None:
                template = self._templates.find(spec, sandbox.organization)
                halts = template is None and self._templates.wanted(spec, sandbox.organization)
                spec = replace(spec, template=template, halts=halts)
            return await self._boot(sandbox, spec)
        except BaseException as error:
            await self.destroy(sandbox.id)
            if template is not None and isinstance(error, OSError | Problem) and not isinstance(error, _Refused):
                log.warning("microvm.template_dropped", extra={"sandbox": sandbox.id, "reason": str(error)})
                self._templates.drop(template)
                return await self._begin(sandbox)
            if isinstance(error, OSError):
                raise Unavailable("a microVM cannot be started", why=str(error)) from error
            raise

    async def _boot(self, sandbox: Sandbox, spec: Spec) -> Running:
        shim = self._shim(sandbox.id)
        launch = await self._vmm.launch(spec)
        try:
            holder.prepare(shim.bundle, launch.argv)
            limits = replace(
                sandbox.limits,
                memory_mb=sandbox.limits.memory_mb + _OVERHEAD_MB,
                swap_mb=0,
                pids=_VMM_PIDS + sandbox.limits.pids,
            )
            began = sandbox.log.stat().st_size if sandbox.log.exists() else 0
            (shim.directory / "log").write_text(f"{began} {sandbox.log}")
            pid = await shim.create(
                self._holder,
                replace(sandbox, tty=False),
                groups=self._groups.enclose(sandbox.id, limits),
                timeout_s=self._boot_timeout_s,
                descriptors=launch.descriptors,
            )
            for descriptor in launch.descriptors:
                os.close(descriptor)
            launch = replace(launch, descriptors=())
            if not await unless_gone(pid, self._come_up(spec, sandbox.organization)):
                raise _not_booted(self._said(shim, launch))
            if spec.saved is None:
                await self._program_started(shim, launch)
        finally:
            for descriptor in (*launch.descriptors, *filter(None, [launch.errors])):
                os.close(descriptor)
        (shim.directory / "started").touch()
        return Running(pid)

    async def _come_up(self, spec: Spec, organization: str) -> None:
        await self._vmm.boot(spec)
        if spec.halts:
            await self._templates.make(spec, organization)

    def snapshot_build(self, id: str) -> str:
        if self._swap(id).exists():
            raise FailedPrecondition("a machine with swap cannot be suspended", why="swap is no part of its memory")
        return f"{self._vmm.build} {Parts.ready(self._data / 'parts', guest=self._guest).key}"

    async def suspend(self, id: str, directory: Path) -> None:
        machine = self._running(id)
        self._needed.discard(id)
        await self._leave(id)
        try:
            await memory.save(self._vmm, machine, directory)
        except Problem as problem:
            await self._go_on(machine)
            raise NotSuspended("the microVM was not suspended", why=str(problem)) from problem
        if id in self._needed:
            raise NotSuspended("the microVM was not suspended", why="it was needed meanwhile")

    async def keep_running(self, id: str) -> bool:
        self._needed.add(id)
        try:
            await self._go_on(self._running(id))
        except Problem as problem:
            log.warning("microvm.not_kept", extra={"sandbox": id, "reason": str(problem)})
            return False
        return True

    async def _go_on(self, machine: Path) -> None:
        await self._vmm.resume(machine)
        await self._tell_time(machine)

    async def resume(self, sandbox: Sandbox, directory: Path) -> Running:
        found = await self.recover(sandbox.id)
        if isinstance(found, Running):
            return found
        machine = self._machines / sandbox.id
        async with memory.opened(directory) as saved:
            try:
                running = await self._begin(sandbox, saved)
            except (Unavailable, Internal) as problem:
                raise Unusable("its memory cannot be taken up", why=str(problem)) from problem
        (machine / "started").touch()
        await self._tell_time(machine)
        return running

    async def _tell_time(self, machine: Path) -> None:
        """The guest's clock stood still, and what it takes for random is what another may have gone on from."""
        await self._vmm.tell(machine, f"clock {time.time():.0f} {secrets.token_hex(64)}")

    def _prepare(self, sandbox: Sandbox) -> Spec:
        """Everything that the guest finds. Blocks."""
        if sandbox.drives is None:
            raise Internal("a microVM was given no drives")
        directory = self._machines / sandbox.id
        parts = Parts.ready(self._data / "parts", guest=self._guest)
        card = link.join(sandbox.netns, id=sandbox.id) if sandbox.netns else None
        status.prepare(directory / "status")
        (directory / "organization").write_text(sandbox.organization)
        config.write(
            directory / "config",
            sandbox,
            addresses=card.addresses if card else None,
            doorway=self._authorities.files(sandbox.organization),
            mac=card.tap.mac if card else "",
            socket=self._passages.plan(sandbox, directory) if card else None,
        )
        drives = [
            Drive(role="image", path=sandbox.drives.image),
            Drive(role="tools", path=parts.tools),
            Drive(role="config", path=directory / "config"),
            Drive(role="status", path=directory / "status", writable=True),
            Drive(role="scratch", path=sandbox.drives.scratch, writable=True),
        ]
        if sandbox.limits.swap_mb:
            drives.append(Drive(role="swap", path=self._make_swap(sandbox), writable=True))
        return Spec(
            id=sandbox.id,
            directory=directory,
            kernel=parts.kernel,
            initrd=parts.initramfs,
            words=(f"caddis.drives={','.join(drive.role for drive in drives)}",),
            vcpus=max(1, round(sandbox.limits.cores)),
            memory_mb=sandbox.limits.memory_mb,
            drives=tuple(drives),
            tap=card.tap if card else None,
            uid=user_of(sandbox.id),
            terminal=sandbox.tty,
        )

    def _make_swap(self, sandbox: Sandbox) -> Path:
        path = self._swap(sandbox.id)
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        path.touch(mode=0o600)
        os.truncate(path, sandbox.limits.swap_mb << 20)
        return path

    def _swap(self, id: str) -> Path:
        return self._data / "swap" / id

    async def _program_started(self, shim: Shim, launch: Launch) -> None:
        """Wait for the guest's word. Raises with that of whoever could not go on."""
        try:
            async with asyncio.timeout(self._boot_timeout_s):
                # A drive that is written to tells nobody.
                while not (found := status.read(shim.directory / "status")).said:
                    if shim.own_pid() is None or shim.exit_code() is not None:
                        raise _not_booted(self._said(shim, launch))
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"a microVM did not come up within {self._boot_timeout_s:g} s", why=self._said(shim, launch)
            ) from error
        if found.failure:
            raise _Refused("a microVM could not start its program", why=found.failure)

    def _said(self, shim: Shim, launch: Launch) -> str:
        """The last words of the guest's kernel, or of its VMM."""
        if panic := witness.panic(shim.directory):
            return panic
        if launch.errors is None:
            return ""
        os.set_blocking(launch.errors, False)
        try:
            return os.read(launch.errors, _ERRORS_MAX).decode(errors="replace").strip()[-500:]
        except BlockingIOError:
            return ""

    async def signal(self, id: str, number: int) -> None:
        if number == signal.SIGKILL:
            await self.kill(id)
            return
        shim = self._shim(id)
        if shim.own_pid() is None or shim.exit_code() is not None:
            return
        try:
            await self._vmm.tell(shim.directory, f"signal {number}")
        except Unavailable as problem:
            # It has just ended, or its guest does not listen any more: then it is killed when its time is over.
            log.warning("microvm.not_signalled", extra={"sandbox": id, "reason": str(problem)})

    async def kill(self, id: str) -> None:
        shim = self._shim(id)
        if shim.directory.exists() and shim.exit_code() is None:
            (shim.directory / "killed").touch()
        for pid in self._groups.processes(id):
            _kill(pid)
        self._groups.thaw(id)

    async def pause(self, id: str) -> None:
        await self._freeze(id, frozen=True)

    async def unpause(self, id: str) -> None:
        await self._freeze(id, frozen=False)

    async def _freeze(self, id: str, *, frozen: bool) -> None:
        async with asyncio.timeout(self._boot_timeout_s):
            while not self._groups.freeze(id, frozen=frozen):  # noqa: ASYNC110 - version 1 tells nobody
                await asyncio.sleep(_FREEZE_LOOK_S)

    async def memory_limit(self, id: str) -> int:
        return await self._balloon().memory(self._running(id))

    async def limit_memory(self, id: str, memory_mb: int) -> None:
        balloon, directory = self._balloon(), self._running(id)
        before = await balloon.memory(directory)
        await balloon.set_memory(directory, memory_mb)
        try:
            async with asyncio.timeout(_BALLOON_S):
                while await balloon.memory(directory) != memory_mb:  # noqa: ASYNC110 - it has no event for that
                    await asyncio.sleep(_LOOK_S)
        except TimeoutError as error:
            await balloon.set_memory(directory, before)
            raise FailedPrecondition(
                f"the memory cannot be limited to {memory_mb} MiB", why="its guest needs more than that"
            ) from error

    async def reclaim_memory(self, id: str, memory_mb: int) -> int:
        """The guest forgets what it can read again, and tells the host of pages that nobody uses."""
        before = self._groups.stats(id).memory_bytes
        await self._vmm.tell(self._running(id), "forget")
        await asyncio.sleep(_FORGET_S)
        return min(memory_mb, max(0, before - self._groups.stats(id).memory_bytes) >> 20)

    def _balloon(self) -> Balloons:
        if isinstance(self._vmm, Balloons):
            return self._vmm
        raise Unimplemented(f"the memory of a machine on {self._vmm.name} cannot be changed")

    def _running(self, id: str) -> Path:
        """The directory of one that runs."""
        shim = self._shim(id)
        if shim.own_pid() is None or shim.exit_code() is not None:
            raise FailedPrecondition("machine not running")
        return shim.directory

    async def wait(self, id: str) -> Exit:
        shim = self._shim(id)
        pid = shim.own_pid()
        if pid is not None:
            await gone(pid)
        return await self._ended(shim)

    async def _ended(self, shim: Shim) -> Exit:
        if shim.exit_code() is None and not witness.said(shim):
            # conmon was killed: its sandbox has lost its console and its witness, and must not run on unseen.
            await self.kill(shim.id)
        return witness.exit_of(shim)

    async def execute(self, id: str, command: Command) -> CommandResult:
        self._running(id)
        return await self._entrance(id).execute(command)

    async def attach(self, id: str, wanted: Attach) -> Session:
        self._running(id)
        return await self._entrance(id).attach(wanted)

    def _entrance(self, id: str) -> Entrance:
        directory = self._machines / id
        if id not in self._entrances:

            async def open_stream(word: str) -> socket:
                stream = await self._vmm.shell(directory)
                try:
                    await self._vmm.tell(directory, f"shell {word}")
                except BaseException:
                    stream.close()
                    raise
                return stream

            self._entrances[id] = Entrance(directory, self._authorities, open_stream)
        return self._entrances[id]

    async def close(self) -> None:
        """Let go of all guests, as the end of this process would."""
        for id in list(self._entrances):
            await self._leave(id)
        await self._passages.close()

    async def _leave(self, id: str) -> None:
        if entrance := self._entrances.pop(id, None):
            await entrance.close()

    async def stats(self, id: str) -> Stats:
        oom = status.read(self._machines / id / "status").oom
        return replace(self._groups.stats(id), oom_kills=int(oom))

    async def processes(self, id: str) -> frozenset[int]:
        raise Unimplemented("a microVM's processes have no numbers of the host", why="its own kernel keeps them")

    async def list_processes(self, id: str) -> list[Process]:
        self._running(id)
        return await processes.look(self._entrance(id))

    async def recover(self, id: str) -> Running | Ended | None:
        shim = self._shim(id)
        pid = shim.pid()
        said = status.read(shim.directory / "status")
        # An agent that died while the guest came up has not seen it come.
        marks = any((shim.directory / name).exists() for name in ("started", GOING))
        if pid is None or not (said.running or said.exit_code is not None or marks):
            return None
        if shim.exit_code() is not None or shim.own_pid() is None:
            return Ended(await self._ended(shim))
        await self._passages.open(id, shim.directory)
        return Running(pid)

    async def destroy(self, id: str) -> None:
        shim = self._shim(id)
        await self._leave(id)
        await self._passages.shut(id)
        await self.kill(id)
        pid = shim.own_pid()
        if pid is not None:
            await asyncio.wait_for(gone(pid), self._boot_timeout_s)
        await self._remove_groups(id)
        self._swap(id).unlink(missing_ok=True)
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
        return frozenset(entry.name for entry in self._machines.iterdir())

    def _shim(self, id: str) -> Shim:
        return Shim(id, self._machines / id)


class _Refused(Unavailable):
    """The guest came up, and says why it does not run its program."""


def _not_booted(why: str) -> Problem:
    return Unavailable("a microVM did not come up", why=why)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    except OSError as error:
        raise Internal(f"cannot signal process {pid}", why=str(error)) from error
