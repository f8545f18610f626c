"""Both ends of a line, on a real NATS and on the bus of memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from caddisfly.bus import line as module
from caddisfly.bus.connection import Bus
from caddisfly.bus.line import WINDOW, Line
from caddisfly.bus.memory import Exchange, MemoryClient
from caddisfly.model.errors import Aborted, Problem, Unavailable
from tests.bus.test_memory import Connect, connect, connected
from tests.conftest import eventually

__all__ = ["connect"]

Pair = Callable[..., Any]


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_BEAT_S", 0.05)
    monkeypatch.setattr(module, "_SILENCE_S", 1.0)
    monkeypatch.setattr(module, "_UNHEARD_MAX", 10)  # two such beats are nothing on a busy computer


@pytest.fixture
async def pair(connect: Connect) -> AsyncIterator[Pair]:
    made: list[Line] = []

    async def joined(**options: Any) -> tuple[Line, Line]:
        left = Line(await connected(connect), name="left", **options)
        right = Line(await connected(connect), name="right", **options)
        made.extend((left, right))
        for line in (left, right):
            await line.open()
            if not isinstance(line._bus.client, MemoryClient):
                await line._bus.client.flush()  # or the server hears what one says before that the other listens
        left.connect(right.subject)
        right.connect(left.subject)
        return left, right

    yield joined
    for one in made:
        await one.close()


async def test_pieces_come_in_order_and_whole(pair: Pair) -> None:
    left, right = await pair()
    block = os.urandom(100_000)

    async def send() -> None:
        for number in range(100):
            await left.send(number, block)
        await left.send(200, b"")

    sending = asyncio.create_task(send())
    found: dict[int, bytes] = {}
    while 200 not in found:
        channel, data = await right.receive()
        found[channel] = found.get(channel, b"") + data
        await right.taken(len(data))
    await sending
    assert found == {**dict.fromkeys(range(100), block), 200: b""}


async def test_the_sender_waits_for_credit_and_what_is_urgent_does_not(pair: Pair) -> None:
    heard: list[Any] = []
    left, right = await pair(urgent=heard.append)
    sending = asyncio.create_task(left.send(1, bytes(3 * WINDOW)))
    await eventually(lambda: left.room == 0)
    await left.tell({"type": "resize"})
    await eventually(lambda: heard)
    assert not sending.done()
    got = 0
    while got < WINDOW:
        got += len((await right.receive())[1])
    assert left.room == 0
    while got < 3 * WINDOW:
        await right.taken(WINDOW // 4)
        got += len((await right.receive())[1])
    await sending


async def test_hanging_up_says_why_after_all_that_was_sent(pair: Pair) -> None:
    left, right = await pair()
    await left.send(1, b"last words")
    await left.close(Aborted("no more", why="that is why"))
    assert await right.receive() == (1, b"last words")
    with pytest.raises(Aborted, match="no more: that is why"):
        await right.receive()
    with pytest.raises(Problem):
        await right.send(1, b"x")


async def test_an_end_that_vanishes_is_missed(pair: Pair) -> None:
    left, right = await pair()
    await left.send(1, b"x")
    assert await right.receive() == (1, b"x")
    await left._bus.close()
    with pytest.raises(Unavailable):
        await asyncio.wait_for(right.receive(), 5)


async def test_an_end_that_says_nothing_is_given_up(connect: Connect) -> None:
    """As one whose process is frozen: it still listens."""
    bus = await connected(connect)

    async def silence(message: Any) -> None: ...

    await bus.client.subscribe("frozen", cb=silence)
    line = Line(bus, name="alone")
    await line.open()
    line.connect("frozen")
    assert "silent" in str(await asyncio.wait_for(line.lost(), 5))
    await line.close()


async def test_a_part_that_is_lost_ends_the_line() -> None:
    exchange = Exchange()
    client = exchange.client()
    near, far = (Bus(url="memory", token="", name="x", client=one) for one in (client, exchange.client()))
    for bus in (near, far):
        bus.open()
    await eventually(lambda: near.connected and far.connected)
    left, right = Line(near, name="left"), Line(far, name="right")
    right.connect(await left.open())
    client.cut()
    await right.send(1, b"lost")
    await client.restore()
    with pytest.raises(Unavailable, match="lost a part"):
        await left.receive()
    for line in (left, right):
        await line.close()
    for bus in (near, far):
        await bus.close()
