"""A bus inside one process: what this code uses of NATS, without a server.

For platforms that live and die with one process, such as `caddis dev`. It takes the place of the client, below `Bus`,
so that everything above it is the code that runs on a real NATS: reconnections, publications, the copy of the catalog.
`tests/bus/test_memory.py` holds both against the same expectations. A client can be cut off and let back in, which is
how a host is lost for a while.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any, cast

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.aio.subscription import Subscription
from nats.errors import ConnectionClosedError, NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import NotFoundError
from nats.js.kv import KeyValue

log = logging.getLogger(__name__)

Handler = Callable[[Msg], Awaitable[None]]

_numbers = itertools.count(1)
_HELD_MAX = 1000


class Exchange:
    """The server's part: who listens to what, and the buckets."""

    def __init__(self) -> None:
        self._exact: defaultdict[str, list[_Subscription]] = defaultdict(list)
        self._wild: list[_Subscription] = []
        self.buckets: dict[str, _Bucket] = {}

    def client(self) -> MemoryClient:
        return MemoryClient(self)

    def add(self, subscription: _Subscription) -> None:
        self._of(subscription).append(subscription)

    def discard(self, subscription: _Subscription) -> None:
        found = self._of(subscription)
        if subscription in found:
            found.remove(subscription)
        if not found and not subscription.wild:
            self._exact.pop(subscription.subject, None)

    def publish(self, subject: str, data: bytes, reply: str, headers: dict[str, str] | None) -> bool:
        """False when nobody who can be reached listens."""
        words = subject.split(".")
        listening = [*self._exact.get(subject, ()), *(one for one in self._wild if one.matches(words))]
        listening = [one for one in listening if one.client.is_connected]
        for one in listening:
            one.queue.put_nowait(Msg(one.client, subject=subject, reply=reply, data=data, headers=headers))
        return bool(listening)

    def _of(self, subscription: _Subscription) -> list[_Subscription]:
        return self._wild if subscription.wild else self._exact[subscription.subject]


class MemoryClient(Client):
    """Speaks to an `Exchange` of this process. `cut` and `restore` are the outage and its end."""

    def __init__(self, exchange: Exchange) -> None:
        super().__init__()
        self._exchange = exchange
        self._up = False
        self._ended = False
        self._made: list[_Subscription] = []
        self._held: list[tuple[str, bytes, str, dict[str, str] | None]] = []
        """What was said while it was cut off, such as late answers: NATS's client, too, sends it afterwards."""
        self._on_restore: Callable[[], Awaitable[None]] | None = None

    @property
    def is_connected(self) -> bool:
        return self._up

    @property
    def is_closed(self) -> bool:
        return self._ended

    async def connect(self, *_: Any, **options: Any) -> None:
        self._on_restore = options.get("reconnected_cb")
        self._up = True

    def cut(self) -> None:
        """As if the cable were pulled: nothing goes out, and what others send here meanwhile is lost."""
        self._up = False

    async def restore(self) -> None:
        if self._ended or self._up:
            return
        self._up = True
        held, self._held = self._held, []
        for message in held:
            await self.publish(*message)
        if self._on_restore is not None:
            await self._on_restore()

    async def close(self) -> None:
        self._up, self._ended = False, True
        for subscription in self._made:
            subscription.end()
        self._made.clear()

    def new_inbox(self) -> str:
        return f"_INBOX.{next(_numbers)}"

    async def publish(
        self, subject: str, payload: bytes = b"", reply: str = "", headers: dict[str, str] | None = None
    ) -> None:
        if not self._up:
            if not self._ended and len(self._held) < _HELD_MAX:
                self._held.append((subject, payload, reply, headers))
            return
        heard = self._exchange.publish(subject, payload, reply, headers)
        if not heard and reply:
            self._exchange.publish(reply, b"", "", {"Status": "503"})

    async def subscribe(  # type: ignore[override] # the options that nobody here uses are left out
        self, subject: str, queue: str = "", cb: Handler | None = None
    ) -> Subscription:
        self._must_be_up()
        if queue or cb is None:
            raise NotImplementedError("queue groups and subscriptions without a callback")
        subscription = _Subscription(self, subject, cb)
        self._exchange.add(subscription)
        self._made.append(subscription)
        return cast(Subscription, subscription)

    async def request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        old_style: bool = False,
        headers: dict[str, Any] | None = None,
    ) -> Msg:
        self._must_be_up()
        answer: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()

        async def take(message: Msg) -> None:
            if not answer.done():
                answer.set_result(message)

        inbox = await self.subscribe(self.new_inbox(), cb=take)
        try:
            if not self._exchange.publish(subject, payload, inbox.subject, headers):
                raise NoRespondersError
            async with asyncio.timeout(timeout):
                return await answer
        except TimeoutError:
            raise NatsTimeout from None
        finally:
            await inbox.unsubscribe()

    def jetstream(self, **_: Any) -> JetStreamContext:
        return cast(JetStreamContext, _JetStream(self))

    def forget(self, subscription: _Subscription) -> None:
        self._exchange.discard(subscription)
        if subscription in self._made:
            self._made.remove(subscription)

    @property
    def buckets(self) -> dict[str, _Bucket]:
        self._must_be_up()
        return self._exchange.buckets

    def _must_be_up(self) -> None:
        if not self._up:
            raise ConnectionClosedError


