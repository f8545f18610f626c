"""Which Machines are not needed (reference edge-network, 3.1 and A1 to A6), without a clock and without an edge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from caddisfly.edge.autostop.rule import Departure, Work, departures
from caddisfly.model.check import Check
from caddisfly.model.config import Config
from caddisfly.model.lease import Lease
from caddisfly.model.machine import Machine
from tests.edge.conftest import service
from tests.journal.test_journal import a_machine

PASS_S = 240.0
NOW_MS = 10_000_000
OLD_MS = NOW_MS - 3_600_000


def machine(number: int, *, region: str = "iad", env: dict[str, str] | None = None, **changes: Any) -> Machine:
    """One that has run for an hour, with a soft limit of 10."""
    limits = {"concurrency": {"soft_limit": 10}}
    one = {"autostop": True, **limits, **changes.pop("service", {})}
    services = changes.pop("services", None) or [service(8080, **one)]
    config = {"image": "x", "services": services, "env": env or {}, **changes.pop("config", {})}
    plain = replace(
        a_machine(),
        events=(),
        id=f"{number:014d}",
        run_id=f"run-{number}",
        region=region,
        state="started",
        config=Config(config),
    )
    return replace(plain.with_event("start", "started", source="user", now_ms=OLD_MS), **changes)


def busy(*loads: int, port: int = 8080) -> dict[tuple[str, int], Work]:
    """Loads of the Machines 0, 1, 2…"""
    return {(f"run-{number}", port): Work(load=load, peak=load, idle_s=0) for number, load in enumerate(loads) if load}


def decide(machines: list[Machine], works: dict[tuple[str, int], Work] | None = None) -> list[Departure]:
    return departures(machines, works or {}, now_ms=NOW_MS, pass_s=PASS_S)


def passes(machines: list[Machine], works: dict[tuple[str, int], Work] | None = None) -> list[int]:
    """How many run after each pass, until one changes nothing."""
    counts = []
    while gone := {one.machine.id for one in decide(machines, works)}:
        machines = [one for one in machines if one.id not in gone]
        counts.append(len(machines))
    return counts


def test_idle_machines_leave_one_by_one_and_the_last_one_too() -> None:
    """A1."""
    assert passes([machine(number) for number in range(5)]) == [4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("loads", "left"),
    [
        ((10, 10, 10, 0, 0), [4]),  # A2: 5 - (3 + 1) is 1, then 4 - (3 + 1) is 0
        ((10, 10, 10, 10, 0), []),
        ((3, 2, 0), [2, 1]),
        ((9, 9, 9, 9, 9), [4, 3, 2, 1]),  # below the limit: one has room for all that one pass sees
        ((1,), []),  # alone, and it has something to do
        ((0,), [0]),
        ((50, 0), []),  # one is busy, one is there for the next request
    ],
)
def test_as_many_stay_as_have_enough_to_do_and_one_more(loads: tuple[int, ...], left: list[int]) -> None:
    assert passes([machine(number) for number in range(len(loads))], busy(*loads)) == left


def test_the_minimum_is_that_of_the_primary_region() -> None:
    """A3."""
    common: dict[str, Any] = {"service": {"min_machines_running": 2}, "env": {"PRIMARY_REGION": "iad"}}
    here = [machine(number, **common) for number in range(3)]
    there = [machine(number, region="ams", **common) for number in range(3, 5)]
    assert passes([*here, *there]) == [3, 2]
    assert {one.machine.region for one in decide([*here[:2], *there])} == {"ams"}


def test_without_a_primary_region_the_minimum_is_that_of_each() -> None:
    changes: dict[str, Any] = {"service": {"min_machines_running": 1}}
    assert passes([*(machine(n, **changes) for n in range(2)), machine(2, region="ams", **changes)]) == [2]


def test_many_in_excess_leave_faster() -> None:
    left = passes([machine(number) for number in range(400)])
    assert left[0] == 301  # a quarter of the excess of 399
    assert len(left) < 25
    assert left[-3:] == [2, 1, 0]


def test_the_least_loaded_goes_first_and_of_these_who_was_idle_longest() -> None:
    machines = [machine(number) for number in range(4)]
    works = {
        ("run-0", 8080): Work(load=2, peak=2, idle_s=0),
        ("run-1", 8080): Work(idle_s=300),
        ("run-2", 8080): Work(idle_s=900),
        ("run-3", 8080): Work(load=0, peak=1, idle_s=100),
    }
    order = []
    while machines and (gone := decide(machines, works)):
        order.append(gone[0].machine.run_id)
        machines.remove(gone[0].machine)
    assert order == ["run-2", "run-1", "run-3"]


def test_one_that_its_checks_keep_requests_from_goes_before_one_that_serves() -> None:
    bad = Check(name="servicecheck-00-http-8080", status="critical", output="", updated_at="", readiness=True)
    machines = [machine(0), machine(1, checks=(bad,))]
    assert [one.machine.run_id for one in decide(machines, busy(0, 1))] == ["run-1"]


def test_a_request_a_second_is_not_idle() -> None:
    """Nothing is under way when it is counted, but something was a moment ago."""
    works = {("run-0", 8080): Work(load=0, peak=1, idle_s=0.7)}
    assert decide([machine(0)], works) == []


@pytest.mark.parametrize(
    "changes",
    [
        {"cordoned": True},
        {"state": "starting"},
        {"operation": "01J"},
        {"lease": Lease(nonce="n", owner="o", expires_ms=NOW_MS + 1)},
        {"service": {"autostop": False}},
        {"services": [service(8080, autostop=True), service(9090)]},
        {"services": [{"protocol": "tcp", "internal_port": 8080, "autostop": True}]},
    ],
    ids=["cordoned", "on its way", "at work", "leased", "off", "one service off", "no ports"],
)
def test_who_never_goes(changes: dict[str, Any]) -> None:
    assert decide([machine(0, **changes)]) == []


def test_a_lease_that_has_ended_keeps_nobody() -> None:
    assert decide([machine(0, lease=Lease(nonce="n", owner="o", expires_ms=NOW_MS))])


@pytest.mark.parametrize("begin", ["start", "resume", "restart", "update", "launch"])
def test_who_started_since_the_last_pass_stays(begin: str) -> None:
    young = machine(0).with_event(begin, "started", source="flyd", now_ms=NOW_MS - int(PASS_S * 1000) + 1)
    assert decide([young]) == []


def test_all_services_of_a_machine_must_be_idle() -> None:
    services = [service(8080, autostop=True), service(9090, autostop=True)]
    assert decide([machine(0, services=services)], busy(1, port=9090)) == []
    assert decide([machine(0, services=services)])


def test_a_service_that_only_some_machines_have_is_counted_among_them() -> None:
    """Two serve 8080, one of them 9090 as well, which is busy: the other one is in excess."""
    both = machine(0, services=[service(8080, autostop=True), service(9090, autostop=True)])
    assert [one.machine.run_id for one in decide([both, machine(1)], busy(1, port=9090))] == ["run-1"]


def test_what_it_says_of_a_departure() -> None:
    (last,) = decide([machine(0, service={"autostop": "suspend"})])
    assert (last.suspend, last.alone, last.reason) == (True, True, "no request came for it")
    (one,) = decide([machine(number) for number in range(3)], busy(10, 0, 0))
    assert (one.suspend, one.alone) == (False, False)
    assert one.reason == "3 ran in iad, and 1 of them had enough to do"


def test_what_suspends_for_one_service_and_stops_for_another_stops() -> None:
    (one,) = decide([machine(0, services=[service(8080, autostop="suspend"), service(9090, autostop=True)])])
    assert not one.suspend
