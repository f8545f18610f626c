"""Which call is legal in which state (reference machines-api, 4.3), and what follows from an exit (4.4)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from caddisfly.host.operations import lifecycle, plans
from caddisfly.host.operations.lifecycle import Busy, Decision
from caddisfly.model.config import Config
from caddisfly.model.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound
from caddisfly.model.machine import Exit, Machine
from tests.journal.test_journal import a_machine

TRANSIENT = ("starting", "stopping", "restarting", "replacing", "updating", "suspending", "destroying")


def in_state(state: str, **changes: object) -> Machine:
    """A Machine as it is in that state: in a transient one with its operation under way."""
    operation = "under-way" if state in TRANSIENT or state == "created" else ""
    run_id = "r" if state in ("started", "suspending", "suspended") else ""
    return a_machine(state=state, run_id=run_id, **{"operation": operation, **changes})


def update(machine: Machine, **changes: Any) -> Decision:
    args = {"config": machine.config, "image": machine.image, "current_version": "", "launch": True, "cordoned": False}
    return lifecycle.update(machine, **{**args, **changes})


CALLS: dict[str, Callable[[Machine], Decision]] = {
    "start": lambda machine: lifecycle.start(machine, source="user"),
    "stop": lambda machine: lifecycle.stop(machine, source="user"),
    "restart": lambda machine: lifecycle.restart(machine, source="user"),
    "update": update,
    "delete": lambda machine: lifecycle.destroy(machine, source="user", force=False),
    "force": lambda machine: lifecycle.destroy(machine, source="user", force=True),
    "suspend": lambda machine: lifecycle.suspend(machine, source="user", boot="now"),
}
NOOP, WAITS, LATE, GONE, RACE = "noop", Busy, FailedPrecondition, NotFound, Aborted
STATES = ("created", "starting", "started", "stopping", "stopped", "replacing", "failed", "destroying", "destroyed")
TABLE: dict[str, tuple[object, ...]] = {
    "start": (LATE, NOOP, NOOP, LATE, plans.START, LATE, plans.START, LATE, GONE),
    "stop": (NOOP, WAITS, plans.STOP, NOOP, NOOP, WAITS, plans.SETTLE, NOOP, GONE),
    "restart": (WAITS, WAITS, plans.RESTART, WAITS, plans.START, WAITS, plans.START, LATE, GONE),
    "update": (WAITS, WAITS, plans.REPLACE, WAITS, plans.RENEW, RACE, plans.RENEW, LATE, GONE),
    "delete": (WAITS, LATE, LATE, LATE, plans.DESTROY, LATE, plans.DESTROY, NOOP, GONE),
    "force": (WAITS, WAITS, plans.DESTROY, WAITS, plans.DESTROY, WAITS, plans.DESTROY, NOOP, GONE),
    "suspend": (LATE, LATE, plans.SUSPEND, LATE, LATE, LATE, LATE, LATE, GONE),
}
ASLEEP: dict[str, tuple[object, object]] = {
    "start": (WAITS, plans.RESUME),
    "stop": (WAITS, plans.DISCARD),
    "restart": (WAITS, plans.RESTART),
    "update": (WAITS, plans.SHED),
    "delete": (LATE, plans.DESTROY),
    "force": (WAITS, plans.DESTROY),
    "suspend": (NOOP, NOOP),
}
_ASLEEP = ("suspending", "suspended")
CASES = [(call, state, row[index]) for call, row in TABLE.items() for index, state in enumerate(STATES)]
CASES += [(call, state, outcome) for call, row in ASLEEP.items() for state, outcome in zip(_ASLEEP, row, strict=True)]


@pytest.mark.parametrize(("call", "state", "outcome"), CASES, ids=[f"{call}-{state}" for call, state, _ in CASES])
def test_a_call_in_a_state(call: str, state: str, outcome: object) -> None:
    machine = in_state(state)
    if isinstance(outcome, type):
        with pytest.raises(outcome) as caught:
            CALLS[call](machine)
        if outcome is FailedPrecondition:
            assert not isinstance(caught.value, Busy)
        return
    decision = CALLS[call](machine)
    if outcome == NOOP:
        assert decision == Decision(machine)
        return
    assert decision.operation is not None
    assert decision.operation.kind == outcome
    assert decision.machine.operation == decision.operation.id
    news = [event.type for event in reversed(decision.machine.events[:-1])]
    ends = state == "suspended" and call in ("stop", "restart")  # the run whose memory it was
    assert news[1:] == (["exit"] if ends else []), "one new event"


def test_a_start_of_a_machine_that_was_just_created_names_its_state() -> None:
    with pytest.raises(FailedPrecondition, match="unable to start machine from current state: 'created'"):
        CALLS["start"](in_state("created"))


def test_an_update_of_another_version_is_refused() -> None:
    with pytest.raises(Aborted, match="concurrent update"):
        update(in_state("started"), current_version="01OTHER")


def running(**config: Any) -> Machine:
    return in_state("started", config=Config.parse({"image": "x", **config}))


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [
        ("no", 1, False),
        ("no", 0, False),
        ("always", 0, True),
        ("always", 1, True),
        ("on-failure", 0, False),
        ("on-failure", 1, True),
        (None, 1, True),
        (None, 0, False),
    ],
)
def test_the_policy_decides_on_an_exit(policy: str | None, code: int, again: bool) -> None:
    machine = running(**({"restart": {"policy": policy}} if policy else {}))
    decision = lifecycle.exited(machine, Exit(exit_code=code), operation=None)
    assert decision.operation is not None
    assert decision.operation.kind == (plans.RETRY if again else plans.SETTLE)
    exit = decision.machine.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["restarting"] is again
    assert not exit.request["exit_event"]["requested_stop"]


def test_retries_back_off_and_end() -> None:
    delays = []
    machine = running(restart={"policy": "on-failure", "max_retries": 10})
    for _ in range(10):
        decision = lifecycle.exited(replace(machine, exited_run=""), Exit(exit_code=1), operation=None)
        assert decision.operation is not None
        delays.append(decision.operation.args["delay_s"])
        machine = replace(decision.machine, state="started", operation="")
    assert delays == sorted(delays)
    assert (delays[0], delays[-1]) == (0.25, 30.0)
    last = lifecycle.exited(replace(machine, exited_run=""), Exit(exit_code=1), operation=None)
    assert last.operation is not None
    assert last.operation.kind == plans.SETTLE


def test_an_exit_that_was_asked_for_is_never_undone() -> None:
    machine = running(restart={"policy": "always"})
    stopping = lifecycle.stop(machine, source="user")
    decision = lifecycle.exited(stopping.machine, Exit(exit_code=1), operation=stopping.operation)
    assert decision.operation is None
    exit = decision.machine.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["requested_stop"]


def test_an_exit_is_recorded_once() -> None:
    once = lifecycle.exited(running(), Exit(exit_code=0), operation=None).machine
    assert lifecycle.exited(once, Exit(exit_code=0), operation=None) == Decision(once)


def test_auto_destroy_follows_a_final_exit_and_a_stop_but_never_a_restart() -> None:
    machine = running(auto_destroy=True, restart={"policy": "no"})
    final = lifecycle.exited(machine, Exit(exit_code=1), operation=None)
    assert final.operation is not None
    assert final.operation.kind == plans.DESTROY
    stopping = lifecycle.stop(machine, source="user")
    assert stopping.operation is not None
    after = lifecycle.finished(stopping.machine, stopping.operation)
    assert after.operation is not None
    assert after.operation.kind == plans.DESTROY
    always = running(auto_destroy=True, restart={"policy": "always"})
    again = lifecycle.exited(always, Exit(exit_code=0), operation=None)
    assert again.operation is not None
    assert again.operation.kind == plans.RETRY


def test_a_failed_update_of_a_running_machine_puts_the_version_before_it_back() -> None:
    machine = running(env={"A": "1"})
    begun = update(machine, config=Config.parse({"image": "y"}))
    assert begun.operation is not None
    assert begun.machine.instance_id != machine.instance_id
    back = lifecycle.failed(begun.machine, begun.operation, NotFound("no such image"), now_ms=1).machine
    assert (back.state, back.instance_id, back.config) == ("started", machine.instance_id, machine.config)


def test_a_parked_machine_remembers_that_it_ran() -> None:
    parked = lifecycle.park(running())
    assert parked.operation is not None
    down = lifecycle.finished(parked.machine, parked.operation).machine
    assert (down.state, down.parked) == ("stopped", True)
    assert not lifecycle.start(down, source="flyd").machine.parked
    assert not lifecycle.stop(down, source="user").machine.parked, "a stop means it: it stays down"


@pytest.mark.parametrize("state", TRANSIENT)
def test_there_is_a_way_out_of_every_state_in_between(state: str) -> None:
    assert lifecycle.recovered(in_state(state, operation="")).operation is not None


def test_an_update_that_is_undone_has_its_secrets_back() -> None:
    machine = in_state("started", secrets_version=3)
    decision = update(machine, secrets_version=4)
    assert decision.machine.secrets_version == 4
    assert decision.operation is not None
    back = lifecycle.failed(decision.machine, decision.operation, InvalidArgument("manifest unknown"), now_ms=1)
    assert (back.machine.secrets_version, back.machine.state) == (3, "started")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ({"guest": {"cpu_kind": "performance", "cpus": 1, "memory_mb": 4096}}, "4096 MiB"),
        ({"init": {"swap_size_mb": 64}}, "swap"),
        ({"schedule": "daily"}, "schedule"),
        ({"processes": [{"cmd": ["a"]}, {"cmd": ["b"]}]}, "several programs"),
    ],
)
def test_what_cannot_be_suspended_says_why(config: dict[str, Any], why: str) -> None:
    with pytest.raises(FailedPrecondition, match="unable to suspend machine") as caught:
        CALLS["suspend"](running(**config))
    assert why in caught.value.why
    assert lifecycle.suspend(running(guest={"cpus": 1, "memory_mb": 2048}), source="user", boot="b").operation
