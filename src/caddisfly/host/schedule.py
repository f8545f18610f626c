"""Scheduled Machines: one start each hour, day, week or month, counted from when the Machine was made (reference 4.4).

The first run is its launch. A slot that comes while it still runs is skipped, and slots that passed while the host was
off are made up for by one start, not by many. Which slot was served is part of the Machine's record, written in the
same step as the start, so a crash neither repeats a slot nor loses one. A Machine that was never launched is left
alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import replace

from caddisfly.host.operations import lifecycle
from caddisfly.host.operations.engine import Engine
from caddisfly.host.operations.lifecycle import Decision
from caddisfly.model import states
from caddisfly.model.errors import Problem
from caddisfly.model.machine import Machine, wall_ms

log = logging.getLogger(__name__)

_HOUR_MS = 3_600_000
INTERVALS_MS = {"hourly": _HOUR_MS, "daily": 24 * _HOUR_MS, "weekly": 168 * _HOUR_MS, "monthly": 730 * _HOUR_MS}
_SPREAD = 60
"""A Machine's slots begin up to a sixtieth of the interval late, each Machine by its own share, so that a thousand
that were made by one script do not start in one second."""
_LOOK_EVERY_S = 5.0


def slot(machine: Machine, now_ms: int) -> int:
    """The number of the slot that it is in now; 0 is the launch."""
    interval_ms = INTERVALS_MS[machine.config.schedule]
    late_ms = int(machine.id, 16) % (interval_ms // _SPREAD)
    return max(0, (now_ms - machine.created_ms - late_ms) // interval_ms)


class Schedule:
    """Looks at the clock now and then. `now` is milliseconds since the epoch."""

    def __init__(self, engine: Engine, *, now: Callable[[], int] = wall_ms) -> None:
        self._engine, self._now = engine, now

    async def run(self) -> None:
        """Until cancelled."""
        while True:
            await self.look()
            await asyncio.sleep(_LOOK_EVERY_S)

    async def look(self) -> None:
        """Start what is due."""
        for machine in list(self._engine.machines.values()):
            if not self._due(machine):
                continue
            try:
                await self._serve(machine)
            except Problem as problem:
                log.warning("schedule.not_started", extra={"machine": machine.id, "reason": str(problem)})

    def _due(self, machine: Machine) -> bool:
        return (
            machine.config.schedule in INTERVALS_MS
            and machine.alive
            and bool(machine.run_number)
            and slot(machine, self._now()) > machine.slot
        )

    async def _serve(self, machine: Machine) -> None:
        number = slot(machine, self._now())
        if machine.state != states.STOPPED:
            await self._engine.change(machine.id, lambda now: replace(now, slot=number))
            log.info("schedule.skipped", extra={"machine": machine.id, "state": machine.state})
            return

        def start(now: Machine) -> Decision:
            return lifecycle.start(replace(now, slot=number), source="flyd")

        await self._engine.ask(machine.id, start)
        log.info("schedule.started", extra={"machine": machine.id, "slot": number})
