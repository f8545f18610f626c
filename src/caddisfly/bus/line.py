"""A line: two ends talk to each other over the bus for as long as both are there.

A call is one question and one answer. What somebody types and what a program prints is neither: it comes when it comes,
in both directions, in order, and the faster side must be held back. Each end listens on a subject that only the other
is told; every message is numbered, so that one that was lost, as when the bus itself was away, ends the line instead of
leaving a hole in it.

Data is held back by credit: an end has at most `WINDOW` bytes under way, until the other says how much it has `taken`.
So no end, and nobody between two lines, ever holds more than that. What may not wait behind data (a new size of a
terminal, credit itself) is urgent and goes past it.

Both ends send a beat every other second, as a question that nobody answers: when no one listens any more the bus itself
says so. An end whose process was frozen, or is cut off, is given up after a silence.
"""

from __future__ import annotations

import asyncio
import json
import logging
import struct
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from nats.aio.msg import Msg
from nats.aio.subscription import Subscription

from caddisfly.bus.connection import Bus
from caddisfly.model.errors import Internal, Problem, Unavailable

log = logging.getLogger(__name__)

WINDOW = 512 * 1024
"""Bytes of data under way in one direction. At 50 ms between two hosts that is 10 MB/s."""
CHUNK = 32 * 1024
"""The largest piece of data."""
_TAKEN_EVERY = WINDOW // 8
_BEAT_S = 2.0
_SILENCE_S = 10.0
_UNHEARD_MAX = 2
"""Beats in a row that met nobody. One may fall into the moment in which the other end is reconnecting."""

_HEAD = struct.Struct("!cIB")
_DATA, _URGENT, _CLOSE, _BEAT = b"d", b"u", b"c", b"b"
_TAKEN = "taken"

Urgent = Callable[[dict[str, Any]], None]


def _nothing(message: dict[str, Any]) -> None:
    """Nothing is urgent here."""


def _nobody(count: int) -> None:
    """Nobody wants to know."""


