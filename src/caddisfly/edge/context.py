"""What all connections of one worker share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from caddisfly.bus.connection import Bus
from caddisfly.edge.request_id import RequestIds
from caddisfly.edge.routes import Routes
from caddisfly.edge.settings import EdgeSettings
from caddisfly.edge.wake import Wake

if TYPE_CHECKING:
    from caddisfly.edge.client_side import Client
    from caddisfly.edge.exchange import Exchange

SWEEP_S = 0.5
"""Time-outs are looked at this often, all at once: a timer for each request would cost more than its routing."""


class Edge:
    """`now` is the loop's clock, as of the last sweep: exact enough for time-outs, and free."""

    def __init__(self, *, settings: EdgeSettings, bus: Bus, routes: Routes, loop: asyncio.AbstractEventLoop) -> None:
        self.settings, self.bus, self.routes, self.loop = settings, bus, routes, loop
        self.wake = Wake(settings=settings, bus=bus, routes=routes)
        self.ids = RequestIds(settings.region)
        self.clients: set[Client] = set()
        self.now = loop.time()
        self.draining = False
        self.remembered_bytes = 0
        """Request body kept for another try, over all requests."""
        self.empty = asyncio.Event()
        """Set while draining, when the last client is gone."""

    def sweep(self) -> None:
        """Close what waited too long."""
        now = self.now = self.loop.time()
        for client in list(self.clients):
            # Deadlines are counted from a clock that may be one sweep old: nobody's time is cut short by that.
            if client.deadline and client.deadline + SWEEP_S < now:
                client.expire()
        settings = self.settings
        for candidate in self.routes.candidates():
            candidate.prune(now, idle_max_s=settings.pool_idle_s)
            candidate.observe(now, window_s=settings.autostop_pass_s)
        self.routes.sweep(now)

    def websockets(self, run_id: str) -> list[Exchange]:
        """Those that are open to this run of a Machine."""
        open_ = [client.exchange for client in self.clients if client.exchange is not None]
        return [
            one
            for one in open_
            if one.websocket and one.upstream is not None and one.upstream.candidate.machine.run_id == run_id
        ]

    def left(self, client: Client) -> None:
        self.clients.discard(client)
        if self.draining and not self.clients:
            self.empty.set()
