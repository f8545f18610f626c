"""The way from a guest to a socket of the host: open to who says the word, within bounds, and to nobody else."""

from __future__ import annotations

import asyncio
import socket
from base64 import b64encode
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from caddisfly.host.drivers.microvm import passage as module
from caddisfly.host.drivers.microvm.passage import passage

WORD = b"caddisfly:secret"
ASKED = b"CONNECT socket:1 HTTP/1.0\r\nProxy-authorization: Basic %s\r\n\r\n"
RIGHT = ASKED % b64encode(WORD)
TAKEN = b"HTTP/1.0 200 OK\r\n\r\n"


class Way:
    """A passage with a socket at its end that answers each line, and counts who comes."""

    def __init__(self, directory: Path) -> None:
        self.to = directory / "api"
        self.came = 0
        with socket.create_server(("127.0.0.1", 0)) as listening:
            self.port = listening.getsockname()[1]
            self.reception = passage(listening.dup(), self.to, WORD, in_all=asyncio.Semaphore(100))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        writer.write(b"heard " + await reader.readline())
        writer.close()

    async def say(self, *pieces: bytes) -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        try:
            for piece in pieces:
                writer.write(piece)
                await writer.drain()
            async with asyncio.timeout(5):
                return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@pytest.fixture
async def way(tmp_path: Path) -> AsyncIterator[Way]:
    made = Way(tmp_path)
    server = await asyncio.start_unix_server(made.serve, made.to)
    yield made
    made.reception.leave()
    await made.reception.left()
    server.close()


async def test_who_says_the_word_is_taken_to_the_socket(way: Way) -> None:
    assert await way.say(RIGHT, b"hello\n") == TAKEN + b"heard hello\n"
    assert await way.say(RIGHT[:30], RIGHT[30:] + b"hello\n") == TAKEN + b"heard hello\n"
    assert way.came == 2


@pytest.mark.parametrize(
    "said",
    [
        ASKED % b64encode(b"caddisfly:other"),
        ASKED % b"",
        ASKED.replace(b"Basic %s", b""),
        b"GET /v1 HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\r\n\r\n" + RIGHT,
        b"x" * 100_000,
        b"\xff\0" * 1000 + b"\r\n\r\n",
    ],
)
async def test_nobody_else_gets_an_answer_or_reaches_it(way: Way, said: bytes) -> None:
    assert await way.say(said, b"hello\n") == b""
    assert way.came == 0


async def test_who_says_nothing_is_not_waited_for(way: Way, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_WORD_S", 0.05)
    assert await asyncio.gather(*(way.say(b"CONNECT") for _ in range(20))) == [b""] * 20
    assert await way.say(RIGHT, b"hello\n") == TAKEN + b"heard hello\n"


async def test_without_an_agent_at_the_end_it_is_just_closed(way: Way) -> None:
    way.to.unlink()
    assert await way.say(RIGHT, b"hello\n") == b""
