"""Firecracker as a VMM: the contract is in vmm.py, its jail in jail.py, how it is spoken to in api.py.

It has no channels but a serial port, on which the guest's program speaks, and vsock: to the guest's init, which writes
each line down that comes in and says so, and to its sshd, a connection each. A guest is connected to once it listens.

What goes into its kernel's command line replaces Firecracker's own, which forbids modules. A guest ends by `reboot`,
since powering off leaves an x86 Firecracker running.
"""

from __future__ import annotations

import asyncio
import os
import platform
import re
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from caddisfly.host.drivers.driver import Fingerprint
from caddisfly.host.drivers.microvm import link, snapshot
from caddisfly.host.drivers.microvm.api import Api, connected, short
from caddisfly.host.drivers.microvm.jail import API, VSOCK, Jail
from caddisfly.host.drivers.microvm.vmm import Launch, Spec
from caddisfly.model.errors import FailedPrecondition, Problem, Unavailable

ORDERS_PORT, SHELL_PORT = 1024, 1025
"""Of the guest's vsock: where its init takes lines, and where it lets sshd answer."""
_OLDEST = (1, 8)
"""Before that, x86 guests were told of their devices in a way that distributions' kernels do not read."""
_GUEST_CID = 3
_VCPUS_MAX = 32
_WORDS = ("console=ttyS0", "reboot=k", "panic=-1", "loglevel=2")
_X86_WORDS = ("i8042.noaux", "i8042.nomux", "i8042.dumbkbd")
"""A keyboard that is only there to be asked to reboot."""
_END_BY_REBOOT, _BY_VSOCK = "caddis.end=reboot", "caddis.vsock=yes"
_VERSION = re.compile(r"(\d+)\.(\d+)\.(\d+)\S*")
_SNAPSHOT_S = 120.0
_GUEST_S = 20.0
_LOOK_S = 0.02
_BALLOON_S = 1
"""Between two looks of a guest at its memory. Without them it is not known how much it has."""
_LINE_MAX = 64
_WRITTEN_DOWN = b"ok\n"
"""What the guest says to each order."""


class Firecracker:
    """`saves` is a directory on a disk, the same as where saved states are kept, or one beside it."""

    name = "firecracker"

    def __init__(self, *, saves: Path) -> None:
        self._saves = saves
        self._version = ""

    @property
    def build(self) -> str:
        # A state holds what KVM and the processor look like to the guest.
        return f"firecracker {self._version} {platform.machine()} {platform.release()} {_processor()}"

    async def fingerprint(self) -> Fingerprint:
        found = []
        for name in ("firecracker", "jailer"):
            binary = shutil.which(name)
            if binary is None:
                return Fingerprint(works=False, reason=f"{name} is not installed: it comes with Firecracker's releases")
            match = _VERSION.search(await _said(binary, "--version"))
            if match is None:
                return Fingerprint(works=False, reason=f"{binary} does not say its version")
            found.append(match)
        ours, jailers = found
        if ours[0] != jailers[0]:
            return Fingerprint(works=False, reason=f"firecracker is {ours[0]} and jailer is {jailers[0]}")
        if (int(ours[1]), int(ours[2])) < _OLDEST:
            oldest = ".".join(map(str, _OLDEST))
            return Fingerprint(works=False, reason=f"firecracker {ours[0]} is too old, {oldest} is the oldest")
        for device in ("/dev/kvm", "/dev/net/tun"):
            if not os.access(device, os.R_OK | os.W_OK):
                return Fingerprint(works=False, reason=f"{device} does not open")
        if not self._version:
            # What a launch that was cut short has left: all others have taken theirs off the disk.
            await asyncio.to_thread(shutil.rmtree, self._saves, ignore_errors=True)
        self._version = ours[0]
        return Fingerprint(works=True, version=ours[0])

    async def launch(self, spec: Spec) -> Launch:
        binaries = {name: shutil.which(name) for name in ("firecracker", "jailer")}
        firecracker, jailer = (Path(binary) if binary else None for binary in binaries.values())
        if firecracker is None or jailer is None:
            raise FailedPrecondition("Firecracker is not installed", next="caddis doctor")
        if spec.vcpus > _VCPUS_MAX:
            raise FailedPrecondition(
                f"a microVM of Firecracker has at most {_VCPUS_MAX} vCPUs", why=f"this machine has {spec.vcpus}"
            )
        if spec.tap is not None:
            await asyncio.to_thread(link.lend_tap, spec.tap.netns, spec.tap.name, spec.uid)
        jail = Jail(spec.directory)
        return await asyncio.to_thread(jail.build, spec, firecracker=firecracker, jailer=jailer, saves=self._saves)

    async def boot(self, spec: Spec) -> None:
        jail = Jail(spec.directory)
        try:
            async with _spoken_to(jail) as api:
                if spec.saved is None:
                    await _describe(api, spec)
                    await api.put("/actions", action_type="InstanceStart")
                    return
                backend = {"backend_type": "File", "backend_path": "/before/memory"}
                await api.put(
                    "/snapshot/load",
                    timeout_s=_SNAPSHOT_S,
                    snapshot_path="/before/state",
                    mem_backend=backend,
                    resume_vm=True,
                )
        except Problem as problem:
            said = await asyncio.to_thread(jail.said)
            raise type(problem)(problem.what, why="; ".join(filter(None, (problem.why, said)))) from problem

    async def tell(self, directory: Path, line: str) -> None:
        stream = await _connect(Jail(directory), ORDERS_PORT)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(_GUEST_S):
                await loop.sock_sendall(stream, f"{line}\n".encode())
                # Only when the guest has written this one down may the next one come, which could overtake it.
                if await _line(stream) != _WRITTEN_DOWN:
                    raise Unavailable("the microVM does not listen", why="it has hung up")
        except (OSError, TimeoutError) as error:
            raise Unavailable("the microVM does not listen", why=str(error) or "in time") from error
        finally:
            stream.close()

    async def shell(self, directory: Path) -> socket.socket:
        return await _connect(Jail(directory), SHELL_PORT)

    async def save(self, directory: Path, target: int) -> None:
        jail = Jail(directory)
        async with _spoken_to(jail) as api:
            await api.patch("/vm", state="Paused")
            await api.put(
                "/snapshot/create",
                timeout_s=_SNAPSHOT_S,
                snapshot_type="Full",
                snapshot_path="/saved/state",
                mem_file_path="/saved/memory",
            )
        saved = jail.inside / "saved"
        try:
            await asyncio.to_thread(snapshot.pack, target, state=saved / "state", memory=saved / "memory")
        except OSError as error:
            raise Unavailable("the memory of the microVM cannot be written", why=str(error)) from error

    async def resume(self, directory: Path) -> None:
        async with _spoken_to(Jail(directory)) as api:
            await api.patch("/vm", state="Resumed")

    async def memory(self, directory: Path) -> int:
        """MiB that its guest has."""
        async with _spoken_to(Jail(directory)) as api:
            size = (await api.get("/machine-config"))["mem_size_mib"]
            return int(size - (await api.get("/balloon/statistics"))["actual_mib"])

    async def set_memory(self, directory: Path, memory_mb: int) -> None:
        async with _spoken_to(Jail(directory)) as api:
            size = (await api.get("/machine-config"))["mem_size_mib"]
            await api.patch("/balloon", amount_mib=max(0, size - memory_mb))


