"""Which hosts are up, told by their heartbeats.

A host that was never heard gets the benefit of the doubt for one silence after this process (re)joined the bus: a
control that just started must not call the whole fleet unreachable.
"""

from __future__ import annotations

import time

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from caddisfly.bus import contract
from caddisfly.bus.catalog import HostEntry
from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import Projection

OK, UNKNOWN, UNREACHABLE = "ok", "unknown", "unreachable"


class Hosts:
    """`silence_s` is how long a host may say nothing before it counts as unreachable."""

    def __init__(self, bus: Bus, projection: Projection, *, silence_s: float) -> None:
        self._bus, self._projection, self._silence_s = bus, projection, silence_s
        self._heard: dict[str, float] = {}
        self._joined = float("-inf")
        self._subscription: Subscription | None = None

    def start(self) -> None:
        self._bus.on_connect(self._listen)

    async def _listen(self) -> None:
        self._joined = time.monotonic()
        if self._subscription is None:  # the client itself renews it after a reconnection
            self._subscription = await self._bus.client.subscribe(contract.beat_subject("*"), cb=self._on_beat)

    async def _on_beat(self, message: Msg) -> None:
        self._heard[message.subject.rpartition(".")[2]] = time.monotonic()

    def status(self, host_id: str) -> str:
        """`host_status` as clients read it (reference machines-api, part 3)."""
        if not self._bus.connected:
            return UNKNOWN
        last = max(self._heard.get(host_id, float("-inf")), self._joined)
        return OK if time.monotonic() - last <= self._silence_s else UNREACHABLE

    @property
    def up(self) -> list[HostEntry]:
        """The hosts that are in the catalog and were heard."""
        return [host for host in self._projection.hosts.values() if self.status(host.id) == OK]

    @property
    def regions(self) -> frozenset[str]:
        """Regions where at least one host is up."""
        return frozenset(host.region for host in self.up)
