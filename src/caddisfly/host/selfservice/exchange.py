"""One HTTP exchange with a program in a Machine, which may be hostile: bounded in bytes here, in time by the door.

A connection carries one request. What follows from an answer is then over when it is sent: nothing to keep, nothing to
confuse.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import unquote

import httptools

from caddisfly.model.errors import InvalidArgument, Problem
from caddisfly.model.failure import body_of, status_of

_REQUEST_MAX = 64 * 1024
"""Bytes of a request, head and body together: the largest useful one is a PATCH of some metadata."""
_CHUNK = 8 * 1024
_LINGER_S, _LINGER_MAX = 1.0, 1024 * 1024


@dataclass(slots=True)
class Request:
    """What was asked."""

    method: str = ""
    path: tuple[str, ...] = ()
    nonce: str = ""
    """Of the Lease that the caller holds on its own Machine."""
    body: bytearray = field(default_factory=bytearray)

    def json(self) -> dict[str, Any]:
        """The body as an object; an empty one is none. Raises `InvalidArgument`."""
        try:
            value = json.loads(bytes(self.body) or b"{}")
        except (ValueError, RecursionError) as error:
            raise InvalidArgument("the request body is not JSON", why=str(error)[:200]) from error
        if not isinstance(value, dict):
            raise InvalidArgument("the request body must be a JSON object")
        return value


@dataclass(frozen=True, slots=True)
class Answer:
    """`value` is sent as JSON; None is an empty answer."""

    status: int
    value: object = None

    @classmethod
    def of(cls, problem: Problem) -> Answer:
        return cls(status_of(problem), body_of(problem))


class TooLarge(InvalidArgument):
    """More than a request may have."""


async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request | None:
    """Read one request; None when nobody asks. Raises `InvalidArgument`."""
    parsed = _Parsed(writer)
    total = 0
    while parsed.done is None:
        data = await reader.read(_CHUNK)
        if not data:
            if total:
                raise InvalidArgument("the request ended before it was complete")
            return None
        total += len(data)
        if total > _REQUEST_MAX:
            raise TooLarge("request too large", why=f"the limit is {_REQUEST_MAX} bytes, head included")
        try:
            parsed.parser.feed_data(data)
        except httptools.HttpParserUpgrade as error:
            raise InvalidArgument("protocol upgrades are not served here") from error
        except httptools.HttpParserError as error:
            raise InvalidArgument("not an HTTP request", why=str(error)[:200]) from error
    return parsed.done


async def send(writer: asyncio.StreamWriter, answer: Answer) -> None:
    """Send all of it. Returns once the kernel has it."""
    body = b"" if answer.value is None else json.dumps(answer.value).encode()
    head = f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\nconnection: close\r\n"
    if answer.status != HTTPStatus.NO_CONTENT:
        head += f"content-type: application/json; charset=utf-8\r\ncontent-length: {len(body)}\r\n"
    writer.write(head.encode() + b"\r\n" + body)
    await writer.drain()


async def linger(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Let the other side read the answer: closing with something unread would tell it of an error instead."""
    writer.write_eof()
    left = _LINGER_MAX
    async with asyncio.timeout(_LINGER_S):
        while left > 0 and (data := await reader.read(_CHUNK)):
            left -= len(data)


class _Parsed:
    def __init__(self, writer: asyncio.StreamWriter) -> None:
        self.parser = httptools.HttpRequestParser(self)
        self.done: Request | None = None
        """The first request that is complete. What comes after it is not looked at."""
        self._request = Request()
        self._url = bytearray()
        self._waits = False
        self._writer = writer

    def on_url(self, url: bytes) -> None:
        self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        lower = name.lower()
        if lower == b"fly-machine-lease-nonce":
            self._request.nonce = value.decode("latin-1")
        elif lower == b"expect":
            self._waits = value.lower() == b"100-continue"

    def on_headers_complete(self) -> None:
        self._request.method = self.parser.get_method().decode("latin-1")
        path = httptools.parse_url(bytes(self._url)).path or b""
        self._request.path = tuple(unquote(part) for part in path.decode("latin-1").strip("/").split("/"))
        if self._waits:
            self._writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")

    def on_body(self, data: bytes) -> None:
        self._request.body += data

    def on_message_complete(self) -> None:
        self.done = self.done or self._request
        self._request, self._waits = Request(), False
        self._url.clear()
