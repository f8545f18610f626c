"""Wait before the next try of the restart policy. A stop, an update or a delete takes over here."""

from __future__ import annotations

import asyncio

from caddisfly.host.operations.work import GaveWay, Work


async def run(work: Work) -> None:
    try:
        async with asyncio.timeout(float(work.args["delay_s"])):
            await work.give_way.wait()
    except TimeoutError:
        return
    raise GaveWay
