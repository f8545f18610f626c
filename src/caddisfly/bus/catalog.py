"""The catalog: the replica, on the bus, of what exists and in which state.

It is one JetStream bucket, so that one number, the revision, orders everything in it. Writers are always the owners:
control writes apps, a host writes itself and its Machines. `Publication` is level-triggered: an owner says what should
stand there, and it is put again whenever it does not (first connection, reconnection, a bucket that was deleted or
lost its tail). An outbox table would remember each *change* instead; it costs a write for each and still cannot mend a
bucket that lost what had been acknowledged (docs/decisions/0001).

An owner that has put everything says so under `whole.<owner>`. Whoever finds a new and empty bucket where a full one
was can tell "not published again yet" from "gone", and goes on with what it knew.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from nats.errors import Error as NatsError
from nats.js.api import KeyValueConfig, StorageType
from nats.js.kv import KeyValue
from pydantic import BaseModel, ConfigDict

from caddisfly.bus.connection import Bus
from caddisfly.model.errors import Unavailable

log = logging.getLogger(__name__)

BUCKET = "catalog"
STREAM = f"KV_{BUCKET}"
_PUT_TIMEOUT_S = 1.0
_RETRY_S = 1.0
_READ_TIMEOUT_S = 10.0
APP, HOST, MACHINE, WHOLE = "app", "host", "machine", "whole"
_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode
"""Made once, and without looking for circles, which records cannot have: a host encodes each step of each Machine."""
CONTROL = "control"
"""The owner of apps. A host owns itself and its Machines, under its id."""


class AppEntry(BaseModel):
    """`app.<name>`: what an edge must know to route to an app."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    org_id: str
    org_slug: str
    network: str
    network_id: int


class HostEntry(BaseModel):
    """`host.<id>`: a host's own facts. Memory is MiB. Whether it is up is told by its beats, not by this."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str
    region: str
    drivers: tuple[str, ...]
    isolation: tuple[str, ...] = ()
    """The classes of `drivers`, in the same order, the preferred first."""
    cpus: int
    memory_mb: int
    version: str


async def bucket(bus: Bus) -> KeyValue:
    """Open the catalog, making it when it is not there. Raises `Unavailable`."""
    config = KeyValueConfig(bucket=BUCKET, history=1, storage=StorageType.FILE, max_value_size=1024 * 1024)
    return await bus.bucket(config)


async def standing(bus: Bus) -> tuple[str, int]:
    """Which bucket stands there, and the newest revision that can be read from it. Raises `NatsError`."""
    info = await bus.jetstream.stream_info(STREAM)
    return str(info.created), info.state.last_seq if info.state.messages else 0


async def read_whole(watcher: KeyValue.KeyWatcher, *, until: int) -> dict[str, KeyValue.Entry]:
    """What a fresh watcher of everything finds, by key, deletions included.

    The client marks the end with None, but now and then before the first entry: it compares what the server has sent
    with what has arrived. The revision that the stream had before is what tells.
    """
    seen: dict[str, KeyValue.Entry] = {}
    marked, revision = False, 0
    while not marked or revision < until:
        entry = await watcher.updates(timeout=_READ_TIMEOUT_S)  # type: ignore[no-untyped-call]
        if entry is None:
            marked = True
        else:
            seen[entry.key] = entry
            revision = max(revision, entry.revision or 0)
    return seen


class Publication:
    """What one owner wants to stand in the catalog under its own keys."""

    def __init__(
        self, bus: Bus, *, owner: str, owns: Callable[[str, Mapping[str, Any]], bool], every_s: float = 15.0
    ) -> None:
        """`owns(key, value)` says whether a key found in the catalog is ours to remove when we do not want it."""
        self._bus, self._owns, self._every_s = bus, owns, every_s
        self._whole = f"{WHOLE}.{owner}"
        self._wanted: dict[str, bytes] = {}
        self._kv: KeyValue | None = None
        self._lock = asyncio.Lock()
        self._task: asyncio.Task[None] | None = None
        self._key_locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._stopped = False
        self._suspect = asyncio.Event()
        """Set by a failed put: later ones are left to `reconcile`, so that a frozen bus delays nobody twice."""

    def start(self) -> None:
        """Begin to keep the catalog true. Call once everything that should stand there has been `want`ed."""
        self._bus.on_connect(self._reconcile_or_say)
        self._task = asyncio.create_task(self._keep(), name="catalog-publication")

    async def stop(self) -> None:
        self._stopped = True  # a cancellation alone can be swallowed by `asyncio.wait_for` of Python 3.11
        if self._task is not None:
            self._task.cancel()

    def want(self, key: str, value: Mapping[str, Any]) -> None:
        """Say what should stand at `key`, without putting it now."""
        self._wanted[key] = _encode(value).encode()

    async def put(self, key: str, value: Mapping[str, Any]) -> int:
        """Publish now. Returns the revision, or 0 when the bus is away (it is put when it returns)."""
        self.want(key, value)
        return await self._push(key)

    async def remove(self, key: str) -> int:
        self._wanted.pop(key, None)
        return await self._push(key)

    async def _push(self, key: str) -> int:
        if self._suspect.is_set():
            return 0
        try:
            async with asyncio.timeout(_PUT_TIMEOUT_S), self._key_locks[key]:
                kv = self._kv = self._kv or await bucket(self._bus)
                value = self._wanted.get(key)
                if value is None:
                    await kv.delete(key)
                    self._key_locks.pop(key, None)
                    return 0
                return await kv.put(key, value)
        except (Unavailable, NatsError, OSError, TimeoutError) as error:
            self._kv = None
            self._suspect.set()
            log.warning("catalog.put_failed", extra={"key": key, "reason": repr(error)})
            return 0

    async def reconcile(self) -> None:
        """Make the catalog say what is wanted, touching only what differs. Raises `Unavailable`."""
        async with self._lock:
            kv = self._kv = await bucket(self._bus)
            try:
                found = await self._read(kv)
                for key in list(self._wanted):
                    # What is wanted is looked up under the lock: a newer value may have been put since we read.
                    async with self._key_locks[key]:
                        value = self._wanted.get(key)
                        if value is not None and found.get(key) != value:
                            await kv.put(key, value)
                self._suspect.clear()
                if self._whole not in found:
                    await kv.put(self._whole, b"{}")
                for key, old in found.items():
                    if key not in self._wanted and key != self._whole and self._owns(key, json.loads(old)):
                        await kv.delete(key)
            except (NatsError, OSError, TimeoutError) as error:
                self._kv = None
                self._suspect.set()
                raise Unavailable("the catalog does not answer", why=repr(error)) from error

    async def _read(self, kv: KeyValue) -> dict[str, bytes]:
        _, last = await standing(self._bus)
        watcher = await kv.watchall()
        try:
            entries = await read_whole(watcher, until=last)
        finally:
            await watcher.stop()  # type: ignore[no-untyped-call]
        return {key: entry.value for key, entry in entries.items() if entry.operation is None and entry.value}

    async def _keep(self) -> None:
        while not self._stopped:
            with suppress(TimeoutError):
                async with asyncio.timeout(self._every_s):
                    await self._suspect.wait()
            if self._suspect.is_set():
                await asyncio.sleep(min(_RETRY_S, self._every_s))
            await self._reconcile_or_say()

    async def _reconcile_or_say(self) -> None:
        try:
            await self.reconcile()
        except Unavailable as error:
            log.warning("catalog.reconcile_failed", extra={"reason": str(error)})