class Line:
    """One end. `subject` is what the other end has to be told, `connect` says where that one listens."""

    def __init__(
        self, bus: Bus, *, name: str, urgent: Urgent = _nothing, taken: Callable[[int], None] = _nobody
    ) -> None:
        """`urgent` is given what goes past the data, `taken` how many bytes the other end has just dealt with."""
        self._bus, self.name = bus, name
        self._on_urgent, self._on_taken = urgent, taken
        self.subject = ""
        self._theirs = ""
        self._sent = self._got = 0
        self._room = WINDOW
        self._roomy = asyncio.Event()
        self._roomy.set()
        self._owed = 0
        self._held = 0
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()
        self._subscription: Subscription | None = None
        self._beating: asyncio.Task[None] | None = None
        self._heard = time.monotonic()
        self._unheard = 0
        self._lost: asyncio.Future[Problem] = asyncio.get_running_loop().create_future()

    async def open(self) -> str:
        """Listen. Returns the subject. Raises `Unavailable` without a bus."""
        client = self._bus.client
        self.subject = client.new_inbox()
        self._subscription = await client.subscribe(self.subject, cb=self._on_message)
        return self.subject

    def connect(self, subject: str) -> None:
        """Where the other end listens. From now on it must be heard."""
        self._theirs = subject
        self._heard = time.monotonic()
        self._beating = asyncio.create_task(self._beat(), name=f"line-{self.name}")

    @property
    def room(self) -> int:
        """Bytes that may be sent at once."""
        return self._room

    async def send(self, channel: int, data: bytes) -> None:
        """Returns once it is under way. Empty data is a piece as well. Raises what ended the line."""
        for at in range(0, max(1, len(data)), CHUNK):
            piece = data[at : at + CHUNK]
            while self._room < len(piece):
                self._roomy.clear()
                await self._or_lost(self._roomy)
            self._room -= len(piece)
            await self._put(_DATA, channel, piece)

    async def tell(self, message: dict[str, Any]) -> None:
        """Send something urgent. Raises what ended the line."""
        await self._put(_URGENT, 0, json.dumps(message).encode())

    async def receive(self) -> tuple[int, bytes]:
        """The next piece of data. Raises what ended the line, once all that came before is received."""
        while not self._pieces:
            self._news.clear()
            await self._or_lost(self._news)
        channel, data = self._pieces.popleft()
        self._held -= len(data)
        return channel, data

    async def taken(self, count: int) -> None:
        """Give the other end credit for so many bytes that are dealt with."""
        self._owed += count
        if self._owed >= _TAKEN_EVERY:
            owed, self._owed = self._owed, 0
            await self.tell({_TAKEN: owed})

    async def lost(self) -> Problem:
        """Return why, once the line is at its end."""
        return await asyncio.shield(self._lost)

    async def close(self, problem: Problem | None = None) -> None:
        """Hang up, and let the other end know, with a reason or none."""
        if self._theirs and not self._lost.done():
            reason = {} if problem is None else problem.to_record()
            try:
                await self._put(_CLOSE, 0, json.dumps(reason).encode())
            except Unavailable:
                log.debug("line.closed_unheard", extra={"line": self.name})
        self._end(problem or Unavailable("the session is over"))
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.gather(self._beating, return_exceptions=True)
        if self._subscription is not None and self._bus.connected:
            await self._subscription.unsubscribe()
        self._subscription = None

    async def _put(self, kind: bytes, channel: int, data: bytes) -> None:
        async with self._sending:  # the order of the numbers is the order on the wire
            if self._lost.done():
                raise self._lost.result()
            head = _HEAD.pack(kind, self._sent & 0xFFFFFFFF, channel)
            self._sent += 1
            try:
                await self._bus.publish(self._theirs, head + data)
            except Unavailable as problem:
                self._end(problem)
                raise

    async def _or_lost(self, event: asyncio.Event) -> None:
        waiting = asyncio.create_task(event.wait())
        try:
            await asyncio.wait((waiting, self._lost), return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
        if not event.is_set():
            raise self._lost.result()

    def _end(self, problem: Problem) -> None:
        if not self._lost.done():
            self._lost.set_result(problem)

    async def _beat(self) -> None:
        while not self._lost.done():
            if time.monotonic() - self._heard > _SILENCE_S:
                self._end(Unavailable("the other end does not answer", why=f"silent for {_SILENCE_S:g} s"))
                return
            try:
                async with self._sending:
                    # It has the number of what follows. With nobody listening, the bus answers in the other's place.
                    beat = _HEAD.pack(_BEAT, self._sent & 0xFFFFFFFF, 0)
                    await self._bus.client.publish(self._theirs, beat, reply=self.subject)
            except Unavailable:
                log.debug("line.beat_skipped", extra={"line": self.name})
            await asyncio.wait((self._lost,), timeout=_BEAT_S)

    async def _on_message(self, message: Msg) -> None:
        if not message.data:
            if message.headers and message.headers.get("Status") == "503":
                self._unheard += 1
                if self._unheard >= _UNHEARD_MAX:
                    self._end(Unavailable("the other end is gone", why="nobody listens there any more"))
            return
        self._heard, self._unheard = time.monotonic(), 0
        kind, number, channel = _HEAD.unpack_from(message.data)
        if number != self._got & 0xFFFFFFFF:
            self._end(Unavailable("the bus lost a part of the session", why="it was away for a moment"))
            return
        if kind == _BEAT:
            return
        self._got += 1
        data = message.data[_HEAD.size :]
        if kind == _DATA:
            self._take(channel, data)
        elif kind == _URGENT:
            self._told(json.loads(data))
        else:
            reason = json.loads(data)
            self._end(Problem.from_record(reason) if reason else Unavailable("the other end hung up"))

    def _take(self, channel: int, data: bytes) -> None:
        self._held += len(data)
        if self._held > WINDOW:
            self._end(Internal("the other end sends more than it was allowed to"))
            return
        self._pieces.append((channel, data))
        self._news.set()

    def _told(self, message: dict[str, Any]) -> None:
        count = message.get(_TAKEN)
        if count is None:
            self._on_urgent(message)
            return
        self._room = min(WINDOW, self._room + int(count))
        self._roomy.set()
        self._on_taken(int(count))
