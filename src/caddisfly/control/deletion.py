"""Deleting an app: first the word, then the Machines, then the record.

That the app is to go is durable before the first Machine is touched, so a deletion that was cut off, or that met a
host that is away, goes on by itself until it is done. Until then the app is there and takes no new Machine.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.control.machines import Machines
from caddisfly.control.publishing import AppPublication
from caddisfly.control.records.apps import AppRecord, Apps
from caddisfly.model import states
from caddisfly.model.app import App
from caddisfly.model.errors import NotFound, Problem
from caddisfly.model.machine import Machine

log = logging.getLogger(__name__)

_AT_ONCE = 20


class Deletion:
    def __init__(self, *, bus: Bus, apps: Apps, machines: Machines, publication: AppPublication) -> None:
        self._bus, self._apps, self._machines, self._publication = bus, apps, machines, publication

    async def delete(self, app: App) -> bool:
        """True when it is gone, false when it goes on later. Raises `Unavailable` before anything was begun."""
        self._bus.client  # noqa: B018 # without a bus, say so before anything is done
        self._machines.of(app)
        await self._apps.begin_delete(app)
        return await self._go_on(app)

    async def resume(self, records: Iterable[AppRecord]) -> None:
        """Go on with every deletion that was begun, as far as it goes now."""
        for record in records:
            if record.deleting and self._bus.connected:
                try:
                    await self._go_on(record.app)
                except Problem as problem:
                    log.warning("app.delete_waits", extra={"app": record.app.name, "reason": str(problem)})

    async def _go_on(self, app: App) -> bool:
        await self._machines.quiet(app)
        alive = [machine for machine in self._machines.of(app).values() if machine.state not in _GOING]
        turn = asyncio.Semaphore(_AT_ONCE)
        gone = await asyncio.gather(*(self._destroy(machine, turn) for machine in alive))
        if not all(gone):
            return False
        await self._apps.finish_delete(app)
        await self._publication.remove(app)
        log.info("app.deleted", extra={"app": app.name, "app_id": app.id, "machines": len(alive)})
        return True

    async def _destroy(self, machine: Machine, turn: asyncio.Semaphore) -> bool:
        async with turn:
            try:
                await self._machines.change(
                    machine, contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=machine.id, force=True)
                )
            except NotFound:
                return True
            except Problem as problem:
                log.warning("app.delete_waits", extra={"machine": machine.id, "reason": str(problem)})
                return False
        return True


_GOING = (states.DESTROYING, states.DESTROYED)
