"""The promises of SPECIFICATION.md in numbers: what was measured, what is allowed, what is hoped for."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

PEER = "docker-registry"

Results = dict[str, Any]
"""By part, as each part's `measure` gives them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """`measured` may not exceed `limit`. A `goal` is not a promise: what we want the limit to be."""

    name: str
    measured: float
    limit: float
    goal: float | None = None

    @property
    def kept(self) -> bool:
        return self.measured <= self.limit

    def to_wire(self) -> dict[str, Any]:
        return {**asdict(self), "kept": self.kept}


def judge(results: Results) -> list[Bar]:
    """The promises that these results speak of. What was not measured has none."""
    judges = {
        "create": _create,
        "wake": _wake,
        "edge": _edge,
        "memory": _memory,
        "push": _push,
        "many": _many,
        "dev": _dev,
        "builds": _builds,
        "images": _images,
        "deploys": _deploys,
        "microvms": _microvms,
    }
    return [bar for part, of_part in judges.items() if part in results for bar in of_part(results[part])]


def _create(found: dict[str, Any]) -> list[Bar]:
    bars = [Bar(name="create to started / runc run", measured=found["ratios"]["runc run … true"], limit=2.0)]
    for peer, ratio in found["ratios"].items():
        if peer.startswith(("podman", "docker")):
            bars.append(Bar(name=f"create to started / {peer}", measured=ratio, limit=0.5, goal=0.33))
    return bars


def _wake(found: dict[str, Any]) -> list[Bar]:
    crowd = found["crowd"]
    who = f"{crowd['clients']} clients at a sleeping app"
    return [
        Bar(name="wake to first byte above runc run, ms", measured=found["above_raw_ms"], limit=100.0, goal=60.0),
        Bar(name=f"failures of {who}", measured=crowd["failures"], limit=0),
        # A start too few would be a bug of the bench or of the event log, so it breaks the promise as well.
        Bar(name=f"starts for {who}, apart from 1", measured=abs(crowd["starts"] - 1), limit=0),
    ]


def _edge(found: dict[str, Any]) -> list[Bar]:
    ratios = found["ratios"]
    bars = [Bar(name="edge CPU per request / nginx", measured=ratios["cpu_per_request_vs_nginx"], limit=1.5)]
    for peer in ("caddy", "traefik"):
        if rate := ratios.get(f"rate_vs_{peer}"):
            bars.append(Bar(name=f"{peer} requests per second / edge", measured=round(1 / rate, 2), limit=1.0))
    return bars


def _deploys(found: dict[str, Any]) -> list[Bar]:
    series, requests = found["series"], found["requests"]
    times = (("rolling", 8000.0), ("bluegreen", 8000.0), ("rollback", 3000.0))
    bars = [
        Bar(name=f"{name} of 3 Machines, ms", measured=series[name]["p50_ms"], limit=limit) for name, limit in times
    ]
    bars.append(
        Bar(name="a crash told and put back, ms", measured=found["crash"]["told_and_put_back_ms"], limit=10_000.0)
    )
    for name, load in requests.items():
        bars.append(Bar(name=f"requests that failed meanwhile: {name}", measured=load["failed"], limit=0))
    return bars


def _memory(found: dict[str, Any]) -> list[Bar]:
    return [Bar(name="idle platform, MiB PSS", measured=found["platform_mb"], limit=250.0, goal=150.0)]


def _push(found: dict[str, Any]) -> list[Bar]:
    return [Bar(name="push of 55 MB / Debian's docker-registry", measured=found["ratios"][PEER], limit=1.25, goal=1.0)]


def _many(found: dict[str, Any]) -> list[Bar]:
    alone, crowd, runc = found["series"].values()
    killed = found["agent_killed_over"]
    return [
        Bar(name="starts that failed of 50 at once", measured=found["failed_of_those_at_once"], limit=0),
        Bar(
            name="50 starts at once, p99 / one start, p50",
            measured=round(crowd["p99_ms"] / alone["p50_ms"], 2),
            limit=5.0,
        ),
        Bar(
            name="50 starts at once, p99 / 50 runc run -d at once, p99",
            measured=round(crowd["p99_ms"] / runc["p99_ms"], 2),
            limit=2.0,
            goal=1.0,
        ),
        Bar(name="agent killed over 100 Machines, s until found again", measured=killed["found_again_s"], limit=3.0),
        Bar(name="processes lost by that", measured=killed["processes_lost"], limit=0),
        Bar(name="Machines missing of 200 idle ones", measured=200 - found["idle_machines"], limit=0),
    ]


def _builds(found: dict[str, Any]) -> list[Bar]:
    return [
        Bar(name="rebuild, nothing changed / buildah by hand", measured=found["rebuild_to_by_hand"], limit=1.3),
        Bar(name="app's p99 beside a greedy build / alone", measured=found["p99_beside_to_alone"], limit=2.0),
    ]


def _dev(found: dict[str, Any]) -> list[Bar]:
    series, rates = found["series"], found["creates_per_s"]
    times = {name.split(",")[0]: one for name, one in series.items()}
    bars = [Bar(name="caddis dev, command to ready, ms", measured=times["command to ready"]["p50_ms"], limit=2000.0)]
    for how, rate in rates.items():
        bars.append(Bar(name=f"caddis dev, 150 creates per second / {how}", measured=round(150 / rate, 2), limit=1.0))
    for what, key, limit in (("list of 1000 machines", "p50_ms", 50.0), ("get", "p99_ms", 20.0)):
        bars.append(Bar(name=f"caddis dev, {what}, {key[:3]} ms", measured=times[what][key], limit=limit))
    return bars


def _images(found: dict[str, Any]) -> list[Bar]:
    times = {name.partition(":")[0]: one for name, one in found["series"].items()}
    bars = [Bar(name="image work of a warm start, ms", measured=times["warm"]["p50_ms"], limit=20.0)]
    for peer, ratio in found["ratios"].items():
        limit = 1.0 if peer.startswith("docker") else 0.5
        bars.append(Bar(name=f"image from registry to runnable / {peer}", measured=ratio, limit=limit))
    return bars


def _microvms(found: dict[str, Any]) -> list[Bar]:
    """Where the processor is emulated; a KVM has to be faster."""
    limits = {
        "microVM, create to its app's answer, no template": 4500.0,
        "microVM, create to its app's answer": 1800.0,
        "microVM, suspend": 500.0,
        "microVM, resume": 1000.0,
        "gVisor, suspend": 500.0,
        "gVisor, resume": 500.0,
    }
    series = found["series"]
    return [
        Bar(name=f"{name}, ms", measured=series[name]["p50_ms"], limit=limit)
        for name, limit in limits.items()
        if name in series
    ]
