"""What the bench makes of its numbers."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from caddisfly.bench.bars import Bar, judge
from caddisfly.bench.machines import ratios
from caddisfly.bench.series import Series


def test_a_median_is_the_middle_and_p99_of_few_is_the_slowest() -> None:
    series = Series("x", [5.0, 1.0, 3.0, 100.0, 2.0])
    assert series.to_wire() == {"n": 5, "p50_ms": 3.0, "p99_ms": 100.0, "min_ms": 1.0}


def test_p99_of_many_leaves_the_slowest_hundredth_out() -> None:
    assert Series("x", [float(ms) for ms in range(1, 201)]).p99 == 198.0
    assert Series("x", [float(ms) for ms in range(1, 101)]).p99 == 99.0


def test_ratios_are_of_medians() -> None:
    series = {"ours": Series("ours", [90.0, 100.0, 900.0]), "raw": Series("raw", [40.0, 50.0, 60.0])}
    assert ratios(series, of="ours") == {"raw": 2.0}


RESULTS: dict[str, Any] = {
    "create": {"ratios": {"runc run … true": 1.9, "runc run -d … sleep": 2.4, "podman run -d": 0.45}},
    "wake": {"above_raw_ms": 66.0, "crowd": {"clients": 100, "failures": 0, "starts": 1}},
    "edge": {"ratios": {"cpu_per_request_vs_nginx": 1.3, "rate_vs_caddy": 1.6}},
    "memory": {"platform_mb": 199.0, "per_machine_mb": 2.0},
    "many": {
        "series": {
            "one start": {"p50_ms": 50.0, "p99_ms": 60.0},
            "each of 50": {"p50_ms": 200.0, "p99_ms": 250.0},
            "each of 50 runc": {"p50_ms": 150.0, "p99_ms": 200.0},
        },
        "failed_of_those_at_once": 0,
        "agent_killed_over": {"machines": 100, "found_again_s": 2.9, "processes_lost": 0},
        "idle_machines": 200,
    },
    "dev": {
        "series": {
            "command to ready": {"p50_ms": 900.0, "p99_ms": 9000.0},
            "list of 1000 machines": {"p50_ms": 9.0, "p99_ms": 90.0},
            "get, at 200 per second": {"p50_ms": 1.0, "p99_ms": 5.0},
        },
        "creates_per_s": {"recorded": 600.0, "launched": 300.0},
    },
    "microvms": {
        "series": {
            "microVM, create to its app's answer, no template": {"p50_ms": 2700.0},
            "microVM, create to its app's answer": {"p50_ms": 1200.0},
            "QEMU by hand, to its program's answer": {"p50_ms": 2500.0},
            "microVM, suspend": {"p50_ms": 400.0},
            "microVM, resume": {"p50_ms": 700.0},
            "gVisor, suspend": {"p50_ms": 300.0},
            "gVisor, resume": {"p50_ms": 300.0},
        },
    },
}


def dev(**changed: float) -> dict[str, Any]:
    """Results of `dev` in which some numbers are others."""
    found: dict[str, Any] = copy.deepcopy(RESULTS["dev"])
    for name, value in changed.items():
        if name in found["creates_per_s"]:
            found["creates_per_s"][name] = value
        else:
            series = next(one for key, one in found["series"].items() if name in key)
            series.update(p50_ms=value, p99_ms=value)
    return found


def test_every_promise_is_judged_when_all_was_measured() -> None:
    bars = judge(RESULTS)
    assert [bar.name for bar in bars] == [
        "create to started / runc run",
        "create to started / podman run -d",
        "wake to first byte above runc run, ms",
        "failures of 100 clients at a sleeping app",
        "starts for 100 clients at a sleeping app, apart from 1",
        "edge CPU per request / nginx",
        "caddy requests per second / edge",
        "idle platform, MiB PSS",
        "starts that failed of 50 at once",
        "50 starts at once, p99 / one start, p50",
        "50 starts at once, p99 / 50 runc run -d at once, p99",
        "agent killed over 100 Machines, s until found again",
        "processes lost by that",
        "Machines missing of 200 idle ones",
        "caddis dev, command to ready, ms",
        "caddis dev, 150 creates per second / recorded",
        "caddis dev, 150 creates per second / launched",
        "caddis dev, list of 1000 machines, p50 ms",
        "caddis dev, get, p99 ms",
        "microVM, create to its app's answer, no template, ms",
        "microVM, create to its app's answer, ms",
        "microVM, suspend, ms",
        "microVM, resume, ms",
        "gVisor, suspend, ms",
        "gVisor, resume, ms",
    ]
    assert all(bar.kept for bar in bars)


@pytest.mark.parametrize("part", RESULTS)
def test_what_was_not_measured_is_not_judged(part: str) -> None:
    assert len(judge({part: RESULTS[part]})) < len(judge(RESULTS))


@pytest.mark.parametrize(
    ("part", "changed"),
    [
        ("create", {"ratios": {"runc run … true": 2.01}}),
        ("create", {"ratios": {"runc run … true": 1.0, "docker run -d": 0.51}}),
        ("wake", {"above_raw_ms": 100.1, "crowd": {"clients": 100, "failures": 0, "starts": 1}}),
        ("wake", {"above_raw_ms": 1.0, "crowd": {"clients": 100, "failures": 1, "starts": 1}}),
        ("wake", {"above_raw_ms": 1.0, "crowd": {"clients": 100, "failures": 0, "starts": 2}}),
        ("wake", {"above_raw_ms": 1.0, "crowd": {"clients": 100, "failures": 0, "starts": 0}}),
        ("edge", {"ratios": {"cpu_per_request_vs_nginx": 1.0, "rate_vs_traefik": 0.9}}),
        ("memory", {"platform_mb": 250.1}),
        ("many", {**RESULTS["many"], "failed_of_those_at_once": 1}),
        ("many", {**RESULTS["many"], "idle_machines": 199}),
        ("many", {**RESULTS["many"], "agent_killed_over": {"found_again_s": 3.1, "processes_lost": 0}}),
        ("many", {**RESULTS["many"], "agent_killed_over": {"found_again_s": 2.9, "processes_lost": 1}}),
        ("dev", dev(ready=2001)),
        ("dev", dev(recorded=149)),
        ("dev", dev(launched=149)),
        ("dev", dev(list=50.1)),
        ("dev", dev(get=20.1)),
        ("microvms", {"series": {"microVM, create to its app's answer": {"p50_ms": 1800.1}}}),
        ("microvms", {"series": {"microVM, resume": {"p50_ms": 1000.1}}}),
    ],
)
def test_one_number_too_many_breaks_one_promise(part: str, changed: dict[str, Any]) -> None:
    assert [bar.kept for bar in judge({part: changed})].count(False) == 1


def test_a_goal_is_not_a_promise() -> None:
    bar = Bar(name="x", measured=0.4, limit=0.5, goal=0.33)
    assert bar.to_wire() == {"name": "x", "measured": 0.4, "limit": 0.5, "goal": 0.33, "kept": True}
