"""The doors of this host: one for each Machine that has, or is about to have, a sandbox.

They follow the Machines as they are published. A door is there before its sandbox starts and goes when the Machine is
down; in between it stays, whatever happens to its runs, because a sandbox has its directory mounted.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

from caddisfly.host.selfservice.door import Door, remove_directory
from caddisfly.host.selfservice.exchange import Answer, Request
from caddisfly.host.settings import HostSettings
from caddisfly.model import states
from caddisfly.model.machine import Machine

log = logging.getLogger(__name__)

_IN_ALL = 256
"""Connections at once, of all Machines together."""
_OPEN = frozenset(
    (
        states.STARTING,
        states.STARTED,
        states.STOPPING,
        states.RESTARTING,
        states.REPLACING,
        states.SUSPENDING,
        states.SUSPENDED,
    )
)


def directory_of(settings: HostSettings, machine_id: str) -> Path:
    """What a Machine sees as `/.fly`."""
    return settings.run_dir / "self" / machine_id


class Doors:
    """Open ones, by Machine."""

    def __init__(
        self, settings: HostSettings, *, serve: Callable[[str, Request], Awaitable[Answer]], wanted: bool = True
    ) -> None:
        """`serve(machine_id, request)` answers; the id is that of the Machine behind the door. Not `wanted`: none."""
        self._settings, self._serve, self._wanted = settings, serve, wanted
        self._doors: dict[str, Door] = {}
        self._in_all = asyncio.Semaphore(_IN_ALL)

    def follow(self, machine: Machine) -> None:
        """Take note of a Machine's present value."""
        door = self._doors.get(machine.id)
        if machine.state in _OPEN and door is None and self._wanted:
            self._open(machine.id)
        elif machine.state not in _OPEN and door is not None:
            del self._doors[machine.id]
            door.close()

    def sweep(self, *, keep: Collection[str]) -> None:
        """Take away what an agent that was killed has left. Call once every Machine has been followed."""
        above = directory_of(self._settings, "x").parent
        for directory in above.iterdir() if above.is_dir() else ():
            if directory.name not in self._doors and directory.name not in keep:
                remove_directory(directory)

    async def stop(self) -> None:
        for door in self._doors.values():
            door.leave()
        await asyncio.gather(*(door.left() for door in self._doors.values()))

    def _open(self, machine_id: str) -> None:
        async def serve(request: Request) -> Answer:
            return await self._serve(machine_id, request)

        door = Door(directory_of(self._settings, machine_id), serve, in_all=self._in_all)
        try:
            door.open()
        except OSError as error:
            # The Machine runs all the same: most never knock.
            log.error("selfservice.no_door", extra={"machine": machine_id, "reason": str(error)})
            return
        self._doors[machine_id] = door
