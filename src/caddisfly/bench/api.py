"""The API by itself: how fast Machines are recorded, and how long a list of many takes.

The Machines are created with `skip_launch`, so no sandbox is started: what is measured is the way from an HTTP request
over placement and the host's journal back to the catalog. The client is this process, on the same computer.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from caddisfly.bench.platform import IMAGE, Platform
from caddisfly.bench.series import Series

_APP = "bench-api"
_MACHINES = 1000
_AT_ONCE = 16


async def measure(platform: Platform, *, rounds: int) -> dict[str, Any]:
    """Creates per second with several at once, the time of one create alone, and of lists of all of them.

    The Machines stay: the platform is thrown away, and destroying a thousand would only take time.
    """
    await platform.client.apps.create(_APP)
    alone = Series("create, recorded, alone")
    for _ in range(rounds):
        began = time.perf_counter()
        await _create(platform)
        alone.times_ms.append((time.perf_counter() - began) * 1000)
    rest = iter(range(_MACHINES - rounds))

    async def creator() -> int:
        made = 0
        for _ in rest:  # shared: whoever is free takes the next
            await _create(platform)
            made += 1
        return made

    began = time.perf_counter()
    made = sum(await asyncio.gather(*(creator() for _ in range(_AT_ONCE))))
    rate = made / (time.perf_counter() - began)
    listed = Series(f"list of {_MACHINES} machines")
    for _ in range(rounds):
        began = time.perf_counter()
        found = await platform.client.machines.list(_APP)
        listed.times_ms.append((time.perf_counter() - began) * 1000)
        assert len(found) == _MACHINES
    return {
        "series": {series.name: series.to_wire() for series in (alone, listed)},
        "creates_per_s": round(rate, 1),
        "at_once": _AT_ONCE,
    }


async def _create(platform: Platform) -> None:
    await platform.client.machines.create(_APP, {"image": IMAGE}, skip_launch=True)
