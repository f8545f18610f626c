"""Ask the main process to end."""

from __future__ import annotations

import signal

from caddisfly.host.drivers.driver import StopsInOrder
from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    driver, number = work.parts.driver, signal.Signals[work.args["signal"]]
    if not work.machine.run_id:
        return
    if isinstance(driver, StopsInOrder):
        await driver.recover(work.machine.run_id)  # after a crash, when this is the first to ask for it
        await driver.stop(work.machine.run_id, number)
    else:
        await driver.signal(work.machine.run_id, number)
