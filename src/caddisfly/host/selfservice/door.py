"""A door: the socket through which one Machine talks to its agent.

What is shown inside is the directory, so a socket that a new agent puts there is seen at once. It is shown read-only,
and nobody else on the host can reach it: from inside, the door can be used and not touched; from outside, neither.

The agent must not suffer from who is behind it. A door takes a few connections at a time and leaves the others in the
kernel's queue, takes no more than a hundred a second, and gives each of them a deadline.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Any

from caddisfly.host.selfservice.exchange import Answer, Request, TooLarge, linger, receive, send
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)

SOCKET = "api"
_AT_ONCE = 8
_QUEUE = 64
_PAUSE_S = 0.01
_RECEIVE_S, _ANSWER_S, _SEND_S = 5.0, 30.0, 5.0


class Door:
    """One Machine's."""

    def __init__(
        self, directory: Path, serve: Callable[[Request], Awaitable[Answer]], *, in_all: asyncio.Semaphore
    ) -> None:
        """`in_all` counts the connections of all doors: the agent has only so many descriptors."""
        self._in_all = in_all
        self._path = directory / SOCKET
        self._serve = serve
        self._slots = asyncio.Semaphore(_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()

    def open(self) -> None:
        """Listen, in place of whoever did before. Raises `OSError`."""
        make_directory(self._path.parent)
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.setblocking(False)
            listening.bind(str(self._path))
            self._path.chmod(0o666)  # for the Machine's own users; no one else gets through the directory above
            listening.listen(_QUEUE)
        except OSError:
            listening.close()
            raise
        self._spawn(self._accept(listening), "selfservice-door")

    def leave(self) -> None:
        """Stop answering. What is shown inside stays, for the next agent."""
        for task in self._tasks:
            task.cancel()

    def close(self) -> None:
        """Stop answering and take the door away."""
        self.leave()
        remove_directory(self._path.parent)

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
                    log.warning("selfservice.not_accepted", extra={"door": str(self._path), "reason": str(error)})
                else:
                    try:
                        await self._in_all.acquire()
                    except asyncio.CancelledError:
                        connection.close()
                        raise
                    meeting = self._spawn(self._meet(connection), "selfservice-connection")
                    meeting.add_done_callback(partial(self._part, connection))
                await asyncio.sleep(_PAUSE_S)
        finally:
            listening.close()

    async def _meet(self, connection: socket.socket) -> None:
        reader = asyncio.StreamReader(limit=16 * 1024)
        protocol = asyncio.StreamReaderProtocol(reader)
        loop = asyncio.get_running_loop()
        try:
            transport, _ = await loop.connect_accepted_socket(lambda: protocol, connection)
            transport.set_write_buffer_limits(high=0)
            try:
                await self._exchange(reader, asyncio.StreamWriter(transport, protocol, reader, loop))
            finally:
                transport.abort()
        except OSError as error:  # it went away, or its time was over
            log.debug("selfservice.broken_off", extra={"door": str(self._path), "reason": repr(error)})

    def _part(self, connection: socket.socket, _: asyncio.Task[None]) -> None:
        """Also of a meeting that was given up before it began."""
        connection.close()
        self._slots.release()
        self._in_all.release()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_RECEIVE_S):
                request = await receive(reader, writer)
            if request is None:
                return
            async with asyncio.timeout(_ANSWER_S):
                answer = await self._serve(request)
        except TooLarge as problem:
            answer = Answer(413, Answer.of(problem).value)
        except Problem as problem:
            answer = Answer.of(problem)
        async with asyncio.timeout(_SEND_S):
            await send(writer, answer)
        await linger(reader, writer)


def make_directory(directory: Path) -> None:
    """The directory that is shown inside. The one above it is the host's alone."""
    directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    directory.mkdir(mode=0o755, exist_ok=True)


def remove_directory(directory: Path) -> None:
    """Also when it is not there."""
    try:
        (directory / SOCKET).unlink(missing_ok=True)
        directory.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        log.warning("selfservice.not_removed", extra={"directory": str(directory), "reason": str(error)})
