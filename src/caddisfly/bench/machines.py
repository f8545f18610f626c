"""Creates and wakes, beside what one would run by hand. Taken in turns, so that the computer's moods meet all alike."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from caddisfly.bench.peers import RAW, Start, docker, podman, raw_runc
from caddisfly.bench.platform import APP, IMAGE, Platform
from caddisfly.bench.series import Series
from caddisfly.model.errors import FailedPrecondition

_CREATE, _WAKE = "create to started", "request to first byte"
_CONFIG: dict[str, Any] = {
    "image": IMAGE,
    "init": {"exec": ["/bin/busybox", "httpd", "-f", "-p", "0.0.0.0:8080", "-h", "/etc"]},
    "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
    "restart": {"policy": "no"},
    "stop_config": {"signal": "SIGTERM"},
}


async def create(platform: Platform, *, rounds: int) -> dict[str, Any]:
    """API call to `started`, cached image, beside the runtime by hand, podman and, where one answers, docker."""

    async def ours() -> float:
        return await _create_once(platform)

    async with podman(platform.directory, platform.layout) as pods, docker(platform.directory) as dockers:
        starts = {_CREATE: ours, **raw_runc(platform.directory / "raw"), **pods, **dockers}
        series, broken = await _in_turns(starts, rounds=rounds, needed=(_CREATE, RAW))
    return {
        "series": {name: of_one.to_wire() for name, of_one in series.items()},
        "not_measured": broken,
        "ratios": ratios(series, of=_CREATE),
    }


async def _in_turns(
    starts: Mapping[str, Start], *, rounds: int, needed: tuple[str, ...]
) -> tuple[dict[str, Series], dict[str, str]]:
    """Each once per round. Those that fail and are not needed are left out, with their reason."""
    series, broken = {name: Series(name) for name in starts}, dict[str, str]()
    for round_ in range(rounds + 1):
        for name in [name for name in starts if name not in broken]:
            try:
                took_ms = await starts[name]()
            except FailedPrecondition as problem:
                if name in needed:
                    raise
                broken[name] = problem.why
                continue
            if round_:  # the first one warms caches
                series[name].times_ms.append(took_ms)
    return {name: of_one for name, of_one in series.items() if name not in broken}, broken


def ratios(series: Mapping[str, Series], *, of: str) -> dict[str, float]:
    """The median of one, in medians of each other."""
    return {name: round(series[of].p50 / other.p50, 2) for name, other in series.items() if name != of}


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
    id = (await machines.create(APP, _CONFIG))["id"]
    await machines.wait(APP, id, "started")

    async def wake_once() -> float:
        await _sleep(platform, id)
        began = time.perf_counter()
        status = await _request(platform.edge_port)
        took = (time.perf_counter() - began) * 1000
        if status != 200:
            raise FailedPrecondition("a request for a sleeping Machine failed", why=f"the edge answered {status}")
        return took

    raw = raw_runc(platform.directory / "raw-wake")[RAW]
    series, _ = await _in_turns({_WAKE: wake_once, RAW: raw}, rounds=rounds, needed=(_WAKE, RAW))
    found = await _crowd(platform, id, crowd)
    await machines.delete(APP, id, force=True)
    return {
        "series": {name: of_one.to_wire() for name, of_one in series.items()},
        "above_raw_ms": round(series[_WAKE].p50 - series[RAW].p50, 1),
        "crowd": found,
    }


async def _crowd(platform: Platform, id: str, clients: int) -> dict[str, Any]:
    """Everybody at once at a sleeping Machine. Whatever is not a 200 is a failure."""
    await _sleep(platform, id)
    before = await _starts(platform, id)
    statuses = await asyncio.gather(*(_request(platform.edge_port) for _ in range(clients)), return_exceptions=True)
    await platform.client.machines.wait(APP, id, "started")
    starts = len(await _starts(platform, id) - before)
    return {"clients": clients, "failures": sum(status != 200 for status in statuses), "starts": starts}


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
