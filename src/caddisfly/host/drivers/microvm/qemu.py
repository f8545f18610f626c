"""QEMU as a VMM: the `microvm` machine on x86_64, `virt` on aarch64.

Its process has nothing of its own: a user of nobody else, no capability, a seccomp sandbox that lets it start nothing.
What it needs is opened here and handed over as descriptors, so that no file has to be readable for it: drives, tap,
listening sockets, its kernel. `-add-fd` makes sets of them, and a set is found by its number.

Without KVM, the machine `microvm` has no clock to measure the processor's own by, and a kernel that tries hangs now and
then. It is told the frequency, which is the host's own (docs/decisions/0018).
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import platform
import re
import shlex
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from qemu.qmp import QMPClient, QMPError

from caddisfly.host.drivers.driver import Fingerprint
from caddisfly.host.drivers.microvm import link
from caddisfly.host.drivers.microvm.clock import tsc_khz
from caddisfly.host.drivers.microvm.instructions import PANIC_PORT
from caddisfly.host.drivers.microvm.vmm import GOING, Drive, Launch, Spec
from caddisfly.model.errors import FailedPrecondition, Internal, Unavailable

log = logging.getLogger(__name__)
logging.getLogger("qemu.qmp").setLevel(logging.CRITICAL)  # it says everything twice: what counts is raised

_ARCHITECTURE = platform.machine()
_SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
_TRANSLATED_MB = 64
"""Of translated code. A quarter of the host's memory would be QEMU's own choice."""
_FAST = (
    "panic=-1",
    "loglevel=2",
    "cryptomgr.notests",
    "init_on_alloc=0",
    "selinux=0",
    "apparmor=0",
    "audit=0",
    "initcall_blacklist=init_kprobe_trace,load_system_certificate_list,trace_eval_init,crypto_kdf108_init",
)
"""What of a kernel's beginning nobody here needs: half a second of it, without KVM."""
_MIGRATED = ("completed", "failed", "cancelled")
_TIMEOUT_S, _BOOT_S = 20.0, 60.0
_LOOK_S = 0.02
_VERSION = re.compile(r"version (\S+(?: \([^)]*\))?)")


