"""Suspend and resume under gVisor: no memory ever goes back, and none is lost in silence."""

from __future__ import annotations

import os
import signal
import socket
import time

import pytest

from caddisfly.bus import contract
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher
from tests.host.paths import assert_path
from tests.host.test_agent_crash import arm, sandboxes

_COUNTS = "i=0; while :; do i=$((i+1)); echo $i; echo $i > /count; sleep 0.02; done"
_LISTENS = "sleep 100000 | nc -l -p 80 & while :; do sleep 1; done"


async def suspend(agent: RunningAgent, machine: Machine) -> None:
    await agent.ask(contract.SUSPEND_MACHINE, contract.MachineCall(machine_id=machine.id))


async def start(agent: RunningAgent, machine: Machine) -> None:
    await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))


def printed(agent: RunningAgent, machine: Machine) -> list[int]:
    log = agent.settings.data_dir / "logs" / machine.id / "current.log"
    return [int(line.rsplit(" ", 1)[1]) for line in log.read_text().splitlines()]


async def test_a_memory_never_goes_back(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(_COUNTS), "started")
    for _ in range(20):
        before = len(printed(agent, machine))
        await eventually(lambda before=before: len(printed(agent, machine)) > before + 3)
        await suspend(agent, machine)
        asleep = await watcher.until(machine, "suspended")
        assert sandboxes(machine) == []
        count = len(printed(agent, machine))
        await start(agent, machine)
        again = await watcher.until(machine, "started")
        assert again.run_id == asleep.run_id == machine.run_id, again.events[:4]
        await eventually(lambda count=count: len(printed(agent, machine)) > count)
    counted = printed(agent, machine)
    assert counted == list(range(1, len(counted) + 1)), "nothing was counted twice, and nothing left out"


async def test_files_processes_addresses_and_the_clock_are_as_they_were(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(f"echo kept > /root-file; ({_COUNTS}) & wait"), "started")

    async def written() -> bool:
        return (await agent.shell(machine, "cat /root-file")).stdout == "kept\n"

    await eventually(written)
    await suspend(agent, machine)
    await watcher.until(machine, "suspended")
    await start(agent, machine)
    again = await watcher.until(machine, "started")
    assert (again.ipv4, again.private_ip) == (machine.ipv4, machine.private_ip)
    said = await agent.shell(
        again, "cat /root-file; cat /etc/hostname; date +%s; ip addr show eth0 2>/dev/null | grep inet"
    )
    kept, name, clock, *_ = said.stdout.splitlines()
    assert (kept, name) == ("kept", machine.id)
    assert abs(int(clock) - time.time()) < 2
    seeds = {(await agent.shell(again, "head -c 16 /dev/urandom | od -An -tx1")).stdout for _ in range(2)}
    assert len(seeds) == 2


async def connected(machine: Machine) -> socket.socket:
    """As soon as something in it listens."""

    def connect() -> socket.socket | None:
        try:
            return socket.create_connection((machine.ipv4, 80), timeout=3)
        except OSError:
            return None

    found: socket.socket = await eventually(connect, timeout_s=10)
    return found


async def test_while_a_connection_is_open_it_serves_whoever_needs_it(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(_LISTENS), "started")
    connection = await connected(machine)
    await suspend(agent, machine)
    await watcher.until(machine, "suspending")
    connection.sendall(b"x")
    await start(agent, machine)
    again = await watcher.until(machine, "started")
    assert again.run_id == machine.run_id
    event = again.newest("resume")
    assert event is not None
    assert event.request == {"reason": "it was needed before its memory was on disk"}
    connection.close()
    assert_path(again)


async def test_what_keeps_a_connection_is_stopped_and_its_events_say_so(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(_LISTENS), "started")
    connection = await connected(machine)
    await suspend(agent, machine)
    stopped = await watcher.until(machine, "stopped")
    error = why_not_suspended(stopped)
    assert f"{machine.ipv4}:80 to " in error
    assert "established" in error
    connection.close()
    assert_path(stopped)


def why_not_suspended(machine: Machine) -> str:
    """Its event says so; and it was stopped as Machines are, which what gVisor refused would not have been."""
    event, exit = machine.newest("suspend"), machine.newest("exit")
    assert event is not None
    assert event.status == "failed"
    assert event.request is not None
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["requested_stop"]
    assert exit.request["exit_event"]["signal"] == signal.SIGINT
    return str(event.request["error"])


async def test_a_connection_that_it_closed_first_is_not_overlooked(agent: RunningAgent, watcher: Watcher) -> None:
    """Its kernel keeps an end of it for a minute, and gVisor refuses what has one."""
    machine = await watcher.until(await agent.create("httpd -f -p 80 -h /"), "started")
    with await connected(machine) as connection:
        connection.sendall(b"GET /bin/busybox HTTP/1.0\r\n\r\n")
        while connection.recv(65536):
            continue
    await suspend(agent, machine)
    assert "time wait" in why_not_suspended(await watcher.until(machine, "stopped"))


