"""Wait until the main process has ended: politely for its timeout, then SIGTERM, then SIGKILL (reference 4.4)."""

from __future__ import annotations

import asyncio
import signal

from caddisfly.host.operations.work import Work
from caddisfly.model.machine import Exit, wall_ms


async def run(work: Work) -> None:
    driver, run_id = work.parts.driver, work.machine.run_id
    if not run_id:
        return
    if await driver.recover(run_id) is None:
        # The host was rebooted, or it was taken down before a crash: that it ended is all that can be said.
        await work.record_exit(Exit(exit_code=-1, error="nobody saw how it ended", at_ms=wall_ms()))
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