class Qemu:
    """The contract is in vmm.py. `accelerator` is `kvm` only where one was proved to boot guests."""

    name = "qemu"

    def __init__(self, *, accelerator: str = "tcg") -> None:
        self._binary = shutil.which(f"qemu-system-{_ARCHITECTURE}")
        self._accelerator = accelerator
        self._version = ""
        self._locks: dict[Path, asyncio.Lock] = {}

    @property
    def build(self) -> str:
        return f"qemu {self._version} {self._accelerator} {_ARCHITECTURE}"

    async def fingerprint(self) -> Fingerprint:
        if self._binary is None:
            package = "qemu-system-x86" if _ARCHITECTURE == "x86_64" else "qemu-system-arm"
            return Fingerprint(works=False, reason=f"qemu is not installed: apt-get install {package}")
        if not Path("/dev/net/tun").exists():
            return Fingerprint(works=False, reason="/dev/net/tun is missing: modprobe tun")
        process = await asyncio.create_subprocess_exec(
            self._binary, "--version", stdout=asyncio.subprocess.PIPE, stdin=asyncio.subprocess.DEVNULL
        )
        said, _ = await process.communicate()
        match = _VERSION.search(said.decode(errors="replace"))
        self._version = match[1] if match else "unknown"
        return Fingerprint(works=match is not None, version=f"{self._version}, {self._accelerator}")

    async def launch(self, spec: Spec) -> Launch:
        if self._binary is None:
            raise FailedPrecondition("qemu is not installed", next="caddis doctor")
        with _Descriptors() as given:
            arguments = await asyncio.to_thread(self._arguments, spec, given)
            command = shlex.join([self._binary, *arguments, *given.sets()])
            reader, writer = given.errors()
            groups = f"--groups {_KVM.stat().st_gid}" if self._accelerator == "kvm" else "--clear-groups"
            script = _script(spec, command, groups=groups, errors=writer)
            return Launch(argv=("/bin/sh", "-c", script), descriptors=given.taken(), errors=reader)

    async def boot(self, spec: Spec) -> None:
        if spec.saved is None and spec.template is None:
            return
        async with self._monitor(spec.directory) as monitor:
            async with asyncio.timeout(_TIMEOUT_S):
                while (await _ask(monitor, "query-status"))["status"] == "inmigrate":  # noqa: ASYNC110 - it has no event
                    await asyncio.sleep(_LOOK_S)
            if spec.saved is not None:
                (spec.directory / GOING).touch()
            await _ask(monitor, "cont")

    @property
    def clones(self) -> bool:
        # With a KVM a kernel's beginning takes less than reading one that is written down, and aarch64 has no pvpanic.
        return self._accelerator == "tcg" and _ARCHITECTURE == "x86_64"

    async def halted(self, directory: Path) -> None:
        async with self._monitor(directory) as monitor:
            async with asyncio.timeout(_BOOT_S):
                while (await _ask(monitor, "query-status"))["status"] != "guest-panicked":  # noqa: ASYNC110
                    await asyncio.sleep(_LOOK_S)
            await _ask(monitor, "set-action", panic="shutdown")  # whoever does that from now on means it

    async def tell(self, directory: Path, line: str) -> None:
        # In the pipe it is safe from our own end, and from a guest that is still on its way up.
        try:
            descriptor = os.open(directory / "orders", os.O_WRONLY | os.O_NONBLOCK)
            try:
                os.write(descriptor, f"{line}\n".encode())
            finally:
                os.close(descriptor)
        except (BlockingIOError, OSError) as error:
            raise Unavailable("the microVM does not listen", why=str(error)) from error

    async def shell(self, directory: Path) -> socket.socket:
        stream = socket.socket(socket.AF_UNIX)
        try:
            stream.setblocking(False)
            async with asyncio.timeout(_TIMEOUT_S):
                await asyncio.get_running_loop().sock_connect(stream, str(directory / "shell.sock"))
        except (OSError, TimeoutError) as error:
            stream.close()
            raise Unavailable("the microVM cannot be entered", why=str(error)) from error
        return stream

    async def save(self, directory: Path, target: int) -> None:
        async with self._monitor(directory) as monitor:
            if (await _ask(monitor, "query-status"))["status"] == "postmigrate":
                await _ask(monitor, "cont")  # QEMU does not save twice in a row
            await _ask(monitor, "stop")
            monitor.send_fd_scm(target)
            await _ask(monitor, "getfd", fdname="saved")
            await _ask(monitor, "migrate-set-parameters", **{"max-bandwidth": 1 << 40})
            try:
                await _ask(monitor, "migrate", uri="fd:saved")
            except QMPError:
                await _ask(monitor, "closefd", fdname="saved")  # or whoever reads it waits for ever
                raise
            while (found := await _ask(monitor, "query-migrate"))["status"] not in _MIGRATED:  # noqa: ASYNC110 - likewise
                await asyncio.sleep(_LOOK_S)
        if found["status"] != "completed":
            raise Internal("the memory of the microVM cannot be written", why=str(found.get("error-desc", found)))

    async def resume(self, directory: Path) -> None:
        async with self._monitor(directory) as monitor:
            await _ask(monitor, "migrate_cancel")
            await _ask(monitor, "cont")

    async def memory(self, directory: Path) -> int:
        async with self._monitor(directory) as monitor:
            return int((await _ask(monitor, "query-balloon"))["actual"]) >> 20

    async def set_memory(self, directory: Path, memory_mb: int) -> None:
        async with self._monitor(directory) as monitor:
            await _ask(monitor, "balloon", value=memory_mb << 20)

    @asynccontextmanager
    async def _monitor(self, directory: Path) -> AsyncIterator[QMPClient]:
        """Its monitor, which speaks with one at a time."""
        async with self._locks.setdefault(directory, asyncio.Lock()):
            monitor = QMPClient(directory.name)
            try:
                async with asyncio.timeout(_TIMEOUT_S):
                    await monitor.connect(str(directory / "monitor.sock"))
                yield monitor
            except (QMPError, OSError, TimeoutError) as error:
                raise Unavailable("the microVM's QEMU does not answer", why=str(error) or "in time") from error
            finally:
                await monitor.disconnect()

    def _arguments(self, spec: Spec, given: _Descriptors) -> list[str]:
        halts = ("caddis.halts=1",) if spec.halts else ()
        words = (*self._words(), f"caddis.ports={2 if spec.terminal else 4}", *halts, *spec.words)
        arguments = [
            *("-name", f"{spec.id},debug-threads=off", "-nodefaults", "-no-user-config", "-display", "none"),
            *("-no-reboot", "-sandbox", _SANDBOX, *self._machine()),
            *("-m", str(spec.memory_mb), "-smp", str(spec.vcpus)),
            *("-kernel", given.path(spec.kernel), "-initrd", given.path(spec.initrd), "-append", " ".join(words)),
            *("-chardev", f"socket,id=monitor,fd={given.listener(spec.directory / 'monitor.sock')},server=on,wait=off"),
            *("-mon", "chardev=monitor,mode=control"),
            *("-device", "virtio-balloon-device,deflate-on-oom=on,free-page-reporting=on"),
            *self._ports(spec, given),
        ]
        for drive in spec.drives:
            arguments += _drive(drive, given)
        if spec.tap is not None:
            tap = given.keep(link.open_tap(spec.tap.netns, spec.tap.name))
            arguments += ["-netdev", f"tap,id=net,fd={tap}"]
            arguments += ["-device", f"virtio-net-device,netdev=net,mac={spec.tap.mac}"]
        if self.clones:
            arguments += ["-device", f"pvpanic,ioport={PANIC_PORT}"]
        if spec.halts:
            arguments += ["-action", "panic=pause"]
        if (state := spec.saved or spec.template) is not None:
            arguments += ["-incoming", f"fd:{given.keep(os.open(state, os.O_RDONLY | os.O_CLOEXEC))}"]
        return arguments

    def _machine(self) -> tuple[str, ...]:
        tuned = f",tb-size={_TRANSLATED_MB}" if self._accelerator == "tcg" else ""
        acceleration = ("-accel", f"{self._accelerator}{tuned}")
        if _ARCHITECTURE == "x86_64":
            model = "host" if self._accelerator == "kvm" else "max,la57=off"
            return ("-machine", "microvm,acpi=on,pit=off,rtc=on", "-cpu", model, *acceleration)
        model = "host" if self._accelerator == "kvm" else "max"
        return ("-machine", "virt", "-cpu", model, *acceleration)

    def _words(self) -> tuple[str, ...]:
        if _ARCHITECTURE != "x86_64":
            return ("console=ttyAMA0", *_FAST)
        clock = ("tsc=reliable", f"tsc_early_khz={tsc_khz()}") if self._accelerator == "tcg" else ()
        return ("console=ttyS0", "8250.nr_uarts=1", "reboot=t", *clock, *_FAST)

    def _ports(self, spec: Spec, given: _Descriptors) -> list[str]:
        """The ways between guest and host. What the kernel says, such as why it panicked, is on the error output."""
        out, err = given.output(1), given.output(1 if spec.terminal else 2)
        orders = given.pipe(spec.directory / "orders", uid=spec.uid)
        shell = given.listener(spec.directory / "shell.sock")
        ports = [
            *("-chardev", f"file,id=kernel,path={err},append=on", "-serial", "chardev:kernel"),
            *("-device", "virtio-serial-device,id=ports,max_ports=8"),
            *("-chardev", f"pipe,id=orders,path={orders}"),
            *("-device", "virtserialport,bus=ports.0,chardev=orders,name=caddis.orders,nr=3"),
            *("-chardev", f"socket,id=shell,fd={shell},server=on,wait=off"),
            *("-device", "virtserialport,bus=ports.0,chardev=shell,name=caddis.shell,nr=4"),
            *("-chardev", f"file,id=out,path={out},append=on"),
        ]
        if spec.terminal:
            return [*ports, "-device", "virtconsole,bus=ports.0,chardev=out,nr=0"]
        return [
            *ports,
            *("-device", "virtserialport,bus=ports.0,chardev=out,name=caddis.out,nr=1"),
            *("-chardev", f"file,id=err,path={given.output(2)},append=on"),
            *("-device", "virtserialport,bus=ports.0,chardev=err,name=caddis.err,nr=2"),
        ]


