"""Ask the main process to end."""

from __future__ import annotations

import signal

from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    if work.machine.run_id:
        await work.parts.driver.signal(work.machine.run_id, signal.Signals[work.args["signal"]])
