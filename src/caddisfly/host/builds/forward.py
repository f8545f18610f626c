"""Doors from a build's network to chosen services of the host's loopback.

A socket belongs to the network namespace it was made in, and to whichever process holds it. So the agent makes one
inside the build's namespace, listens on 127.0.0.1 there, and passes on what comes: the firewall stays closed, and
nothing else of the host can be reached.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Mapping
from pathlib import Path

from caddisfly.host.apart import apart
from caddisfly.model.errors import Internal

log = logging.getLogger(__name__)

_CLONE_NEWNET = 0x40000000
_MOST_AT_ONCE = 64
_PIECE = 256 * 1024
_libc = ctypes.CDLL(None, use_errno=True)


class Forwards:
    """Those of one build."""

    def __init__(self) -> None:
        self._servers: list[asyncio.Server] = []
        self._open = asyncio.Semaphore(_MOST_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    async def listen(self, netns: Path, ports: Mapping[int, int]) -> None:
        """`ports`: inside → on the host."""
        for inside, outside in ports.items():
            listening = await asyncio.to_thread(_listen_in, netns, inside)

            def connected(
                reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, outside: int = outside
            ) -> None:
                task = asyncio.create_task(self._serve(reader, writer, outside))
                self._tasks.add(task)
                task.add_done_callback(self._tasks.discard)

            self._servers.append(await asyncio.start_server(connected, sock=listening, limit=_PIECE))

    async def close(self) -> None:
        for server in self._servers:
            server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, port: int) -> None:
        try:
            async with self._open:
                their_reader, their_writer = await asyncio.open_connection("127.0.0.1", port, limit=_PIECE)
                try:
                    await asyncio.gather(_pump(reader, their_writer), _pump(their_reader, writer))
                finally:
                    their_writer.close()
        except OSError as error:
            log.debug("builds.forward_ended", extra={"port": port, "reason": str(error)})
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(_PIECE):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def _listen_in(netns: Path, port: int) -> socket.socket:
    """On a thread of its own, which alone goes there and ends."""

    def run() -> socket.socket:
        descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), str(netns))
        finally:
            os.close(descriptor)
        return socket.create_server(("127.0.0.1", port), backlog=_MOST_AT_ONCE)

    try:
        return apart(run, name="forward")
    except OSError as error:
        raise Internal(
            f"port {port} cannot be opened in the build's network", why=str(error), next="see [builds] forward"
        ) from error
