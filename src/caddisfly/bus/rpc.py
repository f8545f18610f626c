"""Typed calls between processes, over two roads: NATS between hosts, a Unix socket within one.

The Unix socket is there for static stability: an edge wakes a Machine on its own host even when the bus is down. Both
roads carry the same envelope to the same dispatcher, so a method behaves alike on each.

A call carries its absolute deadline. A server that finds it already past drops the call without side effects: whoever
asked has given up, and a request that lay in a frozen process for a minute must not act after the thaw.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from nats.aio.msg import Msg
from pydantic import BaseModel, ValidationError

from caddisfly.bus.connection import LOOK_FIRST, Bus
from caddisfly.model.errors import (
    DeadlineExceeded,
    Internal,
    InvalidArgument,
    Problem,
    Unavailable,
    Unimplemented,
)

log = logging.getLogger(__name__)

Request = TypeVar("Request", bound=BaseModel)
Reply = TypeVar("Reply", bound=BaseModel)
Handler = Callable[[Any], Awaitable[BaseModel]]

_LENGTH = struct.Struct("!I")
_FRAME_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Method(Generic[Request, Reply]):
    """A call: its name, what goes in, what comes out, and how long a caller waits by default."""

    name: str
    request: type[Request]
    reply: type[Reply]
    timeout_s: float


class Dispatcher:
    """Server side: finds the handler, checks what came in, turns every failure into a typed error."""

    def __init__(self) -> None:
        self._methods: dict[str, tuple[Method[Any, Any], Handler]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def handle(self, method: Method[Request, Reply], handler: Callable[[Request], Awaitable[Reply]]) -> None:
        self._methods[method.name] = (method, handler)

    async def dispatch(self, name: str, payload: bytes) -> bytes:
        try:
            result = await self._call(name, payload)
        except Problem as problem:
            return json.dumps({"error": problem.to_record()}).encode()
        except asyncio.CancelledError:
            raise
        except Exception as error:
            log.exception("rpc.bug", extra={"method": name})
            bug = Internal(f"{name} failed", why=repr(error), next="see the agent's log")
            return json.dumps({"error": bug.to_record()}).encode()
        return b'{"ok":' + result.model_dump_json().encode() + b"}"

    async def _call(self, name: str, payload: bytes) -> BaseModel:
        if name not in self._methods:
            raise Unimplemented(f"unknown method {name}", next="run the same version everywhere")
        method, handler = self._methods[name]
        try:
            envelope = json.loads(payload)
            request = method.request.model_validate(envelope["args"])
            deadline = float(envelope["deadline"])
        except (ValueError, KeyError, TypeError, ValidationError) as error:
            raise InvalidArgument(f"malformed call of {name}", why=str(error)) from error
        if deadline < time.time():
            raise DeadlineExceeded(f"{name} arrived after its deadline")
        return await handler(request)

    async def close(self) -> None:
        """Cancel what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def serve_bus(self, bus: Bus, prefix: str) -> None:
        """Answer `<prefix>.<method>`. Calls run side by side: a slow one never holds up the next."""

        async def on_message(message: Msg) -> None:
            name = message.subject.removeprefix(f"{prefix}.")
            self._spawn(self._answer(message, name))

        await bus.client.subscribe(f"{prefix}.>", cb=on_message)

    async def _answer(self, message: Msg, name: str) -> None:
        answer = await self.dispatch(name, message.data)
        if message.reply:
            await message.respond(answer)

    def _spawn(self, work: Awaitable[None]) -> None:
        async def run() -> None:
            await work

        task = asyncio.create_task(run())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def serve_unix(self, path: Path) -> asyncio.Server:
        """Answer on a Unix socket that only root may open."""
        path.unlink(missing_ok=True)
        server = await asyncio.start_unix_server(self._on_connection, path=str(path))
        path.chmod(0o600)
        return server

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                name = (await _read_frame(reader)).decode()
                payload = await _read_frame(reader)
                _write_frame(writer, await self.dispatch(name, payload))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, UnicodeDecodeError):
            log.debug("rpc.unix_closed")
        finally:
            writer.close()


class Caller:
    """Client side. Subclasses know the road."""

    async def call(self, method: Method[Request, Reply], request: Request, *, timeout_s: float = 0) -> Reply:
        """Call and await. Raises what the handler raised, `Unavailable` or `DeadlineExceeded` if it was not reached."""
        timeout_s = timeout_s or method.timeout_s
        answer = await self._exchange(method.name, encode(request, timeout_s=timeout_s), timeout_s)
        return decode(method, answer)

    async def _exchange(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        raise NotImplementedError


class BusCaller(Caller):
    """Calls whoever serves `prefix` on the bus, such as `host.1a2b3c4d`."""

    def __init__(self, bus: Bus, prefix: str) -> None:
        self._bus, self._prefix = bus, prefix

    async def _exchange(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        return await self._bus.request(f"{self._prefix}.{name}", payload, timeout_s=timeout_s)


class LocalCaller(Caller):
    """Calls the agent of this host over its Unix socket."""

    def __init__(self, path: Path) -> None:
        self._path = path

    async def _exchange(self, name: str, payload: bytes, timeout_s: float) -> bytes:
        try:
            async with asyncio.timeout(timeout_s):
                reader, writer = await asyncio.open_unix_connection(str(self._path))
                try:
                    _write_frame(writer, name.encode())
                    _write_frame(writer, payload)
                    return await _read_frame(reader)
                finally:
                    writer.close()
        except TimeoutError as error:
            raise DeadlineExceeded(f"{name} did not answer within {timeout_s:g} s", next=LOOK_FIRST) from error
        except (OSError, asyncio.IncompleteReadError) as error:
            raise Unavailable(
                "the agent of this host does not answer",
                why=str(error) or type(error).__name__,
                next="caddis status",
            ) from error


def encode(request: BaseModel, *, timeout_s: float) -> bytes:
    deadline = time.time() + timeout_s
    return f'{{"deadline":{deadline:.3f},"args":'.encode() + request.model_dump_json().encode() + b"}"


def decode(method: Method[Request, Reply], answer: bytes) -> Reply:
    try:
        envelope = json.loads(answer)
        if "error" in envelope:
            raise Problem.from_record(envelope["error"])
        return method.reply.model_validate(envelope["ok"])
    except (ValueError, KeyError, ValidationError) as error:
        raise Internal(f"malformed answer of {method.name}", why=str(error)) from error


async def _read_frame(reader: asyncio.StreamReader) -> bytes:
    (length,) = _LENGTH.unpack(await reader.readexactly(_LENGTH.size))
    if length > _FRAME_MAX:
        raise ConnectionError(f"frame of {length} bytes")
    return await reader.readexactly(length)


def _write_frame(writer: asyncio.StreamWriter, data: bytes) -> None:
    writer.write(_LENGTH.pack(len(data)))
    writer.write(data)
