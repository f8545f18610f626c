"""Leases, with a clock that the test sets (reference machines-api, 4.6)."""

from __future__ import annotations

from dataclasses import replace

import pytest

from caddisfly.host.leases import Leases
from caddisfly.host.operations import lifecycle
from caddisfly.model.errors import Aborted, InvalidArgument, NotFound
from caddisfly.model.machine import Machine, wall_ms
from tests.journal.test_journal import a_machine


class Clock:
    def __init__(self) -> None:
        self.s = 1000.0

    def __call__(self) -> float:
        return self.s


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def leases(clock: Clock) -> Leases:
    return Leases(clock)


def taken(leases: Leases, machine: Machine | None = None, *, ttl_s: int = 30, nonce: str = "") -> Machine:
    return leases.take(machine or a_machine(), nonce=nonce, owner="ann@example.com", ttl_s=ttl_s, description="")


def nonce_of(machine: Machine) -> str:
    assert machine.lease is not None
    return machine.lease.nonce


def test_only_its_holder_may_change_a_leased_machine(leases: Leases) -> None:
    machine = taken(leases)
    for wrong in ("", "0" * 12):
        with pytest.raises(Aborted, match=f"machine ID {machine.id} lease currently held by ann@example.com"):
            leases.check(machine, wrong)
    leases.check(machine, nonce_of(machine))
    guarded = leases.guard("", lambda now: lifecycle.stop(now, source="user"))
    with pytest.raises(Aborted):
        guarded(replace(machine, state="started"))


def test_it_ends_by_itself_on_a_clock_that_nobody_sets(
    leases: Leases, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = taken(leases, ttl_s=30)
    monkeypatch.setattr("caddisfly.host.leases.wall_ms", lambda: wall_ms() + 10**9)
    clock.s += 29.9
    assert leases.of(machine) == machine.lease
    clock.s += 0.2
    assert leases.of(machine) is None
    leases.check(machine, "")
    again = taken(leases, machine)
    assert nonce_of(again) != nonce_of(machine)


def test_a_refresh_keeps_the_nonce_and_moves_the_end(leases: Leases, clock: Clock) -> None:
    machine = taken(leases, ttl_s=10)
    clock.s += 9
    refreshed = taken(leases, machine, ttl_s=10, nonce=nonce_of(machine))
    assert nonce_of(refreshed) == nonce_of(machine)
    clock.s += 9
    assert leases.of(refreshed) is not None
    with pytest.raises(Aborted, match="currently held by"):
        taken(leases, refreshed)


def test_refreshing_what_has_ended_says_so(leases: Leases, clock: Clock) -> None:
    machine = taken(leases, ttl_s=10)
    clock.s += 11
    with pytest.raises(Aborted, match=" lease not found"):
        taken(leases, machine, nonce=nonce_of(machine))


def test_releasing(leases: Leases) -> None:
    machine = taken(leases)
    with pytest.raises(InvalidArgument):
        leases.release(machine, nonce="")
    with pytest.raises(Aborted, match="currently held by"):
        leases.release(machine, nonce="0" * 12)
    free = leases.release(machine, nonce=nonce_of(machine))
    assert free.lease is None
    with pytest.raises(NotFound, match=" lease not found"):
        leases.release(free, nonce=nonce_of(machine))


def test_another_agent_counts_on_from_what_is_left(leases: Leases) -> None:
    machine = Machine.from_record(taken(leases, ttl_s=30).to_record())
    clock = Clock()
    after = Leases(clock)
    assert after.of(machine) is not None
    clock.s += 31
    assert after.of(machine) is None
