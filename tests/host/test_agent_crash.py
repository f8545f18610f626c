"""The agent is killed at each step of each operation (faults.md row 1), and what runs does not notice."""

from __future__ import annotations

import os
import signal
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.host.agent import Agent
from caddisfly.host.computer import ThisComputer
from caddisfly.host.operations import plans
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher, alive, namespaces, pid_of
from tests.host.paths import assert_path

MOMENTS = ("before", "after")


def sandboxes(machine: Machine) -> list[int]:
    """Every conmon that holds a sandbox of this Machine."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                words = (entry / "cmdline").read_bytes()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if words.startswith(b"conmon\0") and machine.id.encode() in words:
                found.append(int(entry.name))
    return found


def points(kind: str) -> list[str]:
    steps = dict.fromkeys(plans.STEPS[kind])
    return [f"{moment}:{step}" for step in steps for moment in MOMENTS]


async def arm(agent: RunningAgent, point: str) -> None:
    agent.stop()
    await agent.restarted(die_at=point)


@pytest.mark.parametrize("point", points(plans.LAUNCH))
async def test_a_create_that_was_interrupted_ends_with_one_running_sandbox(
    doomed: RunningAgent, watcher: Watcher, point: str
) -> None:
    await arm(doomed, point)
    request = doomed.request()
    acknowledged = await doomed.ask_in_vain(contract.CREATE_MACHINE, request)
    await doomed.died()
    await doomed.restarted()
    if not acknowledged:
        # A client that got no answer asks again, with the same id.
        await doomed.ask(contract.CREATE_MACHINE, request)
    started = await watcher.until(request.machine_id, "started", timeout_s=10)
    assert len(sandboxes(started)) == 1, "I1"
    assert [name for name in namespaces() if name.startswith(started.id)] == [started.run_id], "I4"
    assert_path(started)


@pytest.mark.parametrize("point", points(plans.STOP))
async def test_a_stop_that_was_interrupted_ends_stopped(doomed: RunningAgent, watcher: Watcher, point: str) -> None:
    machine = await watcher.until(await doomed.create(), "started")
    await arm(doomed, point)
    await doomed.ask_in_vain(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id))
    await doomed.died()
    await doomed.restarted()
    stopped = await watcher.until(machine, "stopped", timeout_s=10)
    assert sandboxes(machine) == []
    assert_path(stopped)
    exits = [event for event in stopped.events if event.type == "exit"]
    assert len(exits) == 1, "the exit is recorded once"


@pytest.mark.parametrize("point", points(plans.DESTROY))
async def test_a_destroy_that_was_interrupted_ends_destroyed(
    doomed: RunningAgent, watcher: Watcher, point: str
) -> None:
    machine = await watcher.until(await doomed.create(), "started")
    await arm(doomed, point)
    await doomed.ask_in_vain(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=machine.id, force=True))
    await doomed.died()
    await doomed.restarted()
    gone = await watcher.until(machine, "destroyed", timeout_s=10)
    assert sandboxes(machine) == []
    assert_path(gone)


@pytest.mark.parametrize("point", points(plans.RESTART))
async def test_a_restart_that_was_interrupted_keeps_the_root_that_persists(
    doomed: RunningAgent, watcher: Watcher, point: str
) -> None:
    machine = await watcher.until(await doomed.create(rootfs={"persist": "restart"}), "started")
    await doomed.shell(machine, "echo before > /written; sync")
    await arm(doomed, point)
    request = contract.StopMachine(machine_id=machine.id, timeout_s=0.1)
    await doomed.ask_in_vain(contract.RESTART_MACHINE, request)
    await doomed.died()
    await doomed.restarted()
    again = await watcher.until(machine, lambda now: now.state == "started" and now.run_id != machine.run_id)
    assert len(sandboxes(again)) == 1, "I1"
    assert (await doomed.shell(again, "cat /written")).stdout == "before\n"
    assert_path(again)


async def test_a_root_that_persists_outlives_a_crash_while_its_machine_is_stopped(
    doomed: RunningAgent, watcher: Watcher
) -> None:
    machine = await watcher.until(await doomed.create(rootfs={"persist": "always"}), "started")
    await doomed.shell(machine, "echo before > /written")
    await doomed.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=0.1))
    await watcher.until(machine, "stopped")
    doomed.kill()
    await doomed.restarted()
    await doomed.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
    again = await watcher.until(machine, "started")
    assert (await doomed.shell(again, "cat /written")).stdout == "before\n"


@pytest.mark.parametrize("point", [f"{moment}:{plans.BACK_OFF}" for moment in MOMENTS])
async def test_a_crash_loop_goes_on_after_a_crash_of_the_agent(
    doomed: RunningAgent, watcher: Watcher, point: str
) -> None:
    await arm(doomed, point)
    request = doomed.request("exit 1", restart={"policy": "on-failure", "max_retries": 2})
    await doomed.ask_in_vain(contract.CREATE_MACHINE, request)
    await doomed.died()
    await doomed.restarted()
    assert_path(await watcher.until(request.machine_id, "stopped", timeout_s=15))


async def test_machines_keep_their_processes_when_the_agent_is_killed(doomed: RunningAgent, watcher: Watcher) -> None:
    machines = [await watcher.until(await doomed.create(), "started") for _ in range(3)]
    pids = [pid_of(doomed, machine) for machine in machines]
    doomed.kill()
    assert all(alive(pid) for pid in pids)
    await doomed.restarted()
    for machine, pid in zip(machines, pids, strict=True):
        after = await watcher.until(machine, "started")
        assert (after.run_id, pid_of(doomed, after)) == (machine.run_id, pid)
        assert (await doomed.shell(after, "echo alive")).stdout == "alive\n"


async def test_an_exit_while_the_agent_is_away_is_not_lost(doomed: RunningAgent, watcher: Watcher) -> None:
    machine = await doomed.create("while ! test -e /go; do sleep 0.05; done; exit 42", restart={"policy": "no"})
    machine = await watcher.until(machine, "started")
    pid = pid_of(doomed, machine)
    doomed.kill()
    Path(f"/proc/{pid}/root/go").touch()
    await eventually(lambda: not alive(pid))
    await doomed.restarted()
    stopped = await watcher.until(machine, "stopped")
    exit = stopped.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["exit_code"] == 42


async def test_a_killed_shim_ends_its_machine_and_the_policy_starts_it_again(
    doomed: RunningAgent, watcher: Watcher
) -> None:
    machine = await watcher.until(await doomed.create(restart={"policy": "always"}), "started")
    (shim,) = sandboxes(machine)
    os.kill(shim, signal.SIGKILL)
    again = await watcher.until(machine, lambda now: now.state == "started" and now.run_id != machine.run_id)
    assert len(sandboxes(again)) == 1
    assert_path(again)


@pytest.fixture
def journal(doomed: RunningAgent) -> Iterator[sqlite3.Connection]:
    connection = sqlite3.connect(doomed.settings.data_dir / "journal.db", isolation_level=None)
    yield connection
    connection.close()


async def test_a_record_that_cannot_be_read_is_set_aside_and_the_rest_adopted(
    doomed: RunningAgent, watcher: Watcher, journal: sqlite3.Connection
) -> None:
    bad = await watcher.until(await doomed.create(), "started")
    good = await watcher.until(await doomed.create(), "started")
    pids = [pid_of(doomed, bad), pid_of(doomed, good)]
    doomed.stop()
    (record,) = journal.execute("SELECT record FROM machines WHERE id = ?", (bad.id,)).fetchone()
    journal.execute("UPDATE machines SET record = ? WHERE id = ?", (record[: len(record) // 2], bad.id))
    await doomed.restarted()
    assert (await doomed.shell(good, "echo here")).stdout == "here\n"
    assert all(alive(pid) for pid in pids), "what runs for the unreadable record is left to the operator"
    # Put it back, as an operator would.
    doomed.stop()
    row = (bad.id, bad.app_id, bad.name, "", record)
    journal.execute("INSERT INTO machines (id, app_id, name, alive, operation, record) VALUES (?, ?, ?, 1, ?, ?)", row)
    journal.execute("DELETE FROM quarantine")
    await doomed.restarted()
    assert (await doomed.shell(bad, "echo back")).stdout == "back\n"


async def test_a_second_agent_on_one_host_is_refused(doomed: RunningAgent, busybox: Path) -> None:
    with pytest.raises(FailedPrecondition, match="another agent runs on this host"):
        await Agent(doomed.settings, ThisComputer(doomed.settings)).start()
