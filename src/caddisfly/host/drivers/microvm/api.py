"""Firecracker's API: HTTP over a Unix socket, one answer for each request.

It answers 204 to what it did, 200 to what it was asked, and 400 with a `fault_message` to everything else, be it wrong
or only at the wrong time. Unknown members are wrong, so nothing is sent that the oldest version would not know.
"""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

from caddisfly.model.errors import DeadlineExceeded, Internal, Unavailable

_ANSWER_MAX = 256 * 1024
_LOOK_S = 0.005
_TIMEOUT_S = 10.0


class Api:
    """One connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer

    async def get(self, path: str) -> Any:
        return await self._call("GET", path, None, timeout_s=_TIMEOUT_S)

    async def put(self, path: str, /, *, timeout_s: float = _TIMEOUT_S, **members: Any) -> None:
        await self._call("PUT", path, members, timeout_s=timeout_s)

    async def patch(self, path: str, /, *, timeout_s: float = _TIMEOUT_S, **members: Any) -> None:
        await self._call("PATCH", path, members, timeout_s=timeout_s)

    async def _call(self, method: str, path: str, members: Any, *, timeout_s: float) -> Any:
        """Raises `Internal` with what Firecracker says against it, `Unavailable` when it is gone."""
        body = b"" if members is None else json.dumps(members).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\n"
        if body:
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
        try:
            async with asyncio.timeout(timeout_s):
                self._writer.write(f"{head}\r\n".encode() + body)
                await self._writer.drain()
                status, answer = await self._answer()
        except TimeoutError as error:
            raise DeadlineExceeded(f"Firecracker did not answer {method} {path} within {timeout_s:g} s") from error
        except (OSError, EOFError, ValueError, asyncio.LimitOverrunError) as error:
            raise Unavailable(f"Firecracker ended during {method} {path}", why=str(error)) from error
        if status not in (200, 204):
            raise Internal(f"Firecracker refused {method} {path}", why=_fault(answer))
        return json.loads(answer) if answer else None

    async def _answer(self) -> tuple[int, bytes]:
        head = (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
        length = 0
        for line in head[1:]:
            name, _, value = line.partition(":")
            if name.strip().lower() == "content-length":
                length = int(value)
        if length > _ANSWER_MAX:
            raise ValueError(f"an answer of {length} bytes")
        return int(head[0].split()[1]), await self._reader.readexactly(length)


@asynccontextmanager
async def connected(path: Path, *, alive: Callable[[], bool], timeout_s: float = _TIMEOUT_S) -> AsyncIterator[Api]:
    """Connect, waiting for the socket to be there while `alive()`. Raises `Unavailable`."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await _open(path, alive)
    except TimeoutError as error:
        raise Unavailable("Firecracker does not answer", why=f"not within {timeout_s:g} s") from error
    try:
        yield Api(reader, writer)
    finally:
        writer.close()


async def _open(path: Path, alive: Callable[[], bool]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    while True:
        try:
            with short(path) as name:
                return await asyncio.open_unix_connection(name)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            if not alive():
                raise Unavailable("Firecracker has ended", why=str(error)) from error
            await asyncio.sleep(_LOOK_S)  # nobody is told when a socket begins to listen


@contextmanager
def short(path: Path) -> Iterator[str]:
    """A name for a socket that is short enough, however deep it lies: the kernel takes 107 characters."""
    directory = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


def _fault(answer: bytes) -> str:
    try:
        return str(json.loads(answer)["fault_message"])
    except (ValueError, KeyError, TypeError):
        return answer[:300].decode(errors="replace")
