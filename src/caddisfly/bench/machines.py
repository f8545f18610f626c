"""Creates and wakes, beside what one would run by hand. Taken in turns, so that the computer's moods meet all alike."""

from __future__ import annotations

import asyncio
import statistics
import time
from dataclasses import dataclass, field
from typing import Any

from caddisfly.bench.peers import podman, raw_runc
from caddisfly.bench.platform import APP, IMAGE, Platform
from caddisfly.model.errors import FailedPrecondition

_CONFIG: dict[str, Any] = {
    "image": IMAGE,
    "init": {"exec": ["/bin/busybox", "httpd", "-f", "-p", "0.0.0.0:8080", "-h", "/etc"]},
    "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
    "restart": {"policy": "no"},
    "stop_config": {"signal": "SIGTERM"},
}


@dataclass(slots=True)
class Series:
    """Times of one thing, in milliseconds."""

    name: str
    times_ms: list[float] = field(default_factory=list)

    @property
    def p50(self) -> float:
        return statistics.median(self.times_ms)

    @property
    def p99(self) -> float:
        ordered = sorted(self.times_ms)
        return ordered[min(len(ordered) - 1, round(0.99 * (len(ordered) - 1)))]

    def to_wire(self) -> dict[str, Any]:
        return {"n": len(self.times_ms), "p50_ms": round(self.p50, 1), "p99_ms": round(self.p99, 1)}


async def create(platform: Platform, *, rounds: int) -> dict[str, Any]:
    """API call to `started`, cached image, beside `runc run` and `podman run -d`."""
    ours, raw = Series("create to started"), Series("runc run … true")
    start_raw = raw_runc(platform.directory / "raw")
    async with podman(platform.directory, platform.layout) as peers:
        others = {name: Series(name) for name in peers}
        broken: dict[str, str] = {}
        for round_ in range(rounds + 1):
            turn = {ours.name: await _create_once(platform), raw.name: await start_raw()}
            for name, start in peers.items():
                if name in broken:
                    continue
                try:
                    turn[name] = await start()
                except FailedPrecondition as problem:
                    broken[name] = problem.why
            if round_:  # the first one warms caches
                for series in (ours, raw, *others.values()):
                    if series.name in turn:
                        series.times_ms.append(turn[series.name])
    measured = {series.name: series for series in (ours, raw, *others.values()) if series.times_ms}
    return {
        "series": {name: series.to_wire() for name, series in measured.items()},
        "not_measured": broken,
        "ratios": {
            f"to {name}": round(ours.p50 / series.p50, 2) for name, series in measured.items() if series is not ours
        },
    }


async def _create_once(platform: Platform) -> float:
    machines = platform.client.machines
    began = time.perf_counter()
    made = await machines.create(APP, _CONFIG)
    await machines.wait(APP, made["id"], "started")
    took = (time.perf_counter() - began) * 1000
    await machines.delete(APP, made["id"], force=True)
    await machines.wait(APP, made["id"], "destroyed")
    return took


async def wake(platform: Platform, *, rounds: int, crowd: int = 100) -> dict[str, Any]:
    """A request for a stopped Machine, to its first byte, beside `runc run`; then many clients at once."""
    machines = platform.client.machines
    made = await machines.create(APP, _CONFIG)
    await machines.wait(APP, made["id"], "started")
    woken, raw = Series("request to first byte"), Series("runc run … true")
    start_raw = raw_runc(platform.directory / "raw-wake")
    for round_ in range(rounds + 1):
        await _sleep(platform, made["id"])
        began = time.perf_counter()
        status = await _request(platform.edge_port)
        took, raw_took = (time.perf_counter() - began) * 1000, await start_raw()
        if status != 200:
            raise FailedPrecondition(f"a request for a sleeping Machine got {status}")
        if round_:
            woken.times_ms.append(took)
            raw.times_ms.append(raw_took)
    await _sleep(platform, made["id"])
    before = await _starts(platform, made["id"])
    statuses = await asyncio.gather(*(_request(platform.edge_port) for _ in range(crowd)), return_exceptions=True)
    starts = len(await _starts(platform, made["id"]) - before)
    await machines.delete(APP, made["id"], force=True)
    return {
        "series": {series.name: series.to_wire() for series in (woken, raw)},
        "above_raw_ms": round(woken.p50 - raw.p50, 1),
        "crowd": {"clients": crowd, "failures": sum(status != 200 for status in statuses), "starts": starts},
    }


async def _sleep(platform: Platform, id: str) -> None:
    await platform.client.machines.stop(APP, id)
    await platform.client.machines.wait(APP, id, "stopped")


async def _starts(platform: Platform, id: str) -> set[str]:
    """Ids of the starts among its newest events."""
    events = await platform.client.machines.events(APP, id)
    return {event["id"] for event in events if (event["type"], event["status"]) == ("start", "started")}


async def _request(port: int) -> int:
    """The status of one GET on a connection of its own."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /passwd HTTP/1.1\r\nHost: {APP}.localhost\r\nConnection: close\r\n\r\n".encode())
        async with asyncio.timeout(60):
            line = await reader.readline()
        return int(line.split()[1])
    finally:
        writer.close()
