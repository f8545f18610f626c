"""Waking: one call for each Machine however many requests wait, and one probe until its port answers.

A Machine is ready for requests when its internal port accepts a connection, not when it is `started`: in between, the
app binds its port. The probe that finds out is shared too; its connection is the first one used.
"""

from __future__ import annotations

import asyncio
import logging
import time

from caddisfly.bus.connection import Bus
from caddisfly.bus.contract import WAKE_MACHINE, MachineCall, host_prefix
from caddisfly.bus.rpc import BusCaller, Caller, LocalCaller
from caddisfly.edge.candidate import Candidate
from caddisfly.edge.routes import Route, Routes
from caddisfly.edge.settings import EdgeSettings
from caddisfly.edge.upstream import Upstream, connect
from caddisfly.model.errors import Problem
from caddisfly.model.machine import Machine, wall_ms

log = logging.getLogger(__name__)

_PROBE_FIRST_S = 0.002
_PROBE_GROWTH = 1.5
_PROBE_MAX_S = 0.1
_REMEMBERED_MAX = 10_000


class Wake:
    """Single flights, by Machine."""

    def __init__(self, *, settings: EdgeSettings, bus: Bus, routes: Routes) -> None:
        self._settings, self._bus, self._routes = settings, bus, routes
        self._calls: dict[str, asyncio.Task[None]] = {}
        self._probes: dict[Candidate, asyncio.Task[None]] = {}
        self._woken_ms: dict[str, int] = {}

    async def wake(self, machine: Machine) -> None:
        """Return once its host says that it is started. Raises what the host raised. Cancelling leaves the call be."""
        await asyncio.shield(self._call_for(machine))

    def in_background(self, route: Route) -> None:
        """Bring up one more Machine, because those that run have enough to do. At most one at a time for an app."""
        if route.startable and not any(machine.id in self._calls for machine in route.startable):
            self._call_for(route.startable[0])

    async def reach(self, candidate: Candidate) -> None:
        """Return once its port accepts. Raises `OSError` or `TimeoutError`, or `Retired` when the Machine changed."""
        await asyncio.shield(self.probe(candidate))

    def probe(self, candidate: Candidate) -> asyncio.Task[None]:
        task = self._probes.get(candidate)
        if task is None:
            task = self._probes[candidate] = asyncio.create_task(self._probe(candidate), name="edge-probe")
            task.add_done_callback(lambda done: self._probed(candidate, done))
        return task

    def booting(self, machine: Machine) -> bool:
        """Whether it started so lately that a refused connection only means: not yet."""
        event = machine.newest("start")
        since_ms = max(event.timestamp if event else 0, self._woken_ms.get(machine.id, 0))
        return wall_ms() - since_ms < self._settings.boot_grace_s * 1000

    def calling(self, machine_id: str) -> bool:
        """Whether a request waits for this Machine's host."""
        return machine_id in self._calls

    async def stop(self) -> None:
        tasks = [*self._calls.values(), *self._probes.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _call_for(self, machine: Machine) -> asyncio.Task[None]:
        task = self._calls.get(machine.id)
        if task is None:
            task = self._calls[machine.id] = asyncio.create_task(self._call(machine), name="edge-wake")
            task.add_done_callback(lambda done: self._called(machine, done))
        return task

    async def _call(self, machine: Machine) -> None:
        begun = time.monotonic()
        local = machine.host_id == self._settings.host_id
        road: Caller = (
            LocalCaller(self._settings.agent_socket) if local else BusCaller(self._bus, host_prefix(machine.host_id))
        )
        reply = await road.call(
            WAKE_MACHINE,
            MachineCall(machine_id=machine.id, source="proxy"),
            timeout_s=self._settings.wake_deadline_s,
        )
        woken = Machine.from_record(reply.record)
        if woken.run_id != machine.run_id:  # else it was up all the time, and a refused connection means what it says
            if len(self._woken_ms) > _REMEMBERED_MAX:
                self._woken_ms.clear()
            self._woken_ms[machine.id] = wall_ms()
        self._routes.learn(woken)
        self._routes.stay(machine.id)
        log.info(
            "edge.wake",
            extra={
                "machine": machine.id,
                "app": machine.app_name,
                "from_state": machine.state,
                "duration_ms": round((time.monotonic() - begun) * 1000),
            },
        )

    def _called(self, machine: Machine, task: asyncio.Task[None]) -> None:
        del self._calls[machine.id]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            extra = {"machine": machine.id, "app": machine.app_name, "reason": str(error)}
            log.warning("edge.wake_failed", extra=extra, exc_info=None if isinstance(error, Problem) else error)

    async def _probe(self, candidate: Candidate) -> None:
        begun, pause_s = time.monotonic(), _PROBE_FIRST_S
        deadline = begun + self._settings.wake_deadline_s
        while True:
            try:
                upstream: Upstream = await connect(candidate, timeout_s=self._settings.connect_timeout_s)
                break
            except (OSError, TimeoutError):
                if not self.booting(candidate.machine) or time.monotonic() + pause_s > deadline:
                    raise
            # A port has no event that says "bound": asking again, less and less often, is all there is.
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * _PROBE_GROWTH, _PROBE_MAX_S)
            if candidate.retired:
                raise Retired
        candidate.reached = True
        upstream.park(asyncio.get_running_loop().time())
        log.info(
            "edge.reached",
            extra={
                "machine": candidate.machine.id,
                "app": candidate.machine.app_name,
                "duration_ms": round((time.monotonic() - begun) * 1000),
            },
        )

    def _probed(self, candidate: Candidate, task: asyncio.Task[None]) -> None:
        del self._probes[candidate]
        if not task.cancelled() and task.exception() is not None:
            log.debug("edge.unreached", extra={"machine": candidate.machine.id, "reason": repr(task.exception())})


class Retired(Exception):
    """The Machine changed while it was probed: choose again."""
