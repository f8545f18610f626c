"""The bus, simulated below the product's own connection: NATS' client, its one bucket, and a network that misbehaves.

`caddisfly.bus` runs as it is on top of `SimClient`: connection, calls, publication, projection. What one connection
sends stays in order, as on TCP. Calls may be lost, doubled, delayed and overtake each other; the server may be away,
and may lose everything it had.
"""

from __future__ import annotations

import asyncio
import re
from collections import deque
from collections.abc import Awaitable, Callable
from contextvars import Context, copy_context
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js.errors import NotFoundError

from tests.simulation.loop import PROCESS, Process

if TYPE_CHECKING:
    from tests.simulation.world import World

_NEWEST_EVENT = re.compile(rb'"events":\[\{"id":"(\w+)"')


@dataclass(frozen=True, slots=True)
class Entry:
    key: str
    value: bytes
    revision: int
    operation: str | None


@dataclass(frozen=True, slots=True)
class _State:
    last_seq: int
    messages: int


@dataclass(frozen=True, slots=True)
class _Info:
    created: str
    state: _State


class Server:
    """One nats-server: the bucket, who is connected, who listens."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.up = True
        self.exists = False
        self.entries: dict[str, Entry] = {}
        self.created, self.revision = 0, 0
        self.clients: list[SimClient] = []

    def stop(self, *, wipe: bool) -> None:
        self.up = False
        if wipe:
            self.exists, self.entries, self.revision = False, {}, 0
        for client in self.clients:
            client.cut()

    def start(self) -> None:
        if not self.up:
            self.up = True
            for client in self.clients:
                client.reconnect_soon()

    def store(self, key: str, value: bytes, operation: str | None) -> int:
        self.revision += 1
        entry = self.entries[key] = Entry(key, value, self.revision, operation)
        if key.startswith("machine.") and operation is None:
            newest = _NEWEST_EVENT.search(value)
            assert newest is not None
            self.world.shown(key.removeprefix("machine."), newest[1].decode(), "catalog")
        for client in self.clients:
            client.deliver(entry)
        return self.revision

    def values(self) -> dict[str, bytes]:
        return {entry.key: entry.value for entry in self.entries.values() if entry.operation is None}


class Pipe:
    """One direction of a connection: what goes in first comes out first, whatever the loop draws."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._under_way: deque[Callable[[], None]] = deque()
        self._until = 0.0

    def send(self, delay_s: float, arrive: Callable[[], None]) -> None:
        loop = self._world.loop
        self._until = max(self._until, loop.time() + delay_s)
        self._under_way.append(arrive)
        loop.later(self._until - loop.time(), self._next)

    def _next(self) -> None:
        self._under_way.popleft()()


