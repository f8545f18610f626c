"""A guest that does its worst hurts only itself: its console, its disk, its network, its ports to the host."""

from __future__ import annotations

import asyncio
import os
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.host.guest import LOG_BACKSTOP
from caddisfly.model.errors import Problem
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher
from tests.microvm.conftest import BOOT_S
from tests.microvm.test_machines import SERVE, page, serves

STORM_S = 3.0
GROWTH_MAX_KB = 16 * 1024
LOG_SLACK_MB = 4
ROOT_MAX = 64 << 20
ANSWER_MAX_S = 5.0
"""Under load on an emulated processor; without a storm it is some 20 ms."""


def memory_kb(pid: int) -> int:
    """What a process has to itself, shared pages by their share."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))


def keeper_of(host: RunningAgent, machine: Machine) -> int:
    """conmon, which writes its log."""
    return int((host.settings.run_dir / "microvms" / machine.run_id / "conmon.pid").read_text())


async def begun(host: RunningAgent, watcher: Watcher, line: str, **config: Any) -> Machine:
    return await watcher.until(await host.create(line, **config), "started", timeout_s=BOOT_S)


async def weathered(host: RunningAgent, neighbour: Machine, *keepers: int) -> None:
    """Some seconds of it: the neighbour answers, and nobody who serves the guest grows."""
    assert host.process is not None
    watched = (host.process.pid, *keepers)
    before = [memory_kb(pid) for pid in watched]
    until = time.monotonic() + STORM_S
    while time.monotonic() < until:
        asked = time.monotonic()
        assert b"hello" in await page(neighbour)
        assert time.monotonic() - asked < ANSWER_MAX_S
    grown = [memory_kb(pid) - was for pid, was in zip(watched, before, strict=True)]
    assert max(grown) < GROWTH_MAX_KB, grown


async def ended(host: RunningAgent, watcher: Watcher, machine: Machine) -> None:
    """It is stopped like any other, though it may have to be killed."""
    await host.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=2))
    await watcher.until(machine, "stopped", timeout_s=BOOT_S)


@pytest.fixture
async def neighbour(host: RunningAgent, watcher: Watcher) -> Machine:
    machine = await begun(host, watcher, SERVE)
    await eventually(lambda: serves(machine), timeout_s=BOOT_S)
    return machine


async def test_its_console(host: RunningAgent, watcher: Watcher, neighbour: Machine) -> None:
    loud = await begun(host, watcher, "yes 0123456789abcdef0123456789abcdef & exec yes loud >&2")
    await weathered(host, neighbour, keeper_of(host, loud))
    logs = host.settings.data_dir / "logs" / loud.id
    written = sum(file.stat().st_size for file in logs.iterdir())
    assert 1 << 20 < written < ((LOG_BACKSTOP + 1) * host.settings.log_size_mb + LOG_SLACK_MB) << 20
    await ended(host, watcher, loud)


async def test_its_disk(host: RunningAgent, watcher: Watcher, neighbour: Machine) -> None:
    full = await begun(host, watcher, "while :; do dd if=/dev/zero of=/big bs=1M count=500; sync; done 2>/dev/null")
    drives = {Path(drive) for drive in _open_drives(host, full)}
    await weathered(host, neighbour)
    assert drives
    assert all(drive.stat().st_blocks * 512 <= ROOT_MAX for drive in drives)
    assert (await host.shell(neighbour, "echo fine > /tmp/mine && cat /tmp/mine", timeout_s=60)).stdout == "fine\n"
    await ended(host, watcher, full)


async def test_its_network(host: RunningAgent, watcher: Watcher, neighbour: Machine) -> None:
    """To its neighbour, and as somebody else: what has another sender than itself is not let through."""
    lies = "ip -6 addr add fdaa::bad/128 dev eth0"
    flood = f"while :; do cat /dev/zero | head -c 60000 | nc -u -w 1 {neighbour.private_ip} 9; done"
    noisy = await begun(host, watcher, f"{lies}; for i in 1 2 3 4; do {flood} & done; wait", name="noisy")
    await weathered(host, neighbour)
    await ended(host, watcher, noisy)


async def test_its_ports_to_the_host(host: RunningAgent, watcher: Watcher, neighbour: Machine) -> None:
    """What the agent hears from there is a guest's word: any amount of anything."""
    # Its init has them open, and whoever is root in a guest can end what serves there.
    noise = "for port in *; do cat /dev/urandom > /dev/$port 2>/dev/null & done; sleep 0.2"
    crafted = await begun(host, watcher, f"cd /sys/class/virtio-ports; sleep 1; kill -9 -1; while :; do {noise}; done")
    over = asyncio.Event()
    asking = asyncio.create_task(_asked(host, crafted, over))
    await weathered(host, neighbour, keeper_of(host, crafted))
    over.set()
    await asking
    await ended(host, watcher, crafted)


async def _asked(host: RunningAgent, machine: Machine, over: asyncio.Event) -> None:
    """Commands into a guest that answers with noise. Each ends, in an answer or in words."""
    while not over.is_set():
        with suppress(Problem):
            await host.shell(machine, "echo in", timeout_s=5)


def _open_drives(host: RunningAgent, machine: Machine) -> set[str]:
    """The files that its VMM may write to."""
    pid = int((host.settings.run_dir / "microvms" / machine.run_id / "pid").read_text())
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        target = str(link.readlink())
        about = (Path(f"/proc/{pid}/fdinfo") / link.name).read_text().splitlines()
        flags = next(int(line.split()[1], 8) for line in about if line.startswith("flags:"))
        if target.endswith(".ext4") and flags & os.O_ACCMODE:
            found.add(target)
    return found
