"""Standbys: Machines that are down, and are started when the host of a Machine that they stand by for is lost.

Hosts cannot see that one of them is gone; control hears the heartbeats of all. A host counts as lost when it has been
unreachable, without a break, for a bound that is longer than a restart of its agent takes: what runs there may well run
on, and from then on there are two. That is what a standby is for, and why it is only for Machines without services.

Each control does this by itself. A start of what is started already changes nothing, so two of them do no harm. A
standby is started once for each loss: who stops it afterwards has the last word. It is not stopped when the host
comes back.
"""

from __future__ import annotations

import asyncio
import logging
import time

from caddisfly.bus import contract
from caddisfly.bus.projection import Projection
from caddisfly.control.hosts import OK, UNREACHABLE, Hosts
from caddisfly.control.machines import Machines
from caddisfly.model import states
from caddisfly.model.errors import Problem
from caddisfly.model.machine import Machine

log = logging.getLogger(__name__)

_LOOK_EVERY_MAX_S = 5.0
_RUNS = (states.STARTED, states.STARTING, states.RESTARTING, states.REPLACING)


class Standbys:
    """`after_s` is how long a host must have been out of reach."""

    def __init__(self, machines: Machines, projection: Projection, hosts: Hosts, *, after_s: float) -> None:
        self._machines, self._projection, self._hosts, self._after_s = machines, projection, hosts, after_s
        self._away: dict[str, float] = {}
        """Since when each host has been out of reach, by the monotonic clock."""
        self._served: set[tuple[str, str]] = set()
        """The Machine that a standby was started for, and its host."""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._watch(), name="standbys")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(min(self._after_s / 2, _LOOK_EVERY_MAX_S))
            lost = self._lost()
            refused: set[str] = set()
            while lost and (due := self._due(lost, refused)) is not None:
                standby, primary = due
                if await self._start(standby, primary):
                    self._served.add((primary.id, primary.host_id))
                else:  # on the next look it is asked again
                    refused.add(standby.id)

    def _lost(self) -> frozenset[str]:
        now = time.monotonic()
        for host_id in self._projection.hosts:
            status = self._hosts.status(host_id)
            if status == UNREACHABLE:
                self._away.setdefault(host_id, now)
            else:  # also while the bus is away: then nothing is known of any host
                self._away.pop(host_id, None)
            if status == OK:
                self._served = {pair for pair in self._served if pair[1] != host_id}
        return frozenset(host_id for host_id, since in self._away.items() if now - since >= self._after_s)

    def _due(self, lost: frozenset[str], refused: set[str]) -> tuple[Machine, Machine] | None:
        """A standby to start and the Machine it is for, which ran on a lost host and which no other stands in for."""
        known = self._projection.machines
        for standby in sorted(known.values(), key=lambda machine: machine.id):
            if standby.state not in states.STARTABLE or standby.id in refused:
                continue
            if self._hosts.status(standby.host_id) != OK:
                continue
            for id in standby.config.standbys:
                primary = known.get(id)
                if primary is None or primary.host_id not in lost or primary.state not in _RUNS:
                    continue
                if (primary.id, primary.host_id) not in self._served and not self._stands_in(primary):
                    return standby, primary
        return None

    def _stands_in(self, primary: Machine) -> bool:
        return any(
            primary.id in machine.config.standbys
            and machine.state in _RUNS
            and self._hosts.status(machine.host_id) == OK
            for machine in self._projection.machines.values()
        )

    async def _start(self, standby: Machine, primary: Machine) -> bool:
        log.warning("standbys.started", extra={"machine": standby.id, "for": primary.id, "host": primary.host_id})
        try:
            call = contract.MachineCall(machine_id=standby.id, source="flyd")
            await self._machines.change(standby, contract.START_MACHINE, call)
        except Problem as problem:
            log.error("standbys.not_started", extra={"machine": standby.id, "reason": str(problem)})
            return False
        return True
