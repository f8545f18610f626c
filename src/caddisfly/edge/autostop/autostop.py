"""Autostop in one worker: it is on the roster, answers what others ask, and decides when it leads."""

from __future__ import annotations

import asyncio
import logging

from caddisfly.bus.projection import Projection
from caddisfly.bus.rpc import Dispatcher
from caddisfly.edge.autostop.ballot import Ballot
from caddisfly.edge.autostop.decider import Decider
from caddisfly.edge.autostop.messages import EDGES, LEAVE, SHOW_LOADS, STAY
from caddisfly.edge.autostop.roster import Lead, Membership
from caddisfly.edge.context import Edge
from caddisfly.edge.leaving import LEAVING_S

log = logging.getLogger(__name__)


class Autostop:
    """`start`, and `stop` when nothing is under way: until then the worker has a voice."""

    def __init__(self, edge: Edge, *, name: str, projection: Projection) -> None:
        self._edge, self._bus = edge, edge.bus
        self._dispatcher = Dispatcher()
        self._subscribed = False
        ballot = Ballot(edge, name)
        self._dispatcher.handle(SHOW_LOADS, ballot.loads)
        self._dispatcher.handle(LEAVE, ballot.leave)
        self._dispatcher.handle(STAY, ballot.stay)
        self._membership = Membership(self._bus, name, joined=self._on_joined)
        self._lead = Lead(self._bus, name)
        self._decider = Decider(bus=self._bus, settings=edge.settings, projection=projection, lead=self._lead)
        self._trust: asyncio.TimerHandle | None = None

    def start(self) -> None:
        self._bus.on_connect(self._on_connect)

    async def stop(self) -> None:
        if self._trust is not None:
            self._trust.cancel()
        await self._decider.stop()
        await self._lead.stop()
        await self._membership.stop()
        await self._dispatcher.close()

    async def _on_connect(self) -> None:
        """After each (re)connection. Subscriptions survive reconnections by themselves, so they are made once."""
        if self._subscribed:
            self._lead.doubt()
            self._membership.rejoin()
            return
        await self._dispatcher.serve_bus(self._bus, EDGES)
        self._subscribed = True
        self._membership.start()
        if self._edge.settings.autostop_pass_s:
            self._lead.start()
            self._decider.start()

    def _on_joined(self) -> None:
        """On the roster, so whoever asks everybody from now on asks this worker. Who asked before may still act."""
        self._edge.routes.doubt()
        if self._trust is not None:
            self._trust.cancel()
        self._trust = self._edge.loop.call_later(LEAVING_S, self._edge.routes.trust)