def _drive(drive: Drive, given: _Descriptors) -> list[str]:
    # Many guests share one image, so only a writable drive is locked, and that by the agent's care alone: a descriptor
    # that was handed over cannot be opened a second time to ask for the lock.
    options = f"id={drive.role},file={given.file(drive.path, writable=drive.writable)},format=raw,if=none"
    access = "cache=writeback" if drive.writable else "readonly=on"
    return ["-drive", f"{options},{access},file.locking=off", "-device", f"virtio-blk-device,drive={drive.role}"]


def _script(spec: Spec, command: str, *, groups: str, errors: int) -> str:
    """Outputs go to numbers that `-add-fd` takes; QEMU's own errors do not go to the tenant; then all rights go."""
    user = f"--reuid {spec.uid} --regid {spec.uid} {groups}"
    unprivileged = f"setpriv {user} --no-new-privs --bounding-set=-all --inh-caps=-all"
    outputs = " ".join(f"{_OUTPUTS + number}>&{number}" for number in (1, 2))
    return f"ulimit -c 0; exec {outputs}; exec {unprivileged} -- {command} >/dev/null 2>/proc/self/fd/{errors}"


async def _ask(monitor: QMPClient, command: str, **arguments: Any) -> Any:
    return await monitor.execute(command, arguments or None)


