"""A candidate: one service of one run of one Machine, with its load and its open connections.

Connections are kept here and not in a pool beside, so that fencing needs no check: a new run, version or address makes
a new candidate, and the old one takes its idle connections with it (invariant I5: never a request to an instance other
than the registered one).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING

from caddisfly.model import states
from caddisfly.model.machine import Machine
from caddisfly.model.service import Service

if TYPE_CHECKING:
    import asyncio

    from caddisfly.edge.upstream import Upstream

Fence = tuple[str, str, str, str, int]


def fence_of(machine: Machine, address: str, service: Service) -> Fence:
    return (machine.id, machine.instance_id, machine.run_id, address, service.internal_port)


class Candidate:
    """Where a request may go. `load` counts requests under way from this worker, reserved ones included."""

    __slots__ = (
        "address",
        "autostart",
        "autostops",
        "busy_at",
        "connection_line",
        "fence",
        "hard",
        "idle",
        "load",
        "machine",
        "near",
        "peak",
        "peak_at",
        "pooled",
        "port",
        "reached",
        "retired",
        "slots",
        "soft",
        "used",
    )

    def __init__(self, machine: Machine, address: str, service: Service, slots: deque[asyncio.Future[None]]):
        self.fence = fence_of(machine, address, service)
        self.address, self.port = address, service.internal_port
        self.load = 0
        self.used = False
        """Whether a request has ended since the last sweep: the hot path leaves no more of a trace than this."""
        self.peak, self.peak_at, self.busy_at = 0, -math.inf, -math.inf
        self.idle: list[Upstream] = []
        self.reached = False
        """Whether it took a connection, the last time one was tried."""
        self.retired = False
        self.slots = slots
        """Requests that wait until any candidate of the app has room, oldest first."""
        self.near = True
        self.update(machine, service)

    def update(self, machine: Machine, service: Service) -> None:
        """Take over what may change without a new run: limits."""
        self.machine = machine
        self.soft = service.soft_limit
        self.hard: float = service.hard_limit or math.inf
        self.autostart = service.autostart
        self.autostops = service.autostop != "off"
        self.pooled = service.concurrency_type == "requests"
        # As Fly: services that count connections get a new one for each request.
        self.connection_line = b"" if self.pooled else b"connection: close\r\n"

    def take(self, now: float, *, idle_max_s: float) -> Upstream | None:
        """An open connection, the one used last: the others may then grow old and be closed."""
        idle = self.idle
        while idle:
            upstream = idle.pop()
            if upstream.usable and now - upstream.idle_since <= idle_max_s:
                return upstream
            upstream.close()
        return None

    def release(self) -> None:
        """One request less: lets the first in who waits for room."""
        self.load -= 1
        self.used = True
        slots = self.slots
        while slots:
            waiter = slots.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def observe(self, now: float, *, window_s: float) -> None:
        """Note how much it has to do. The highest count is forgotten after `window_s`."""
        if self.used or self.load:
            self.used = False
            self.busy_at = now
        if self.load >= self.peak or now - self.peak_at > window_s:
            self.peak, self.peak_at = self.load, now

    def prune(self, now: float, *, idle_max_s: float) -> None:
        """Close connections that nobody used for `idle_max_s`."""
        idle = self.idle
        while idle and (not idle[0].usable or now - idle[0].idle_since > idle_max_s):
            idle.pop(0).close()

    def retire(self) -> None:
        """Its Machine changed: no new requests. Those under way end with their connections."""
        self.retired = True
        for upstream in self.idle:
            upstream.close()
        self.idle.clear()


def serves(machine: Machine) -> bool:
    return machine.state == states.STARTED and not machine.cordoned
