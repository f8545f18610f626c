"""A door: the socket through which one Machine talks to its agent.

What is shown inside is the directory, so a socket that a new agent puts there is seen at once. It is shown read-only,
and nobody else on the host can reach it: from inside, the door can be used and not touched; from outside, neither.

The agent must not suffer from who is behind it: connections are taken as reception.py does it, and each has a deadline.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path

from caddisfly.host.reception import QUEUE, Reception
from caddisfly.host.selfservice.exchange import Answer, Request, TooLarge, linger, receive, send
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)

SOCKET = "api"
_AT_ONCE = 8
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
        self._reception: Reception | None = None

    def open(self) -> None:
        """Listen, in place of whoever did before. Raises `OSError`."""
        make_directory(self._path.parent)
        self._path.unlink(missing_ok=True)
        listening = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            listening.bind(str(self._path))
            self._path.chmod(0o666)  # for the Machine's own users; no one else gets through the directory above
            listening.listen(QUEUE)
        except OSError:
            listening.close()
            raise
        self._reception = Reception(
            listening, self._exchange, name=str(self._path), at_once=_AT_ONCE, in_all=self._in_all
        )

    def leave(self) -> None:
        """Stop answering. What is shown inside stays, for the next agent."""
        if self._reception is not None:
            self._reception.leave()

    def close(self) -> None:
        """Stop answering and take the door away."""
        self.leave()
        remove_directory(self._path.parent)

    async def left(self) -> None:
        if self._reception is not None:
            await self._reception.left()

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
