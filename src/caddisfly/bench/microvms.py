"""Machines as virtual machines: how long until their app answers, and how long a suspend and a resume take.

Beside it stands QEMU by hand: the same kernel as the distribution has it, QEMU's own choice of machine, and an
initramfs with nothing in it but what is needed to answer. gVisor is here too, because it is what else can suspend.
"""

from __future__ import annotations

import asyncio
import platform as computer
import subprocess
import time
from pathlib import Path
from typing import Any

from caddisfly.bench.machines import ratios
from caddisfly.bench.peers import Start
from caddisfly.bench.platform import IMAGE, Platform, platform
from caddisfly.bench.series import Series
from caddisfly.bench.serving import free_port, process
from caddisfly.host.drivers.microvm import modules
from caddisfly.host.drivers.microvm.cpio import Archive
from caddisfly.host.drivers.microvm.initramfs import BUSYBOX
from caddisfly.host.drivers.microvm.kernel import Kernel
from caddisfly.model.errors import FailedPrecondition

APP = "asleep"
_COLD, _CLONE = "microVM, create to its app's answer, no template", "microVM, create to its app's answer"
_BY_HAND = "QEMU by hand, to its program's answer"
_ANSWER_S = 60.0
_LOOK_S, _TRY_S = 0.01, 0.25
_CONFIG: dict[str, Any] = {
    "image": IMAGE,
    "init": {"exec": ["/bin/busybox", "httpd", "-f", "-p", "0.0.0.0:8080", "-h", "/etc"]},
    "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
    "guest": {"cpus": 1, "cpu_kind": "shared", "memory_mb": 256},
}
_INIT = b"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
for module in /modules/*; do insmod "$module"; done
ip link set lo up
ip addr add 10.0.2.15/24 dev eth0
ip link set eth0 up
exec httpd -f -p 8080 -h /etc
"""
_PCI = ("virtio_pci", "virtio_net")


async def measure(*, rounds: int) -> dict[str, Any]:
    series: dict[str, Series] = {}
    async with platform(isolation="microvm") as running:
        templates = running.directory / "data" / "host" / "microvms" / "templates"
        series |= {_COLD: Series(_COLD), _CLONE: Series(_CLONE), _BY_HAND: Series(_BY_HAND)}
        by_hand = _by_hand(running.directory / "by-hand")
        await running.client.apps.create(APP)
        for _ in range(rounds):
            for template in templates.glob("*/*.state"):
                template.unlink()
            series[_COLD].times_ms.append(await _created(running))
            series[_CLONE].times_ms.append(await _created(running))
            series[_BY_HAND].times_ms.append(await by_hand())
        series |= await _asleep(running, "microVM", rounds=rounds, wake=_by_request(running))
        await running.client.apps.delete(APP)
    async with platform(isolation="gvisor") as running:
        await running.client.apps.create(APP)
        series |= await _asleep(running, "gVisor", rounds=rounds, wake=_by_start(running))
        await running.client.apps.delete(APP)
    boots = {name: series[name] for name in (_CLONE, _COLD, _BY_HAND)}
    return {
        "series": {name: one.to_wire() for name, one in series.items()},
        "ratios": ratios(boots, of=_CLONE),
    }


async def _created(on: Platform) -> float:
    """From the call to the answer through the edge, which waits for the app's port."""
    began = time.perf_counter()
    id = (await on.client.machines.create(APP, _CONFIG))["id"]
    await on.client.machines.wait(APP, id, "started")
    await _answer(on.edge_port)
    took_ms = (time.perf_counter() - began) * 1000
    await on.client.machines.delete(APP, id, force=True)
    await on.client.machines.wait(APP, id, "destroyed")
    return took_ms


async def _asleep(on: Platform, what: str, *, rounds: int, wake: Start) -> dict[str, Series]:
    """`wake` resumes it, and says how long that took."""
    machines = on.client.machines
    id = (await machines.create(APP, _CONFIG))["id"]
    await machines.wait(APP, id, "started")
    suspend, resume = Series(f"{what}, suspend"), Series(f"{what}, resume")
    for _ in range(rounds):
        began = time.perf_counter()
        await machines.suspend(APP, id)
        await machines.wait(APP, id, "suspended")
        suspend.times_ms.append((time.perf_counter() - began) * 1000)
        resume.times_ms.append(await wake())
        newest = [event["type"] for event in (await machines.events(APP, id))[:3]]
        if "resume" not in newest:
            raise FailedPrecondition("a machine was not resumed", why=f"its last events are {', '.join(newest)}")
    await machines.delete(APP, id, force=True)
    return {series.name: series for series in (suspend, resume)}


def _by_request(on: Platform) -> Start:
    """Through the edge, to the first byte of the answer."""

    async def wake() -> float:
        began = time.perf_counter()
        await _answer(on.edge_port)
        return (time.perf_counter() - began) * 1000

    return wake


def _by_start(on: Platform) -> Start:
    """Without a connection, which gVisor would wait for at the next suspend."""

    async def wake() -> float:
        (machine,) = await on.client.machines.list(APP)
        began = time.perf_counter()
        await on.client.machines.start(APP, machine["id"])
        await on.client.machines.wait(APP, machine["id"], "started")
        return (time.perf_counter() - began) * 1000

    return wake


async def _answer(port: int, host: str = f"{APP}.localhost") -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /passwd HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(_ANSWER_S):
            line = await reader.readline()
    finally:
        writer.close()
    if b" 200 " not in line:
        raise FailedPrecondition("a request failed", why=f"the answer was {line.decode(errors='replace').strip()!r}")


def _by_hand(directory: Path) -> Start:
    kernel, initrd, log = Kernel.find(), directory / "initrd", directory / "log"
    directory.mkdir()
    initrd.write_bytes(_initramfs(kernel))

    async def start() -> float:
        port = free_port()
        began = time.perf_counter()
        async with process(
            *(f"qemu-system-{computer.machine()}", "-m", "256", "-nographic", "-no-reboot"),
            *("-kernel", kernel.image, "-initrd", initrd, "-append", "console=ttyS0 panic=-1"),
            *("-netdev", f"user,id=net,hostfwd=tcp:127.0.0.1:{port}-:8080", "-device", "virtio-net-pci,netdev=net"),
            port=port,
            log=log,
        ):
            await _answered(port)
            return (time.perf_counter() - began) * 1000

    return start


async def _answered(port: int) -> None:
    """QEMU accepts for the guest, and hangs up or says nothing as long as nobody listens there."""
    async with asyncio.timeout(_ANSWER_S):
        while True:
            try:
                async with asyncio.timeout(_TRY_S):
                    return await _answer(port, "localhost")
            except (FailedPrecondition, OSError, TimeoutError):
                await asyncio.sleep(_LOOK_S)


def _initramfs(kernel: Kernel) -> bytes:
    archive = Archive()
    for name in ("bin", "dev", "etc", "modules", "proc", "sys"):
        archive.directory(name)
    archive.character_device("dev/console", 5, 1)
    archive.file("bin/busybox", BUSYBOX.read_bytes(), 0o755)
    listed = subprocess.run([BUSYBOX, "--list"], capture_output=True, check=True, text=True, timeout=10).stdout
    for applet in listed.split():
        if applet != "busybox":
            archive.link(f"bin/{applet}", "busybox")
    for number, (name, module) in enumerate(modules.in_order(kernel.modules, _PCI)):
        archive.file(f"modules/{number:02}-{name}", module)
    archive.file("etc/passwd", b"root:x:0:0:root:/:/bin/sh\n")
    archive.file("init", _INIT, 0o755)
    return archive.packed()