async def test_a_connection_with_itself_is_not_overlooked(agent: RunningAgent, watcher: Watcher) -> None:
    """No packet of it ever leaves the sandbox."""
    address = "wget -q -O /dev/null http://$(hostname -i)/bin/busybox"
    line = f"httpd -p 80 -h /; sleep 0.3; {address}; touch /asked; while :; do sleep 1; done"
    machine = await watcher.until(await agent.create(line), "started")

    async def asked() -> bool:
        return (await agent.shell(machine, "ls /asked")).exit_code == 0

    await eventually(asked, timeout_s=10)
    await suspend(agent, machine)
    assert "it began a connection" in why_not_suspended(await watcher.until(machine, "stopped"))


async def test_a_connection_that_the_other_side_closed_is_no_obstacle(agent: RunningAgent, watcher: Watcher) -> None:
    """As the edge does with those that it has no use for."""
    # busybox's nc ends when its call is interrupted, as some are by a resume.
    machine = await watcher.until(await agent.create("while :; do nc -ll -p 80 -e /bin/cat; done"), "started")
    with await connected(machine) as connection:
        connection.sendall(b"before")
        assert connection.recv(100) == b"before"
    await suspend(agent, machine)
    await watcher.until(machine, "suspended")
    await start(agent, machine)
    again = await watcher.until(machine, "started")
    assert again.run_id == machine.run_id
    with await connected(machine) as connection:
        connection.sendall(b"after")
        assert connection.recv(100) == b"after"


async def test_a_memory_that_has_changed_on_disk_is_not_used(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create("touch /marked; while :; do sleep 1; done"), "started")
    await suspend(agent, machine)
    asleep = await watcher.until(machine, "suspended")
    image = agent.settings.data_dir / "snapshots" / machine.run_id / "checkpoint.img"
    with image.open("r+b") as file:
        file.seek(-100, os.SEEK_END)
        file.write(b"rotten")
    await start(agent, machine)
    again = await watcher.until(machine, lambda now: now.state == "started" and now.run_id != asleep.run_id)
    event = again.newest("resume")
    assert event is not None
    assert event.request is not None
    assert "checksum" in event.request["error"]
    assert (await agent.shell(again, "ls /marked")).exit_code == 0, "its root is as it was"
    assert_path(again)


@pytest.mark.parametrize("point", ["before:save_memory", "after:save_memory", "after:put_away", "after:seal_snapshot"])
async def test_a_suspend_outlives_its_agent(agent: RunningAgent, watcher: Watcher, point: str) -> None:
    machine = await watcher.until(await agent.create(_COUNTS), "started")
    await arm(agent, point)
    await agent.ask_in_vain(contract.SUSPEND_MACHINE, contract.MachineCall(machine_id=machine.id))
    await agent.died()
    await agent.restarted()
    await goes_on(agent, watcher, machine)


@pytest.mark.parametrize("point", ["before:check_snapshot", "before:resume_sandbox", "after:resume_sandbox"])
async def test_a_resume_outlives_its_agent(agent: RunningAgent, watcher: Watcher, point: str) -> None:
    machine = await watcher.until(await agent.create(_COUNTS), "started")
    await suspend(agent, machine)
    await watcher.until(machine, "suspended")
    await arm(agent, point)
    await agent.ask_in_vain(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
    await agent.died()
    await agent.restarted()
    await watcher.until(machine, "started")
    assert len(sandboxes(machine)) == 1
    await goes_on(agent, watcher, machine, asleep=False)


async def test_an_agent_that_dies_while_gvisor_writes(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(_COUNTS), "started")
    await suspend(agent, machine)
    home = agent.settings.data_dir / "snapshots" / machine.run_id
    await eventually((home / "checkpoint.img").exists, every_s=0.001)
    agent.kill()
    await agent.restarted()
    await goes_on(agent, watcher, machine)


async def goes_on(agent: RunningAgent, watcher: Watcher, machine: Machine, *, asleep: bool = True) -> None:
    """It is suspended, resumed, and has forgotten nothing."""
    if asleep:
        await watcher.until(machine, "suspended")
        assert sandboxes(machine) == []
        await start(agent, machine)
    again = await watcher.until(machine, "started")
    assert again.run_id == machine.run_id, again.events[:5]
    before = len(printed(agent, machine))
    await eventually(lambda: len(printed(agent, machine)) > before)
    counted = printed(agent, machine)
    assert counted == list(range(1, len(counted) + 1))
    assert_path(again)
