"""The roster: which workers there are, and which one of them decides.

Both are keys on the bus that lapse. A worker's own key is written again long before it does, so a worker that was
killed is missed for as long as it takes its successor, which has the same name, to come up; nothing is stopped
meanwhile. The decider's key lapses within seconds. Neither is a truth that matters: a worker that is not on the roster,
or two that decide, cost no request (docs/decisions/0023).
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable

from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig, StorageType
from nats.js.errors import KeyWrongLastSequenceError, NotFoundError

from caddisfly.bus.connection import Bus
from caddisfly.model.errors import Unavailable

log = logging.getLogger(__name__)

MEMBER_S, MEMBER_AGAIN_S = 600.0, 60.0
"""A worker that the bus has not heard for so long is taken for dead, and with it its connections."""
LEASE_S = 10.0
_RETRY_S = 1.0
_GOODBYE_S = 1.0
_DECIDER = "decider"
# Of memory: what is lost with the bus is written again by who lives.
_MEMBERS = KeyValueConfig(bucket="edges", ttl=MEMBER_S, storage=StorageType.MEMORY)
_LEASES = KeyValueConfig(bucket="edge-decider", ttl=LEASE_S, storage=StorageType.MEMORY)
_AWAY = (NatsError, Unavailable, OSError, TimeoutError)


class Membership:
    """Keeps one worker on the roster. `joined` is called each time it is on it after it may not have been."""

    def __init__(self, bus: Bus, name: str, *, joined: Callable[[], None]) -> None:
        self._bus, self._name, self._joined = bus, name, joined
        self._again = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Call after the worker listens to what others ask."""
        self._again.set()
        self._task = asyncio.create_task(self._keep(), name="edge-membership")

    def rejoin(self) -> None:
        """The bus came back, maybe without what it knew."""
        self._again.set()

    async def stop(self) -> None:
        """Leave. Only who has nothing under way may."""
        if self._task is None:
            return
        self._task.cancel()
        try:
            async with asyncio.timeout(_GOODBYE_S):
                await self._bus.jetstream.purge_stream(
                    f"KV_{_MEMBERS.bucket}", subject=f"$KV.{_MEMBERS.bucket}.{self._name}"
                )
        except _AWAY as error:
            log.debug("edge.not_off_the_roster", extra={"reason": repr(error)})  # it lapses

    async def _keep(self) -> None:
        while True:
            new = self._again.is_set()
            self._again.clear()
            try:
                await (await self._bus.bucket(_MEMBERS)).put(self._name, b"{}")
            except _AWAY as error:
                log.debug("edge.not_on_the_roster", extra={"reason": repr(error)})
                self._again.set()
                await asyncio.sleep(_RETRY_S)
                continue
            if new:
                self._joined()
            try:
                async with asyncio.timeout(MEMBER_AGAIN_S):
                    await self._again.wait()
            except TimeoutError:
                continue


async def members(bus: Bus) -> frozenset[str]:
    """Everybody on the roster now. Raises `Unavailable`."""
    prefix = f"$KV.{_MEMBERS.bucket}."
    try:
        # Not by a watcher: its end mark may come too early (bus/catalog.py), and who is left out is not asked.
        info = await bus.jetstream.stream_info(f"KV_{_MEMBERS.bucket}", subjects_filter=f"{prefix}>")
    except NotFoundError:
        return frozenset()
    except _AWAY as error:
        raise Unavailable("the roster does not answer", why=repr(error)) from error
    return frozenset(subject.removeprefix(prefix) for subject in info.state.subjects or ())


class Lead:
    """Whether this worker is the one that decides. `term` is another number each time it became that."""

    def __init__(self, bus: Bus, name: str) -> None:
        self._bus, self._name = bus, name
        self._revision = 0
        self._until = 0.0
        self.term = 0
        self._task: asyncio.Task[None] | None = None
        self._lost = False

    def start(self) -> None:
        self._task = asyncio.create_task(self._keep(), name="edge-lead")

    async def stop(self) -> None:
        """Let another one decide, now."""
        if self._task is None:
            return
        self._task.cancel()
        held, self._until = self.holds(self.term), 0.0
        if held:
            try:
                async with asyncio.timeout(_GOODBYE_S):
                    await (await self._bus.bucket(_LEASES)).delete(_DECIDER, last=self._revision)
            except _AWAY as error:
                log.debug("edge.lead_lapses", extra={"reason": repr(error)})

    def holds(self, term: int) -> bool:
        """Whether it still is, on a clock that runs ahead of the bus's."""
        return term == self.term and time.monotonic() < self._until

    def doubt(self) -> None:
        """The bus came back: whoever is on the roster may have to come back, too. Begin a new term."""
        self._until = 0.0

    async def _keep(self) -> None:
        while True:
            begun = time.monotonic()
            try:
                leases = await self._bus.bucket(_LEASES)
                if self._revision:
                    self._revision = await leases.update(_DECIDER, self._name.encode(), last=self._revision)
                else:
                    self._revision = await leases.create(_DECIDER, self._name.encode())
            except KeyWrongLastSequenceError:
                self._revision, self._until = 0, 0.0
            except _AWAY as error:
                log.debug("edge.no_lead", extra={"reason": repr(error)})
            else:
                if begun >= self._until:
                    self.term += 1
                    log.info("edge.leads", extra={"worker": self._name})
                self._until = begun + LEASE_S * 0.8
            # Who leads says so thrice in a lease; who does not looks now and then, all at different moments.
            await asyncio.sleep(LEASE_S / 3 if self._revision else LEASE_S / 2 * random.uniform(0.75, 1.25))