@asynccontextmanager
async def _spoken_to(jail: Jail) -> AsyncIterator[Api]:
    async with connected(jail.root / API, alive=lambda: jail.alive) as api:
        yield api


async def _describe(api: Api, spec: Spec) -> None:
    """Everything that there is before it starts. The guest sees drives in the order in which they are told."""
    await api.put("/machine-config", vcpu_count=spec.vcpus, mem_size_mib=spec.memory_mb, smt=False)
    own = (*_WORDS, *(_X86_WORDS if platform.machine() == "x86_64" else ()))
    words = " ".join((*own, _END_BY_REBOOT, _BY_VSOCK, *spec.words))
    await api.put("/boot-source", kernel_image_path="/kernel", initrd_path="/initrd", boot_args=words)
    for drive in spec.drives:
        await api.put(
            f"/drives/{drive.role}",
            drive_id=drive.role,
            path_on_host=f"/{drive.role}",
            is_root_device=False,
            is_read_only=not drive.writable,
            cache_type="Writeback" if drive.writable else "Unsafe",
        )
    if spec.tap is not None:
        await api.put("/network-interfaces/eth0", iface_id="eth0", host_dev_name=spec.tap.name, guest_mac=spec.tap.mac)
    await api.put("/vsock", guest_cid=_GUEST_CID, uds_path=f"/{VSOCK}")
    await api.put("/entropy")
    await api.put("/balloon", amount_mib=0, deflate_on_oom=False, stats_polling_interval_s=_BALLOON_S)


async def _connect(jail: Jail, port: int) -> socket.socket:
    """To a port of the guest, waiting until it listens. Raises `Unavailable`."""
    loop = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(_GUEST_S):
            while True:
                stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
                try:
                    with short(jail.root / VSOCK) as name:
                        await loop.sock_connect(stream, name)
                    await loop.sock_sendall(stream, f"CONNECT {port}\n".encode())
                    if (await _line(stream)).startswith(b"OK "):
                        return stream
                except (FileNotFoundError, ConnectionError) as error:
                    if not jail.alive:
                        stream.close()
                        raise Unavailable("the microVM has ended", why=str(error)) from error
                except BaseException:
                    stream.close()
                    raise
                stream.close()
                await asyncio.sleep(_LOOK_S)  # whoever does not listen hangs up, and tells nobody when it begins to
    except TimeoutError as error:
        raise Unavailable("the microVM does not listen", why=f"not within {_GUEST_S:g} s") from error


async def _line(stream: socket.socket) -> bytes:
    """Up to its end and not a byte more: what follows is the guest's."""
    loop = asyncio.get_running_loop()
    line = b""
    while not line.endswith(b"\n") and len(line) < _LINE_MAX:
        byte = await loop.sock_recv(stream, 1)
        if not byte:
            break
        line += byte
    return line


async def _said(*command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    output, _ = await process.communicate()
    return output.decode(errors="replace")


def _processor() -> str:
    """Its model, as far as the kernel names it."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() in ("model name", "CPU part"):
            return value.strip()
    return ""
