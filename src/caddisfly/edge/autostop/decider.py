"""The decider: one worker of all edges, which looks every few minutes at which Machines are not needed.

    roster ──▶ loads of all workers ──▶ rule ──▶ for each departure:
        its host gives a grant ──▶ all workers agree ──▶ its host stops or suspends it, if the grant still stands

Every arrow may fail, and each failure means that the Machine stays. A worker that does not answer has not agreed. The
roster is read after the grant is given, so a worker that is not asked has joined since then, and is in doubt for longer
than the grant lasts (edge/leaving.py).
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import Projection
from caddisfly.bus.rpc import BusCaller
from caddisfly.edge.autostop import roster
from caddisfly.edge.autostop.messages import LEAVE, SHOW_LOADS, STAY, Leave, Loads, Nothing, Stay, ask_all, tell_all
from caddisfly.edge.autostop.rule import Departure, Work, Works, departures
from caddisfly.edge.settings import EdgeSettings
from caddisfly.model import states
from caddisfly.model.errors import Final, Problem, Retryable, Unavailable
from caddisfly.model.machine import Machine, wall_ms

log = logging.getLogger(__name__)

_AT_ONCE = 8
_DRAIN_S, _PART_S = 3.0, 2.0
"""Seconds that requests, and WebSockets, get to end. Both, with what asking takes, are shorter than a grant."""
_JITTER = 0.25
_RETRY_S = 0.5


class Decider:
    """Every worker has one; it does something while its worker leads."""

    def __init__(self, *, bus: Bus, settings: EdgeSettings, projection: Projection, lead: roster.Lead) -> None:
        self._bus, self._settings, self._projection, self._lead = bus, settings, projection, lead
        self._task: asyncio.Task[None] | None = None
        self.passes = 0
        """That came to their end."""

    def start(self) -> None:
        self._task = asyncio.create_task(self._run(), name="edge-decider")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        """One pass length from the beginning of a term to its first pass: by then the roster is whole."""
        pass_s = self._settings.autostop_pass_s
        while True:
            term = self._lead.term
            if not self._lead.holds(term):
                await asyncio.sleep(min(_RETRY_S, pass_s))
                continue
            await asyncio.sleep(pass_s * random.uniform(1 - _JITTER, 1 + _JITTER))
            if not self._lead.holds(term):
                continue
            try:
                await self.look(term)
                self.passes += 1
            except Problem as problem:
                log.warning("edge.no_pass", extra={"reason": str(problem)})
            except Exception:  # the border of a loop that must go on
                log.exception("edge.pass_failed")

    async def look(self, term: int) -> None:
        """One pass over all apps."""
        running = [one for one in self._projection.machines.values() if one.state == states.STARTED]
        if not running:
            return
        works = _added(await self._loads())
        # In a thread, because with thousands of Machines it takes longer than a request may wait.
        chosen = await asyncio.to_thread(self._choose, running, works)
        limit = asyncio.Semaphore(_AT_ONCE)
        async with asyncio.TaskGroup() as group:
            for departure in chosen:
                group.create_task(self._depart(departure, term, limit))

    def _choose(self, running: list[Machine], works: Works) -> list[Departure]:
        by_app: defaultdict[str, list[Machine]] = defaultdict(list)
        for machine in running:
            if self._carried(machine):
                by_app[machine.app_id].append(machine)
        now_ms, pass_s = wall_ms(), self._settings.autostop_pass_s
        return [
            one for machines in by_app.values() for one in departures(machines, works, now_ms=now_ms, pass_s=pass_s)
        ]

    def _carried(self, machine: Machine) -> bool:
        """Whether requests of ours can wake it: what no edge carries must not be put to sleep."""
        port = self._settings.external_port
        return any(service.http_port(port) for service in machine.config.services)

    async def _loads(self) -> list[Loads]:
        """Of every worker on the roster. Raises `Unavailable` when one of them is silent."""
        wanted = await roster.members(self._bus)
        answers = await ask_all(self._bus, SHOW_LOADS, Nothing(), workers=len(wanted), timeout_s=SHOW_LOADS.timeout_s)
        _must_be_all(wanted, [answer.worker for answer in answers])
        return list(answers)

    async def _depart(self, departure: Departure, term: int, limit: asyncio.Semaphore) -> None:
        machine = departure.machine
        facts = {"machine": machine.id, "app": machine.app_name}
        async with limit:
            if not self._lead.holds(term):
                return
            try:
                state = await self._put_to_rest(departure)
            except Problem as problem:
                log.info("edge.not_put_to_rest", extra={**facts, "reason": str(problem)})
            else:
                log.info("edge.put_to_rest", extra={**facts, "state": state, "reason": departure.reason})

    async def _put_to_rest(self, departure: Departure) -> str:
        """Its new state. Raises a `Problem` when it stays, or when nobody knows."""
        machine = departure.machine
        host = BusCaller(self._bus, contract.host_prefix(machine.host_id))
        call = contract.MachineCall(machine_id=machine.id, source="proxy")
        grant = (await host.call(contract.GRANT_REST, call)).grant
        try:
            await self._agreed(departure, grant)
            granted = contract.StopMachine(machine_id=machine.id, source="proxy", grant=grant, reason=departure.reason)
            return await self._asked(host, granted, suspend=departure.suspend)
        except Final:
            # Nothing is on its way: whoever stopped sending it requests may go on. After anything else the stop may
            # still arrive, and workers ask its host until that is over.
            await tell_all(self._bus, STAY, Stay(machine_id=machine.id, grant=grant))
            raise

    async def _agreed(self, departure: Departure, grant: str) -> None:
        """Raises a `Final` when one of the workers needs it or does not answer."""
        machine, drain_s = departure.machine, 0.0 if departure.alone else _DRAIN_S
        wanted = await roster.members(self._bus)
        question = Leave(machine_id=machine.id, run_id=machine.run_id, grant=grant, drain_s=drain_s)
        if await self._left(question, wanted):
            parting = question.model_copy(update={"drain_s": _PART_S, "part": True})
            if await self._left(parting, wanted):
                raise Needed("the machine is needed", why="WebSockets stay open")

    async def _left(self, question: Leave, wanted: frozenset[str]) -> int:
        """How many WebSockets are open, when nothing else is. Raises as above."""
        timeout_s = question.drain_s + LEAVE.timeout_s
        votes = await ask_all(self._bus, LEAVE, question, workers=len(wanted), timeout_s=timeout_s)
        refusals = [vote.refusal for vote in votes if vote.refusal]
        if refusals:
            raise Needed("the machine is needed", why=refusals[0])
        try:
            _must_be_all(wanted, [vote.worker for vote in votes])
        except Unavailable as silence:
            raise Needed("the machine may be needed", why=str(silence)) from silence
        return sum(vote.websockets for vote in votes)

    async def _asked(self, host: BusCaller, call: contract.StopMachine, *, suspend: bool) -> str:
        if suspend:
            try:
                reply = await host.call(contract.SUSPEND_MACHINE, call, timeout_s=5)
                return str(reply.record["state"])
            except Retryable:
                raise
            except Problem as unfit:  # a grant that has ended is refused again below
                call = call.model_copy(update={"reason": f"{call.reason}; not suspended: {unfit}"})
        reply = await host.call(contract.STOP_MACHINE, call, timeout_s=5)
        return str(reply.record["state"])


class Needed(Final):
    """Somebody has something for the Machine, or might have."""


def _added(answers: Iterable[Loads]) -> dict[tuple[str, int], Work]:
    works: defaultdict[tuple[str, int], Work] = defaultdict(Work)
    for answer in answers:
        for load in answer.loads:
            work = Work(load=load.load, peak=load.peak, idle_s=load.idle_s)
            works[load.run_id, load.port] = works[load.run_id, load.port] + work
    return works


def _must_be_all(wanted: frozenset[str], answered: list[str]) -> None:
    silent = wanted.difference(answered)
    if silent or not wanted:
        raise Unavailable("not every edge worker answers", why=", ".join(sorted(silent)) or "none is on the roster")
