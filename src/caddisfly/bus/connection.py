"""One process's connection to NATS: it never gives up, and the process lives without it.

A process must start and serve while the bus is away, so `open` returns at once and connects behind the scenes. What
needs the bus now gets `Unavailable`, which is retryable; what must be republished after an outage registers with
`on_connect`, which is called after every (re)connection.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.errors import Error as NatsError
from nats.errors import NoRespondersError
from nats.errors import TimeoutError as NatsTimeout
from nats.js import JetStreamContext
from nats.js.api import KeyValueConfig
from nats.js.errors import BadRequestError, NotFoundError
from nats.js.kv import KeyValue

from caddisfly.model.errors import DeadlineExceeded, Unavailable

log = logging.getLogger(__name__)

_RECONNECT_WAIT_S = 0.2
_PING_INTERVAL_S = 5

LOOK_FIRST = "look whether it was done before you repeat it"
"""What to do after a deadline: whether the other side acted is not known."""

Hook = Callable[[], Awaitable[None]]


class Bus:
    """A connection that comes back. `name` shows in the server's monitoring, `client` is NATS's unless given."""

    def __init__(self, *, url: str, token: str, name: str, client: Client | None = None) -> None:
        self._url, self._token, self._name = url, token, name
        self._client = client or Client()
        self._hooks: list[Hook] = []
        self._opening: asyncio.Task[None] | None = None
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        return self._client.is_connected

    @property
    def client(self) -> Client:
        """The live client. Raises `Unavailable` while there is none."""
        if not self.connected:
            raise Unavailable("the bus does not answer", why=f"no connection to {self._url}", next="caddis status")
        return self._client

    @property
    def jetstream(self) -> JetStreamContext:
        return self.client.jetstream(timeout=5)

    def on_connect(self, hook: Hook) -> None:
        """Call `hook` after every connection and reconnection; at once, too, if connected now."""
        self._hooks.append(hook)
        if self.connected:
            self._spawn(hook())

    def open(self) -> None:
        self._opening = asyncio.create_task(self._connect(), name="bus-connect")

    async def close(self) -> None:
        if self._opening is not None:
            self._opening.cancel()
        for task in self._tasks:
            task.cancel()
        client = self._client
        if client.is_reconnecting:
            # Its task that reconnects can lose the cancellation (`asyncio.wait_for` of Python 3.11) and would then go
            # on for ever, and keep this process from ending. With a limit it gives up by itself.
            client.options["max_reconnect_attempts"] = 1
        if client.is_connected or client.is_reconnecting:
            try:
                await client.close()
            except (RuntimeError, OSError) as error:  # the connection is gone, and with it who should get the rest
                log.debug("bus.closed_hard", extra={"reason": str(error)})

    async def _connect(self) -> None:
        while True:
            try:
                await self._client.connect(
                    self._url,
                    token=self._token,
                    name=self._name,
                    max_reconnect_attempts=-1,
                    reconnect_time_wait=_RECONNECT_WAIT_S,  # type: ignore[arg-type] # a float works, the annotation is narrow
                    ping_interval=_PING_INTERVAL_S,
                    max_outstanding_pings=2,
                    connect_timeout=2,
                    error_cb=self._on_error,
                    reconnected_cb=self._on_connect,
                    allow_reconnect=True,
                )
            except (TimeoutError, OSError, NatsError) as error:
                log.debug("bus.connect_failed", extra={"reason": str(error)})
                await asyncio.sleep(_RECONNECT_WAIT_S)
            else:
                await self._on_connect()
                return

    async def _on_connect(self) -> None:
        log.info("bus.connected")
        for hook in self._hooks:
            self._spawn(hook())

    async def _on_error(self, error: Exception) -> None:
        log.debug("bus.error", extra={"reason": repr(error)})

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            try:
                await work
            except Unavailable:
                log.debug("bus.hook_interrupted")  # lost again meanwhile: the next connection calls it again

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def bucket(self, config: KeyValueConfig) -> KeyValue:
        """Open a bucket, making it when it is not there. Raises `Unavailable`."""
        jetstream = self.jetstream
        try:
            try:
                return await jetstream.key_value(config.bucket)
            except NotFoundError:
                try:
                    return await jetstream.create_key_value(config)
                except BadRequestError:  # somebody else made it in this moment
                    return await jetstream.key_value(config.bucket)
        except (NatsError, OSError, TimeoutError) as error:
            raise Unavailable(f"the {config.bucket} does not answer", why=str(error), next="caddis status") from error

    async def request(self, subject: str, payload: bytes, *, timeout_s: float) -> bytes:
        """Ask and await the one answer. Raises `Unavailable` when nobody listens, `DeadlineExceeded` when late."""
        try:
            reply: Msg = await self.client.request(subject, payload, timeout=timeout_s)
        except NoRespondersError as error:
            raise Unavailable(f"nobody answers {subject}", next="caddis status") from error
        except NatsTimeout as error:
            raise DeadlineExceeded(f"{subject} did not answer within {timeout_s:g} s", next=LOOK_FIRST) from error
        except (NatsError, OSError) as error:
            raise Unavailable("the bus does not answer", why=str(error), next="caddis status") from error
        return reply.data

    async def gather(self, subject: str, payload: bytes, *, enough: int, timeout_s: float) -> list[bytes]:
        """Ask everyone and collect answers until `enough` came or the time is over. Nobody listening is no answers."""
        client = self.client
        inbox = client.new_inbox()
        answers: list[bytes] = []
        done = asyncio.Event()

        async def collect(message: Msg) -> None:
            if not message.data and message.headers and message.headers.get("Status") == "503":
                done.set()
                return
            answers.append(message.data)
            if len(answers) >= enough:
                done.set()

        subscription = await client.subscribe(inbox, cb=collect)
        try:
            await client.publish(subject, payload, reply=inbox)
            async with asyncio.timeout(timeout_s):
                await done.wait()
        except TimeoutError:
            log.debug("bus.gather_partial", extra={"subject": subject, "answers": len(answers), "asked": enough})
        except (NatsError, OSError) as error:
            raise Unavailable("the bus does not answer", why=str(error), next="caddis status") from error
        finally:
            if self.connected:
                await subscription.unsubscribe()
        return answers

    async def publish(self, subject: str, payload: bytes) -> None:
        """Fire and forget. Raises `Unavailable` only when it could not even be queued."""
        try:
            await self.client.publish(subject, payload)
        except (NatsError, OSError) as error:
            raise Unavailable("the bus does not answer", why=str(error)) from error
