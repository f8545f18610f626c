"""One HTTP request and its answer, as plain ASGI: bodies of any size pass in pieces, and nothing else is needed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path
from typing import IO, Any
from urllib.parse import parse_qsl

from caddisfly.host.registry import refusals

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

_PIECE = 1 << 20


class ClientGone(Exception):
    """The connection broke before the whole request was here."""


class Call:
    """`path` is what stands in the URL, `parts` what a route has found in it."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._receive, self._send = receive, send
        self.method: str = scope["method"]
        self.path: str = scope["path"]
        self.parts: dict[str, str] = {}
        self.headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        self.query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        self.answered = False

    @property
    def announced(self) -> int:
        """Length of the body, 0 when it is not known."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isdigit() and len(length) < 19 else 0

    async def pieces(self) -> AsyncIterator[bytes]:
        """The body. Raises `ClientGone` when it ends early."""
        more = True
        while more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            more = message.get("more_body", False)
            if body := message.get("body", b""):
                yield body

    async def body(self, *, max_bytes: int) -> bytes:
        """A small body, whole."""
        data = bytearray()
        async for piece in self.pieces():
            data += piece
            if len(data) > max_bytes:
                raise refusals.Refusal(413, "SIZE_INVALID", "the body is too large", why=f"at most {max_bytes} bytes")
        return bytes(data)

    async def answer(
        self, status: int, body: bytes = b"", *, headers: Mapping[str, str] | None = None, length: int | None = None
    ) -> None:
        """`length` is what a HEAD says in place of the body."""
        await self._begin(status, headers or {}, len(body) if length is None else length)
        await self._send({"type": "http.response.body", "body": body})

    async def answer_json(self, value: object, *, kind: str = "application/json", **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        await self.answer(200, json.dumps(value).encode(), headers={"Content-Type": kind, **named})

    async def answer_file(self, path: Path, *, first: int, size: int, status: int, headers: Mapping[str, str]) -> None:
        """A part of a file, read in threads. Raises `FileNotFoundError` before anything was said."""
        file = await asyncio.to_thread(path.open, "rb", 0)
        try:
            if first:
                file.seek(first)
            await self._begin(status, headers, size)
            while size:
                piece = await asyncio.to_thread(_read, file, min(size, _PIECE))
                size -= len(piece)
                await self._send({"type": "http.response.body", "body": piece, "more_body": bool(size)})
                if not piece:
                    return  # shorter than it was: the server cuts the connection, and the client sees that
        finally:
            file.close()

    async def _begin(self, status: int, headers: Mapping[str, str], length: int) -> None:
        self.answered = True
        named = {"Docker-Distribution-Api-Version": "registry/2.0", **headers}
        if status != 204:
            named["Content-Length"] = str(length)
        encoded = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in named.items()]
        await self._send({"type": "http.response.start", "status": status, "headers": encoded})


def _read(file: IO[bytes], size: int) -> bytes:
    return file.read(size)
