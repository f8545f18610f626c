"""A worker's own voice: what it has under way, and whether a Machine may go as far as it is concerned."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from caddisfly.edge.autostop.messages import Leave, Load, Loads, Nothing, Stay, Vote

if TYPE_CHECKING:
    from caddisfly.edge.context import Edge

log = logging.getLogger(__name__)

_LOOK_S = 0.05
_CLOSE_S = 0.5


class Ballot:
    """Answers for one worker."""

    def __init__(self, edge: Edge, name: str) -> None:
        self._edge, self._name = edge, name

    async def loads(self, request: Nothing) -> Loads:
        now, window_s = self._edge.loop.time(), self._edge.settings.autostop_pass_s
        found = []
        for one in self._edge.routes.at_work():
            idle_s = 0.0 if one.load or one.used else now - one.busy_at
            peak = max(one.peak, one.load, int(idle_s < window_s))
            found.append(
                Load(run_id=one.machine.run_id, port=one.port, load=one.load, peak=peak, idle_s=min(idle_s, 1e9))
            )
        return Loads(worker=self._name, loads=tuple(found))

    async def leave(self, request: Leave) -> Vote:
        """Agree, and from then on ask the Machine's host before anything is sent there; or refuse."""
        edge, routes = self._edge, self._edge.routes
        if edge.wake.calling(request.machine_id):
            return self._no("a request waits for it")
        if request.part and not routes.leaves(request.machine_id, request.grant):
            return self._no("a request came for it")
        if not request.drain_s and routes.under_way(request.run_id):
            return self._no("a request is under way")
        routes.leave(request.machine_id, request.run_id, grant=request.grant, now=edge.loop.time())
        open_ = edge.websockets(request.run_id) if request.part else []
        for websocket in open_:
            websocket.part()
        await self._drained(request, request.drain_s)
        for websocket in open_:
            if websocket.parted:  # it was told, and had its time to answer
                websocket.client.transport.abort()
        if open_:
            await self._drained(request, _CLOSE_S)
        if not routes.leaves(request.machine_id, request.grant):
            return self._no("a request came for it")
        websockets = len(edge.websockets(request.run_id))
        if under_way := routes.under_way(request.run_id) - websockets:
            routes.stay(request.machine_id)
            return self._no(f"{under_way} requests are under way")
        return Vote(worker=self._name, websockets=websockets)

    async def _drained(self, request: Leave, within_s: float) -> None:
        """What is under way has ended, but for WebSockets; or the time is over, or somebody needs the Machine."""
        edge, routes = self._edge, self._edge.routes
        until = edge.loop.time() + within_s
        while routes.leaves(request.machine_id, request.grant) and (under_way := routes.under_way(request.run_id)):
            spared = 0 if request.part else len(edge.websockets(request.run_id))
            if under_way == spared or edge.loop.time() >= until:
                return
            # Requests end in many places, all of them on the hot path: looking is cheaper than being told.
            await asyncio.sleep(_LOOK_S)

    async def stay(self, request: Stay) -> Nothing:
        # Not that of another decider, which may be about to use what this worker agreed to.
        if self._edge.routes.leaves(request.machine_id, request.grant):
            self._edge.routes.stay(request.machine_id)
        return Nothing()

    def _no(self, why: str) -> Vote:
        return Vote(worker=self._name, refusal=why)
