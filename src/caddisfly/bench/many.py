"""Many Machines: fifty started in one moment, two hundred that idle, and an agent killed over a hundred that run."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from pathlib import Path
from typing import Any

from caddisfly.bench.peers import raw_crowd
from caddisfly.bench.platform import APP, IMAGE, Platform
from caddisfly.bench.series import Series
from caddisfly.bus.contract import HOST_STATUS, Nothing
from caddisfly.bus.rpc import LocalCaller
from caddisfly.model.errors import DeadlineExceeded, Unavailable

_AT_ONCE, _RUNNING, _IDLE = 50, 100, 200
_SLEEPER: dict[str, Any] = {
    "image": IMAGE,
    "init": {"exec": ["/bin/sleep", "100000"]},
    "stop_config": {"signal": "SIGKILL"},
}
_MAKERS = 8
_LOOK_EVERY_S = 0.02


async def measure(platform: Platform, *, rounds: int) -> dict[str, Any]:
    """What a start costs alone and in a crowd, in ms; how long until a new agent has found everything again."""
    machines = platform.client.machines
    ids = await _make(platform, _AT_ONCE, skip_launch=True)
    alone, crowd = Series("one start"), Series(f"each of {_AT_ONCE} starts at once")
    runc = Series(f"each of {_AT_ONCE} runc run -d at once")
    for _ in range(rounds):
        alone.times_ms.append(await _start(platform, ids[0]))
        await machines.stop(APP, ids[0])
        await machines.wait(APP, ids[0], "stopped")
    outcomes = await asyncio.gather(*(_start(platform, id) for id in ids), return_exceptions=True)
    failed = [outcome for outcome in outcomes if isinstance(outcome, BaseException)]
    runc.times_ms += await raw_crowd(platform.directory / "crowd", _AT_ONCE)
    crowd.times_ms += [outcome for outcome in outcomes if not isinstance(outcome, BaseException)]
    ids += await _make(platform, _RUNNING - len(ids))
    before = _programs()
    readopted_s = await _kill_agent(platform)
    lost = before - _programs()
    ids += await _make(platform, _IDLE - len(ids))
    started = [one for one in await machines.list(APP) if one["state"] == "started"]
    for at in range(0, len(ids), _MAKERS):
        await asyncio.gather(*(machines.delete(APP, id, force=True) for id in ids[at : at + _MAKERS]))
    return {
        "series": {one.name: one.to_wire() for one in (alone, crowd, runc)},
        "failed_of_those_at_once": len(failed),
        "agent_killed_over": {"machines": _RUNNING, "found_again_s": readopted_s, "processes_lost": len(lost)},
        "idle_machines": len(started),
    }


async def _make(platform: Platform, count: int, *, skip_launch: bool = False) -> list[str]:
    gate = asyncio.Semaphore(_MAKERS)

    async def one() -> str:
        async with gate:
            made = await platform.client.machines.create(APP, _SLEEPER, skip_launch=skip_launch)
            await platform.client.machines.wait(APP, made["id"], "stopped" if skip_launch else "started")
            return str(made["id"])

    return list(await asyncio.gather(*(one() for _ in range(count))))


async def _start(platform: Platform, id: str) -> float:
    began = time.perf_counter()
    await platform.client.machines.start(APP, id)
    await platform.client.machines.wait(APP, id, "started")
    return (time.perf_counter() - began) * 1000


async def _kill_agent(platform: Platform) -> float:
    """Seconds from the kill until a new agent has all Machines again and answers for them."""
    parts = json.loads(await platform.caddis("status", "--json"))["parts"]
    agent = LocalCaller(platform.directory / "run" / "agent.sock")
    began = time.perf_counter()
    os.kill(next(part["pid"] for part in parts if part["name"] == "agent"), signal.SIGKILL)
    while True:
        try:
            found = await agent.call(HOST_STATUS, Nothing(), timeout_s=1)
        except (Unavailable, DeadlineExceeded):
            await asyncio.sleep(_LOOK_EVERY_S)
            continue
        if found.machines.get("started") == _RUNNING:
            return round(time.perf_counter() - began, 2)
        await asyncio.sleep(_LOOK_EVERY_S)


def _programs() -> set[int]:
    """Pids of everything that the Machines run."""
    found = set()
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdecimal() and b"sleep\0100000" in (entry / "cmdline").read_bytes():
                found.add(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found
