"""A Machine that takes all it can get takes what it was promised, and no more (faults.md row 24)."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.host.drivers.oci.cgroups import ControlGroups, layout
from caddisfly.host.guest import LOG_BACKSTOP
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher, alive, pid_of
from tests.isolation.conftest import PIDS

GROUPS = ControlGroups(layout())
SMALL = {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}


@pytest.fixture
async def neighbour(agent: RunningAgent, watcher: Watcher) -> Machine:
    return await watcher.until(await agent.create(), "started")


async def unharmed(agent: RunningAgent, neighbour: Machine) -> bool:
    return (await agent.shell(neighbour, "echo fine")).stdout == "fine\n" and alive(pid_of(agent, neighbour))


async def test_a_fork_bomb_ends_at_its_limit(agent: RunningAgent, watcher: Watcher, neighbour: Machine) -> None:
    bomb = await watcher.until(
        await agent.create("(while :; do sleep 1000 & done) 2>/dev/null & exec sleep 1000"), "started"
    )
    # Its shell ends when it can fork no more; what it started stays.
    await eventually(lambda: "sh" not in commands(bomb))
    assert PIDS - 5 <= GROUPS.stats(bomb.run_id).pids <= PIDS
    assert await unharmed(agent, neighbour)
    await agent.ask(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=bomb.id, force=True), timeout_s=30)
    await watcher.until(bomb, "destroyed", timeout_s=30)
    assert GROUPS.processes(bomb.run_id) == frozenset()


@pytest.mark.parametrize(
    "way",
    [f"head -c {300 << 20} /dev/zero | tail -c {300 << 20} > /dev/null", f"head -c {300 << 20} /dev/zero > /dev/shm/x"],
)
async def test_memory_ends_at_its_limit(agent: RunningAgent, watcher: Watcher, neighbour: Machine, way: str) -> None:
    """Memory is memory, also that of files in memory."""
    greedy = await watcher.until(await agent.create(guest=SMALL), "started")
    reply = await agent.shell(greedy, f"{way}; exit $?", timeout_s=30)
    assert reply.exit_code != 0
    assert GROUPS.stats(greedy.run_id).memory_bytes <= 256 << 20
    assert await unharmed(agent, neighbour)


async def test_busy_loops_get_the_cores_they_were_promised(
    agent: RunningAgent, watcher: Watcher, neighbour: Machine
) -> None:
    busy = await watcher.until(
        await agent.create("for n in 1 2 3; do while :; do :; done & done; wait", guest=SMALL), "started"
    )
    await eventually(lambda: GROUPS.stats(busy.run_id).pids >= 5)
    before, began = GROUPS.stats(busy.run_id).cpu_ns, time.monotonic_ns()
    await asyncio.sleep(1.0)  # what is measured: how much of this second it gets
    share = (GROUPS.stats(busy.run_id).cpu_ns - before) / (time.monotonic_ns() - began)
    assert share <= 1.15, "one core of those there are"
    assert await unharmed(agent, neighbour)


@pytest.mark.parametrize("way", ["cat /dev/zero > /full", "cd /tmp && mkdir $(seq 60000)"])
async def test_a_full_disk_is_its_own(agent: RunningAgent, watcher: Watcher, neighbour: Machine, way: str) -> None:
    """By bytes and by the number of files."""
    store = agent.settings.data_dir / "images" / "fs"
    full = await watcher.until(await agent.create(), "started")
    before = used_mb(store)
    reply = await agent.shell(full, f"({way}) 2>&1 | tail -n 1", timeout_s=20)
    assert "No space left" in reply.stdout
    assert used_mb(store) - before <= agent.settings.root_size_mb * 1.1
    assert (await agent.shell(neighbour, "head -c 1000000 /dev/zero > /fine")).exit_code == 0
    assert await unharmed(agent, neighbour)


def used_mb(path: Path) -> float:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize / (1 << 20)


@pytest.mark.parametrize("agent_is", ["there", "frozen"])
async def test_a_flood_of_lines_does_not_fill_the_hosts_disk(
    agent: RunningAgent, watcher: Watcher, neighbour: Machine, agent_is: str
) -> None:
    """The console is a file of the host: it stays small (1 MiB is its limit here), also while the agent is away."""
    flood = await watcher.until(
        await agent.create("while ! test -e /go; do sleep 0.1; done; yes flood | head -c 15000000; exec sleep 1000"),
        "started",
    )
    await agent.shell(flood, "touch /go")
    assert agent.process is not None
    if agent_is == "frozen":
        agent.process.send_signal(signal.SIGSTOP)
    directory = agent.settings.data_dir / "logs" / flood.id
    try:
        most = 0

        def ended() -> bool:
            nonlocal most
            most = max(most, sum(file.stat().st_size for file in directory.glob("*.log")))
            return not commands(flood) & {"sh", "yes"}

        await eventually(ended, timeout_s=40)
    finally:
        agent.process.send_signal(signal.SIGCONT)
    assert 0 < most <= 2 * LOG_BACKSTOP << 20
    await agent.shell(flood, "echo the end > /proc/1/fd/1")
    await eventually(lambda: _both_ends(agent, flood))
    assert await unharmed(agent, neighbour)


async def _both_ends(agent: RunningAgent, machine: Machine) -> bool:
    lines = (await agent.ask(contract.READ_LOGS, contract.ReadLogs(machine_id=machine.id))).lines
    return {"flood", "the end"} <= {line["message"] for line in lines[-1000:]}


def commands(machine: Machine) -> set[str]:
    found = set()
    for pid in GROUPS.processes(machine.run_id):
        try:
            found.add(Path(f"/proc/{pid}/comm").read_text().strip())
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