class _Subscription:
    """Calls back one message after the other, as NATS does."""

    def __init__(self, client: MemoryClient, subject: str, callback: Handler) -> None:
        self.client, self.subject = client, subject
        self.queue: asyncio.Queue[Msg] = asyncio.Queue()
        self._callback = callback
        self._words = subject.split(".")
        self.wild = "*" in self._words or self._words[-1] == ">"
        self._task = asyncio.create_task(self._run(), name=f"subscription-{subject}")

    def matches(self, words: list[str]) -> bool:
        for index, wanted in enumerate(self._words):
            if wanted == ">":
                return len(words) > index
            if index >= len(words) or wanted not in ("*", words[index]):
                return False
        return len(words) == len(self._words)

    async def unsubscribe(self, limit: int = 0) -> None:
        self.end()
        self.client.forget(self)

    def end(self) -> None:
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            message = await self.queue.get()
            try:
                await self._callback(message)
            except Exception:
                log.exception("memory.callback_failed", extra={"subject": message.subject})


@dataclass(slots=True)
class _Bucket:
    """The newest entry of each key, in the order of their revisions."""

    name: str
    created: int
    entries: dict[str, KeyValue.Entry] = field(default_factory=dict)
    revision: int = 0
    watchers: list[_Watcher] = field(default_factory=list)

    def write(self, key: str, value: bytes | None, operation: str | None) -> int:
        self.revision += 1
        entry = KeyValue.Entry(self.name, key, value, self.revision, 0, None, operation)
        self.entries.pop(key, None)
        self.entries[key] = entry
        for watcher in self.watchers:
            watcher.queue.put_nowait(entry)
        return self.revision


@dataclass(frozen=True, slots=True)
class _State:
    messages: int
    last_seq: int


@dataclass(frozen=True, slots=True)
class _StreamInfo:
    created: int
    state: _State


class _JetStream:
    def __init__(self, client: MemoryClient) -> None:
        self._client = client

    async def key_value(self, bucket: str) -> _KeyValue:
        if bucket not in self._client.buckets:
            raise NotFoundError
        return _KeyValue(self._client, bucket)

    async def create_key_value(self, config: KeyValueConfig) -> _KeyValue:
        self._client.buckets.setdefault(config.bucket, _Bucket(config.bucket, next(_numbers)))
        return _KeyValue(self._client, config.bucket)

    async def stream_info(self, name: str) -> _StreamInfo:
        bucket = self._client.buckets.get(name.removeprefix("KV_"))
        if bucket is None:
            raise NotFoundError
        return _StreamInfo(bucket.created, _State(len(bucket.entries), bucket.revision))


class _KeyValue:
    def __init__(self, client: MemoryClient, bucket: str) -> None:
        self._client, self._bucket = client, bucket

    async def put(self, key: str, value: bytes) -> int:
        return self._client.buckets[self._bucket].write(key, value, None)

    async def delete(self, key: str) -> bool:
        self._client.buckets[self._bucket].write(key, None, "DEL")
        return True

    async def watchall(self) -> _Watcher:
        return _Watcher(self._client.buckets[self._bucket])


class _Watcher:
    """Everything that stands there, then None, then every change."""

    def __init__(self, bucket: _Bucket) -> None:
        self.queue: asyncio.Queue[KeyValue.Entry | None] = asyncio.Queue()
        self._bucket = bucket
        for entry in bucket.entries.values():
            self.queue.put_nowait(entry)
        self.queue.put_nowait(None)
        bucket.watchers.append(self)

    async def updates(self, timeout: float = 5.0) -> KeyValue.Entry | None:
        try:
            async with asyncio.timeout(timeout):
                return await self.queue.get()
        except TimeoutError:
            raise NatsTimeout from None

    async def stop(self) -> None:
        if self in self._bucket.watchers:
            self._bucket.watchers.remove(self)
