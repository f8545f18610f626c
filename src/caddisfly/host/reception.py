"""Taking connections from a Machine, which may be hostile, without the agent suffering from who is there.

A few are taken at a time and the others left in the kernel's queue, no more than a hundred a second, and no more from
all Machines together than the agent has descriptors for. How long each may take is its meeting's own business.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from typing import Any

log = logging.getLogger(__name__)

QUEUE = 64
"""Connections that may wait to be taken."""
_PAUSE_S = 0.01
_LIMIT = 16 * 1024

Meet = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class Reception:
    """Of one listening socket, which it closes when it is left."""

    def __init__(
        self, listening: socket.socket, meet: Meet, *, name: str, at_once: int, in_all: asyncio.Semaphore
    ) -> None:
        """`meet` is called for each connection, which ends with it. `in_all` is shared with others."""
        self._meet, self._name, self._in_all = meet, name, in_all
        self._slots = asyncio.Semaphore(at_once)
        self._tasks: set[asyncio.Task[None]] = set()
        listening.setblocking(False)
        self._spawn(self._accept(listening), "reception")

    def leave(self) -> None:
        """End it, and all meetings."""
        for task in self._tasks:
            task.cancel()

    async def left(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _accept(self, listening: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        try:
            while True:
                await self._slots.acquire()
                try:
                    connection, _ = await loop.sock_accept(listening)
                except OSError as error:  # out of descriptors: later there may be some
                    self._slots.release()
                    log.warning("reception.not_accepted", extra={"at": self._name, "reason": str(error)})
                else:
                    try:
                        await self._in_all.acquire()
                    except asyncio.CancelledError:
                        connection.close()
                        raise
                    meeting = self._spawn(self._receive(connection), "reception-meeting")
                    meeting.add_done_callback(partial(self._part, connection))
                await asyncio.sleep(_PAUSE_S)
        finally:
            listening.close()

    async def _receive(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
            transport.set_write_buffer_limits(high=0)
            try:
                await self._meet(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
            finally:
                transport.abort()
        except OSError as error:  # it went away, or its time was over
            log.debug("reception.broken_off", extra={"at": self._name, "reason": repr(error)})

    def _part(self, connection: socket.socket, _: asyncio.Task[None]) -> None:
        """Also of a meeting that was given up before it began."""
        connection.close()
        self._slots.release()
        self._in_all.release()