class SimClient:
    """The part of NATS' client that the product uses."""

    def __init__(self, world: World) -> None:
        self._world, self._server = world, world.server
        self._process: Process | None = PROCESS.get()
        self.is_connected, self.is_reconnecting, self.is_closed = False, False, False
        self._context: Context | None = None
        self._on_reconnect: Callable[[], Awaitable[None]] | None = None
        self._subscriptions: dict[str, Callable[[Any], Awaitable[None]]] = {}
        self._watchers: list[Watcher] = []
        self._there, self._back = Pipe(world), Pipe(world)

    async def connect(self, url: str, *, reconnected_cb: Callable[[], Awaitable[None]], **options: Any) -> None:
        await asyncio.sleep(self._world.brief())
        if not self._server.up:
            raise ConnectionRefusedError("no server")
        self._context, self._on_reconnect = copy_context(), reconnected_cb
        self.is_connected = True
        self._server.clients.append(self)

    async def close(self) -> None:
        self.is_connected, self.is_closed = False, True
        self.forget()

    def forget(self) -> None:
        if self in self._server.clients:
            self._server.clients.remove(self)

    def cut(self) -> None:
        self.is_connected = False
        self._watchers.clear()

    def reconnect_soon(self) -> None:
        self._world.loop.later(self._world.brief() + 0.2, self._reconnect)

    def _reconnect(self) -> None:
        gone = self.is_closed or (self._process is not None and self._process.dead)
        if gone or self.is_connected or not self._server.up:
            return
        self.is_connected = True
        assert self._on_reconnect is not None
        assert self._context is not None
        self._world.loop.create_task(self._on_reconnect(), context=self._context)  # type: ignore[arg-type]

    async def subscribe(self, subject: str, cb: Callable[[Any], Awaitable[None]]) -> None:
        self._subscriptions[subject] = cb

    async def publish(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Beats and bids: nobody in the simulation listens."""

    async def request(self, subject: str, payload: bytes, timeout: float) -> Message:
        """A call. Each copy of it goes its own way; the first answer counts."""
        prefix = subject.rpartition(".")[0].rpartition(".")[0] + ".>"
        listening = [client for client in self._server.clients if prefix in client._subscriptions]
        if not listening:
            raise NoRespondersError
        world = self._world
        answer: asyncio.Future[Message] = world.loop.create_future()
        copies = 1
        if world.faults:
            copies = world.chance.choices((0, 1, 2), (0.04, 0.88, 0.08))[0]
        for _ in range(copies):
            message = Message(world, subject, payload, answer)
            world.loop.later(world.distance(), listening[-1].hear, prefix, message)
        try:
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise NatsTimeout from None

    def hear(self, prefix: str, message: Message) -> None:
        if self.is_connected and not (self._process is not None and self._process.dead):
            assert self._context is not None
            work: Any = self._subscriptions[prefix](message)
            self._world.loop.create_task(work, context=self._context)

    def jetstream(self, timeout: float) -> SimClient:
        return self

    async def key_value(self, bucket: str) -> SimClient:
        await self._round_trip()
        if not self._server.exists:
            raise NotFoundError
        return self

    async def create_key_value(self, config: object) -> SimClient:
        await self._round_trip()
        if not self._server.exists:
            self._server.exists = True
            self._server.created += 1
        return self

    async def stream_info(self, stream: str) -> _Info:
        await self._round_trip()
        if not self._server.exists:
            raise NotFoundError
        return _Info(str(self._server.created), _State(self._server.revision, len(self._server.entries)))

    async def put(self, key: str, value: bytes) -> int:
        return await self._send(lambda: self._server.store(key, value, None))

    async def delete(self, key: str) -> None:
        await self._send(lambda: self._server.store(key, b"", "DEL"))

    async def watchall(self) -> Watcher:
        await self._round_trip()
        if not self._server.exists:
            raise NotFoundError
        watcher = Watcher(self, self._world)
        for entry in sorted(self._server.entries.values(), key=lambda entry: entry.revision):
            watcher.queue.append(entry)
        watcher.queue.append(None)
        self._watchers.append(watcher)
        return watcher

    def deliver(self, entry: Entry) -> None:
        """The server sends a change to all watchers of this connection."""
        for watcher in self._watchers:
            self._back.send(self._world.brief(), partial(watcher.push, entry))

    async def _round_trip(self) -> None:
        if not self.is_connected:
            raise ConnectionClosedError
        await asyncio.sleep(self._world.brief())
        if not self.is_connected:
            raise NatsTimeout

    async def _send(self, apply: Callable[[], int]) -> int:
        if not self.is_connected:
            raise ConnectionClosedError
        world = self._world
        done: asyncio.Future[int] = world.loop.create_future()
        slow = world.faults and world.happens(0.01)

        def arrive() -> None:
            if self._process is not None and self._process.dead and world.happens(0.5):
                return
            if self.is_connected and self._server.exists:
                revision = apply()
                if not done.done() and not (world.faults and world.happens(0.01)):
                    world.loop.later(world.brief(), acknowledge, revision)

        def acknowledge(revision: int) -> None:
            if not done.done():
                done.set_result(revision)

        self._there.send(3.0 if slow else world.brief(), arrive)
        try:
            async with asyncio.timeout(5):
                return await done
        except TimeoutError:
            raise NatsTimeout from None


class Message:
    """One copy of a call on its way, and the way of its answer back."""

    reply = "inbox"

    def __init__(self, world: World, subject: str, data: bytes, answer: asyncio.Future[Message]) -> None:
        self.subject, self.data = subject, data
        self._world, self._answer = world, answer

    async def respond(self, data: bytes) -> None:
        world = self._world
        if not (world.faults and world.happens(0.04)):
            world.loop.later(world.distance(), self._arrive, data)

    def _arrive(self, data: bytes) -> None:
        if not self._answer.done():
            self._answer.set_result(Message(self._world, "", data, self._answer))


class Watcher:
    """A watch of the whole bucket."""

    def __init__(self, client: SimClient, world: World) -> None:
        self._client, self._world = client, world
        self.queue: deque[Entry | None] = deque()
        self._waiter: asyncio.Future[None] | None = None

    def push(self, entry: Entry) -> None:
        if self in self._client._watchers:
            self.queue.append(entry)
            if self._waiter is not None and not self._waiter.done():
                self._waiter.set_result(None)

    async def updates(self, timeout: float) -> Entry | None:
        if not self.queue:
            self._waiter = self._world.loop.create_future()
            try:
                async with asyncio.timeout(timeout):
                    await self._waiter
            except TimeoutError:
                raise NatsTimeout from None
        return self.queue.popleft()

    async def stop(self) -> None:
        if self in self._client._watchers:
            self._client._watchers.remove(self)
