"""When a new version is well, and when it is certain that it will not be."""

from __future__ import annotations

from typing import Any

import pytest

from caddisfly.launch.deploy.gate import Expectation, Failed, Passed, Pending, final_answer, judge, listens_elsewhere

_CHECKED = {"services": [{"internal_port": 80, "checks": [{"type": "http"}]}]}


def machine(state: str = "started", *, events: Any = (), checks: Any = (), version: str = "v2") -> dict[str, Any]:
    return {"id": "m", "state": state, "instance_id": version, "events": list(events), "checks": list(checks)}


def exited(code: int, id: str = "e9", **more: Any) -> dict[str, Any]:
    return {"id": id, "type": "exit", "request": {"exit_event": {"exit_code": code, **more}}}


def expected(config: Any = None, **more: Any) -> Expectation:
    return Expectation(config=config or {}, since="e1", version="v2", **more)


def test_without_checks_it_has_to_stay_up_for_a_while() -> None:
    assert isinstance(judge(machine(), expected(look_s=10), up_s=9), Pending)
    assert isinstance(judge(machine(), expected(look_s=10), up_s=10), Passed)


def test_with_checks_all_of_them_have_to_pass() -> None:
    passing, critical = {"name": "a", "status": "passing"}, {"name": "b", "status": "critical"}
    assert isinstance(judge(machine(checks=[passing]), expected(_CHECKED)), Passed)
    assert isinstance(judge(machine(checks=[passing, critical]), expected(_CHECKED)), Pending)
    assert isinstance(judge(machine(checks=[]), expected(_CHECKED)), Pending)


@pytest.mark.parametrize(
    ("left", "why"),
    [
        (exited(3), "exit code 3"),
        (exited(137, oom_killed=True), "out of memory"),
        (exited(-1, error="no such file"), "no such file"),
    ],
)
def test_an_exit_with_an_error_is_final_whatever_comes_after_it(left: dict[str, Any], why: str) -> None:
    for state in ("started", "restarting", "starting", "stopped"):
        verdict = judge(machine(state, events=[left, {"id": "e1"}]), expected(_CHECKED))
        assert isinstance(verdict, Failed)
        assert why in verdict.why


def test_the_end_of_the_old_version_says_nothing_about_the_new_one() -> None:
    asked_for = exited(143, requested_stop=True)
    assert isinstance(judge(machine(events=[asked_for, {"id": "e1"}]), expected(look_s=0)), Passed)
    assert isinstance(judge(machine(events=[{"id": "e1"}, exited(3, "e0")]), expected(look_s=0)), Passed)


def test_ending_with_success_is_well_for_a_job_and_not_for_a_service() -> None:
    ended = machine("stopped", events=[exited(0), {"id": "e1"}])
    assert isinstance(judge(ended, expected()), Passed)
    assert isinstance(judge(ended, expected(_CHECKED)), Failed)
    again = machine("started", events=[exited(0, "e3"), exited(0, "e2"), {"id": "e1"}])
    assert isinstance(judge(again, expected()), Failed)


def test_a_version_that_is_not_the_one_expected() -> None:
    undone = {"id": "e2", "type": "update", "status": "failed", "request": {"error": "no image"}}
    verdict = judge(machine(events=[undone, {"id": "e1"}], version="v1"), expected())
    assert isinstance(verdict, Failed)
    assert verdict.why == "no image"
    other = judge(machine(version="v3"), expected())
    assert isinstance(other, Failed)
    assert "somebody else" in other.what


@pytest.mark.parametrize(
    ("output", "final"),
    [
        ("status 404: not here", True),
        ("status 301", True),
        ("status 401", True),
        ("status 500: boom", False),
        ("status 503", False),
        ("connect: connection refused", False),
        ("timed out after 2 s", False),
    ],
)
def test_answers_that_time_does_not_change(output: str, final: bool) -> None:
    checks = [{"name": "a", "status": "critical", "output": output}]
    assert bool(final_answer(machine(checks=checks))) is final


@pytest.mark.parametrize(
    ("addresses", "told"),
    [
        (["0.0.0.0:80"], False),
        (["[::]:80"], False),
        (["127.0.0.1:80"], True),
        (["[::1]:80"], True),
        (["0.0.0.0:3000"], True),
        ([], False),  # nothing at all: it may be about to
    ],
)
def test_an_app_that_listens_elsewhere_is_told_where(addresses: list[str], told: bool) -> None:
    sockets = [{"proto": "tcp", "address": address} for address in addresses]
    found = listens_elsewhere([{"listen_sockets": sockets}], [80])
    assert bool(found) is told
    if told:
        assert addresses[0] in found
        assert "0.0.0.0:80" in found