_KVM = Path("/dev/kvm")
"""Its group may open it."""
_OUTPUTS = 7
"""The process's outputs 1 and 2 are 8 and 9 to QEMU, which does not take those of its own."""
_FIRST = 64
"""Above what a shell and QEMU use for themselves."""


class _Descriptors:
    """What a process inherits. Closed again unless it was `taken`."""

    def __init__(self) -> None:
        self._open: list[int] = []
        self._sets: dict[str, list[int]] = {}
        self._taken = False

    def __enter__(self) -> _Descriptors:
        return self

    def __exit__(self, *_: object) -> None:
        if not self._taken:
            for descriptor in self._open:
                os.close(descriptor)

    def keep(self, descriptor: int) -> int:
        """Hand it over, under a number that is free inside as well."""
        moved = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, _FIRST)
        os.close(descriptor)
        self._open.append(moved)
        return moved

    def file(self, path: Path, *, writable: bool) -> str:
        """A file, by the name of its set. QEMU opens what it is to write to once for reading only, and then again."""
        name = self._set(self.keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC)))
        if writable:
            self._sets[name].append(self.keep(os.open(path, os.O_RDWR | os.O_CLOEXEC)))
        return name

    def path(self, path: Path) -> str:
        """A file, by a name for those parts of QEMU that know nothing of sets."""
        return f"/proc/self/fd/{self.keep(os.open(path, os.O_RDONLY | os.O_CLOEXEC))}"

    def output(self, number: int) -> str:
        """One of the process's two outputs."""
        return self._set(number + _OUTPUTS)

    def listener(self, path: Path) -> int:
        """A socket that somebody may connect to, one at a time."""
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(path))
            path.chmod(0o600)
            listening.listen(1)
            return self.keep(listening.detach())

    def pipe(self, path: Path, *, uid: int) -> str:
        """A pipe with a name, which the process opens to both sides by itself, so that it never ends."""
        path.unlink(missing_ok=True)
        os.mkfifo(path, 0o600)
        os.chown(path, uid, uid)
        return f"/proc/self/fd/{self.keep(os.open(path, os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC))}"

    def errors(self) -> tuple[int, int]:
        """A pipe for what the process has to say to us: the end to read, and the number of the other."""
        reader, writer = os.pipe()
        return reader, self.keep(writer)

    def sets(self) -> list[str]:
        """The options that declare them."""
        pairs = [(numbers[0], number) for numbers in self._sets.values() for number in numbers]
        return [word for name, number in pairs for word in ("-add-fd", f"fd={number},set={name}")]

    def taken(self) -> tuple[int, ...]:
        self._taken = True
        return tuple(self._open)

    def _set(self, number: int) -> str:
        name = f"/dev/fdset/{number}"
        self._sets[name] = [number]
        return name
