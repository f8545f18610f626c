"""Write its memory to disk, unless somebody needs it before that is done."""

from __future__ import annotations

import asyncio

from caddisfly.host.drivers.driver import Suspendable
from caddisfly.host.operations.work import GaveWay, Work


async def run(work: Work) -> None:
    driver, run_id = work.parts.driver, work.machine.run_id
    assert isinstance(driver, Suspendable)  # said when the suspend was asked for
    directory, begun = work.parts.snapshots.make(run_id), asyncio.Event()

    async def save() -> None:
        begun.set()
        await driver.suspend(run_id, directory)

    saving = asyncio.ensure_future(save())
    asked = asyncio.ensure_future(work.give_way.wait())
    try:
        # Told to keep it running before that, a driver would suspend it all the same.
        await begun.wait()
        await asyncio.wait((saving, asked), return_when=asyncio.FIRST_COMPLETED)
        if asked.done() and await driver.keep_running(run_id):
            await asyncio.gather(saving, return_exceptions=True)
            await work.parts.snapshots.remove(run_id)
            raise GaveWay
        await saving
    finally:
        for task in (saving, asked):
            task.cancel()
        await asyncio.gather(saving, asked, return_exceptions=True)
