"""Sockets of the host in a guest: what containers have by a directory that is shown inside, such as `/.fly/api`.

A guest has a kernel of its own, which knows nothing of the host's sockets. So a program of ours in it listens in the
Machine's root, and brings each connection over the Machine's own link to an address inside its network namespace, where
the agent takes it to the socket. Nothing routes to that address: other Machines and the world outside cannot reach it.
Still it is not the address that says who is there, since users of the host can reach it too, and since a program in the
guest can be talked into opening an address by someone outside, and not so easily a Unix socket. Each connection begins
with a word that only this Machine's config drive holds, in the form that socat has for proxies.

Where the word leads is fixed by the agent, for each sandbox: who has it can be that Machine and no other.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import logging
from base64 import b64encode
from pathlib import Path
from socket import socket

from caddisfly.host.drivers.driver import Sandbox
from caddisfly.host.drivers.microvm import link
from caddisfly.host.drivers.microvm.config import Socket
from caddisfly.host.drivers.microvm.doorway import Authorities
from caddisfly.host.reception import Reception

log = logging.getLogger(__name__)

_NOTE = "passage.json"
_BY = f"PROXY:[{link.NEAR}]:socket:1,proxyport={link.NEAR_PORT}"
_AT_ONCE, _IN_ALL = 8, 128
_WORD_S, _ALL_S, _LINGER_S = 5.0, 60.0, 1.0
_CHUNK = 16 * 1024


class Passages:
    """Those that are open, by sandbox. They close with this process; whoever recovers a sandbox opens its own again."""

    def __init__(self, authorities: Authorities) -> None:
        self._authorities = authorities
        self._open: dict[str, Reception] = {}
        self._opening = asyncio.Lock()
        self._in_all = asyncio.Semaphore(_IN_ALL)

    def plan(self, sandbox: Sandbox, directory: Path) -> Socket | None:
        """What its guest is told. Writes down in `directory` what `open` needs. Blocks."""
        shown = [(bind, path) for bind in sandbox.binds if bind.source.is_dir() for path in bind.source.iterdir()]
        bind, path = next(((bind, path) for bind, path in shown if path.is_socket()), (None, None))
        if bind is None or path is None:
            return None
        note = {"netns": str(sandbox.netns), "socket": str(path), "organization": sandbox.organization}
        (directory / _NOTE).write_text(json.dumps(note))
        return Socket(f"{bind.target}/{path.name}", _BY, self._word(sandbox.organization, sandbox.id))

    async def open(self, id: str, directory: Path) -> None:
        """Let the guest through, if it has a socket. May be repeated."""
        async with self._opening:
            if id in self._open or not (directory / _NOTE).exists():
                return
            note = json.loads((directory / _NOTE).read_text())
            word = self._word(note["organization"], id)
            try:
                listening = await asyncio.to_thread(link.listen_near, Path(note["netns"]))
            except OSError as error:
                # The Machine runs all the same: most never need it.
                log.error("microvm.no_passage", extra={"sandbox": id, "reason": str(error)})
                return
            self._open[id] = passage(listening, Path(note["socket"]), word, in_all=self._in_all)

    async def shut(self, id: str) -> None:
        if reception := self._open.pop(id, None):
            reception.leave()
            await reception.left()

    async def close(self) -> None:
        for id in list(self._open):
            await self.shut(id)

    def _word(self, organization: str, id: str) -> bytes:
        return f"caddisfly:{self._authorities.word_of(organization, id)}".encode()


def passage(listening: socket, to: Path, word: bytes, *, in_all: asyncio.Semaphore) -> Reception:
    """Take who says the word to the socket."""
    expected = b"proxy-authorization: basic " + b64encode(word)

    async def meet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        async with asyncio.timeout(_ALL_S):
            async with asyncio.timeout(_WORD_S):
                if not await _says(reader, expected):
                    return
            inner_reader, inner_writer = await asyncio.open_unix_connection(str(to), limit=_CHUNK)
            try:
                writer.write(b"HTTP/1.0 200 OK\r\n\r\n")
                asking = asyncio.create_task(_pass_on(reader, inner_writer), name="passage-question")
                try:
                    await _pass_on(inner_reader, writer)
                    # Closing with something unread would tell the other side of an error.
                    await asyncio.wait([asking], timeout=_LINGER_S)
                finally:
                    asking.cancel()
                    await asyncio.gather(asking, return_exceptions=True)
            finally:
                inner_writer.transport.abort()

    return Reception(listening, meet, name=str(to), at_once=_AT_ONCE, in_all=in_all)


async def _says(reader: asyncio.StreamReader, expected: bytes) -> bool:
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        return False
    name, _, value = expected.rpartition(b" ")
    lines = (line.rpartition(b" ") for line in head.split(b"\r\n"))
    return any(line[0].lower() == name and hmac.compare_digest(line[2], value) for line in lines)


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_CHUNK):
        writer.write(data)
        await writer.drain()
    writer.write_eof()
