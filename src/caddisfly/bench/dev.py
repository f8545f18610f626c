"""`caddis dev`: how soon it answers, and how much it takes. The client is this process, on the same computer.

Unlike the other parts it needs no root, no image and no platform, and nothing is measured beside it: there is no other
simulation of Fly's API to compare it with.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from caddisfly.bench.series import Series
from caddisfly.client import AsyncClient
from caddisfly.model.errors import FailedPrecondition

_APP = "bench"
_MACHINES, _AT_ONCE = 1000, 16
_GETS, _GETS_PER_S = 1000, 200
_STARTS = 5
_PATIENCE_S = 30


async def measure(*, rounds: int) -> dict[str, Any]:
    """Starts of the command; then creates, recorded and launched, and reads of a thousand Machines."""
    starts = Series("command to ready")
    for _ in range(_STARTS):
        async with _running() as (_, took_ms):
            starts.times_ms.append(took_ms)
    async with _running() as (client, _):
        recorded = await _creates(client, f"{_APP}-recorded", skip_launch=True)
    async with _running() as (client, _):
        launched = await _creates(client, _APP, skip_launch=False)
        await _settled(client)
        listed, got = Series(f"list of {_MACHINES} machines"), Series(f"get, at {_GETS_PER_S} per second")
        ids = [machine["id"] for machine in await client.machines.list(_APP)]
        for _ in range(rounds):
            await _timed(listed, client.machines.list(_APP))
        await _steadily(got, lambda number: client.machines.get(_APP, ids[number % len(ids)]))
    return {
        "series": {series.name: series.to_wire() for series in (starts, listed, got)},
        "creates_per_s": {"recorded": round(recorded, 1), "launched": round(launched, 1)},
        "at_once": _AT_ONCE,
    }


@asynccontextmanager
async def _running() -> AsyncIterator[tuple[AsyncClient, float]]:
    """A client for one `caddis dev`, and the milliseconds from the command to its being ready."""
    began = time.perf_counter()
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "caddisfly", "dev", "--port", "0", "--json", "--until-eof"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        async with asyncio.timeout(_PATIENCE_S):
            line = await process.stdout.readline()
        took_ms = (time.perf_counter() - began) * 1000
        if not line:
            raise FailedPrecondition("caddis dev did not start", why=f"exit code {await process.wait()}")
        facts = json.loads(line)
        async with AsyncClient(facts["url"], token=facts["token"]) as client:
            yield client, took_ms
    finally:
        process.stdin.close()
        async with asyncio.timeout(_PATIENCE_S):
            await process.wait()


async def _creates(client: AsyncClient, app: str, *, skip_launch: bool) -> float:
    """Creates per second, with several at once."""
    await client.apps.create(app)
    numbers = iter(range(_MACHINES))

    async def creator() -> None:
        for _ in numbers:  # shared: whoever is free takes the next
            await client.machines.create(app, {"image": "nginx"}, skip_launch=skip_launch)

    began = time.perf_counter()
    await asyncio.gather(*(creator() for _ in range(_AT_ONCE)))
    return _MACHINES / (time.perf_counter() - began)


async def _settled(client: AsyncClient) -> None:
    """Once all are started: what is read next competes with nothing."""
    for machine in await client.machines.list(_APP):
        await client.machines.wait(_APP, machine["id"], "started", timeout_s=_PATIENCE_S)


async def _timed(series: Series, call: Awaitable[Any]) -> None:
    began = time.perf_counter()
    await call
    series.times_ms.append((time.perf_counter() - began) * 1000)


async def _steadily(series: Series, call: Callable[[int], Coroutine[Any, Any, Any]]) -> None:
    """Calls at moments that do not wait for answers, so that a slow one is not left out of account."""
    began = time.perf_counter()
    async with asyncio.TaskGroup() as tasks:
        for number in range(_GETS):
            await asyncio.sleep(began + number / _GETS_PER_S - time.perf_counter())
            tasks.create_task(_timed(series, call(number)))
