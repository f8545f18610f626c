"""A process's own copy of the catalog, in memory: every read in control, edge and DNS is served from here.

It keeps serving what it last knew while the bus is away. After every reconnection, and when the bucket turns out to be
another one than before, it reads everything again into a fresh copy and swaps, so that what vanished meanwhile
vanishes here too. What a new bucket lacks counts as vanished only once its owner has published everything there: an
edge whose bus lost its disk goes on to route.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from nats.errors import Error as NatsError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.kv import KeyValue

from caddisfly.bus.catalog import (
    APP,
    CONTROL,
    HOST,
    MACHINE,
    WHOLE,
    AppEntry,
    HostEntry,
    bucket,
    read_whole,
    standing,
)
from caddisfly.bus.connection import Bus
from caddisfly.model.errors import Unavailable
from caddisfly.model.machine import Machine

log = logging.getLogger(__name__)

_IDENTITY_CHECK_S = 5.0
_RETRY_S = 0.5
CATALOG_WAIT_S = 3.0
"""How long a process that is starting should wait for its first copy before it serves without one."""
MachineListener = Callable[[Machine | None, Machine | None], None]
"""Called with the old and the new value of a Machine that changed."""


class Projection:
    """What exists, by id and by name."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.apps: dict[str, AppEntry] = {}
        """By app name."""
        self.hosts: dict[str, HostEntry] = {}
        self.machines: dict[str, Machine] = {}
        self._by_app: defaultdict[str, dict[str, Machine]] = defaultdict(dict)
        self.revision = 0
        self.ready = asyncio.Event()
        """Set once the first full copy is here."""
        self._waiters: list[tuple[int, asyncio.Future[None]]] = []
        self._listeners: list[MachineListener] = []
        self._task: asyncio.Task[None] | None = None
        self._round: asyncio.Task[None] | None = None
        self._interrupted = False
        self._stopped = False
        self._connected = asyncio.Event()
        self._bucket = ""
        self._unconfirmed: dict[str, str] = {}
        """Keys that a new bucket lacks so far, with their owners."""

    def start(self) -> None:
        self._bus.on_connect(self._restart)
        self._task = asyncio.create_task(self._follow(), name="projection")

    async def stop(self) -> None:
        self._stopped = True
        for task in (self._task, self._round):
            if task is not None:
                task.cancel()

    async def arrived(self, *, timeout_s: float) -> bool:
        """Wait for the first full copy. False when it did not come in time."""
        try:
            async with asyncio.timeout(timeout_s):
                await self.ready.wait()
        except TimeoutError:
            return False
        return True

    def machines_of(self, app_id: str) -> dict[str, Machine]:
        """The app's Machines by id, destroyed ones that are still readable included."""
        return self._by_app.get(app_id) or {}

    @contextmanager
    def listening(self, listener: MachineListener) -> Iterator[None]:
        """Call `listener` on each change inside the block. Subscribe before reading, or a fast change is missed."""
        self._listeners.append(listener)
        try:
            yield
        finally:
            self._listeners.remove(listener)

    async def wait_for(self, revision: int, *, timeout_s: float) -> bool:
        """Wait until this copy holds `revision`. False when it did not come in time."""
        if self.revision >= revision:
            return True
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append((revision, future))
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return False
        finally:
            self._waiters = [waiter for waiter in self._waiters if waiter[1] is not future]
        return True

    async def _restart(self) -> None:
        # The flag beside the cancellation: `asyncio.wait_for` of Python 3.11, inside the watcher, can swallow one.
        self._interrupted = True
        self._connected.set()
        if self._round is not None:
            self._round.cancel()

    async def _follow(self) -> None:
        while not self._stopped:
            self._interrupted = False
            self._connected.clear()
            self._round = asyncio.create_task(self._follow_once(), name="projection-round")
            await asyncio.wait((self._round,))
            if self._round.cancelled():
                continue  # reconnected: read everything again
            error = self._round.exception()
            if error is not None and not isinstance(error, Unavailable | NatsError | OSError | TimeoutError):
                log.error("projection.bug", exc_info=error)
            with suppress(TimeoutError):
                async with asyncio.timeout(_RETRY_S):
                    await self._connected.wait()

    async def _follow_once(self) -> None:
        """Read everything, then follow, until the bucket is another one. Raises when the bus goes away."""
        kv = await bucket(self._bus)
        identity, last = await standing(self._bus)
        watcher = await kv.watchall()
        try:
            seen = await read_whole(watcher, until=last)
            self._swap(seen, anew=self._bucket not in ("", identity))
            self._bucket = identity
            while not (self._interrupted or self._stopped):
                try:
                    entry = await watcher.updates(timeout=_IDENTITY_CHECK_S)  # type: ignore[no-untyped-call]
                except NatsTimeout:
                    if (await standing(self._bus))[0] != identity:
                        return
                    continue
                if entry is not None:
                    self._apply(entry)
        finally:
            if self._bus.connected:
                await watcher.stop()  # type: ignore[no-untyped-call]

    def _swap(self, seen: dict[str, KeyValue.Entry], *, anew: bool) -> None:
        for key, owner in self._known():
            if key in seen:
                continue
            if (anew or key in self._unconfirmed) and f"{WHOLE}.{owner}" not in seen:
                self._unconfirmed[key] = owner
            else:
                self._forget(key)
        self.revision = 0  # a new bucket counts from the start
        for entry in seen.values():
            self._apply(entry)
        self.ready.set()

    def _known(self) -> list[tuple[str, str]]:
        """Every key that stands here, with its owner."""
        return [
            *((f"{MACHINE}.{machine.id}", machine.host_id) for machine in self.machines.values()),
            *((f"{APP}.{name}", CONTROL) for name in self.apps),
            *((f"{HOST}.{id}", id) for id in self.hosts),
        ]

    def _apply(self, entry: KeyValue.Entry) -> None:
        try:
            if entry.operation is not None or not entry.value:
                self._forget(entry.key)
            else:
                self._learn(entry.key, entry.value)
        except (ValueError, KeyError, TypeError) as error:
            # Poison must not stall the copy: leave the entry out, say so, go on.
            log.error("projection.bad_entry", extra={"key": entry.key, "reason": repr(error)})
        self.revision = max(self.revision, entry.revision or 0)
        for revision, future in self._waiters:
            if revision <= self.revision and not future.done():
                future.set_result(None)

    def _learn(self, key: str, value: bytes) -> None:
        kind, _, name = key.partition(".")
        self._unconfirmed.pop(key, None)
        if kind == MACHINE:
            machine = Machine.from_record(json.loads(value))
            old = self.machines.get(name)
            self.machines[name] = machine
            self._by_app[machine.app_id][name] = machine
            self._tell(old, machine)
        elif kind == APP:
            self.apps[name] = AppEntry.model_validate_json(value)
        elif kind == HOST:
            self.hosts[name] = HostEntry.model_validate_json(value)
        elif kind == WHOLE:
            for missing in [key for key, owner in self._unconfirmed.items() if owner == name]:
                self._forget(missing)

    def _forget(self, key: str) -> None:
        kind, _, name = key.partition(".")
        self._unconfirmed.pop(key, None)
        if kind == MACHINE and (old := self.machines.pop(name, None)):
            of_app = self._by_app[old.app_id]
            of_app.pop(name, None)
            if not of_app:
                del self._by_app[old.app_id]
            self._tell(old, None)
        elif kind == APP:
            self.apps.pop(name, None)
        elif kind == HOST:
            self.hosts.pop(name, None)

    def _tell(self, old: Machine | None, new: Machine | None) -> None:
        for listener in list(self._listeners):
            listener(old, new)
