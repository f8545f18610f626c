"""Wait until the main process has ended: politely for its timeout, then SIGTERM, then SIGKILL (reference 4.4)."""

from __future__ import annotations

import asyncio
import signal

from caddisfly.host.operations.work import Work
from caddisfly.model.machine import Exit


async def run(work: Work) -> None:
    driver, run_id = work.parts.driver, work.machine.run_id
    if not run_id or await driver.recover(run_id) is None:
        return
    exit = await _within(work, float(work.args["timeout_s"]))
    if exit is None and not work.hurry.is_set():
        await driver.signal(run_id, signal.SIGTERM)
        exit = await _within(work, work.parts.settings.stop_grace_s)
    if exit is None:
        await driver.kill(run_id)
        exit = await driver.wait(run_id)
    await work.record_exit(exit)


async def _within(work: Work, timeout_s: float) -> Exit | None:
    """Its exit, or None when the time is over or someone is in a hurry."""
    ended = asyncio.ensure_future(work.parts.driver.wait(work.machine.run_id))
    hurried = asyncio.ensure_future(work.hurry.wait())
    try:
        await asyncio.wait((ended, hurried), timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
        return ended.result() if ended.done() else None
    finally:
        for task in (ended, hurried):
            task.cancel()
        await asyncio.gather(ended, hurried, return_exceptions=True)
