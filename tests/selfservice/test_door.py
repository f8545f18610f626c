"""A door, and who may stand before it: well-behaved programs, slow ones, loud ones, and those that send nonsense."""

from __future__ import annotations

import asyncio
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from caddisfly.host.selfservice import door as door_module
from caddisfly.host.selfservice.door import SOCKET, Door
from caddisfly.host.selfservice.exchange import Answer, Request
from tests.conftest import eventually

GET = b"GET /v1/apps/demo/machines/m HTTP/1.1\r\nHost: flaps\r\n\r\n"


class Behind:
    """The agent behind a door."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.asked: list[Request] = []
        self.waits: asyncio.Event | None = None
        self.answer = Answer(200, {"ok": True})
        self.doors: list[Door] = []
        self.in_all = asyncio.Semaphore(100)

    def open(self) -> Door:
        door = Door(self.directory, self._serve, in_all=self.in_all)
        door.open()
        self.doors.append(door)
        return door

    async def _serve(self, request: Request) -> Answer:
        self.asked.append(request)
        if self.waits is not None:
            await self.waits.wait()
        return self.answer

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.directory / SOCKET))

    async def ask(self, *pieces: bytes) -> bytes:
        reader, writer = await self.connect()
        try:
            for piece in pieces:
                writer.write(piece)
                await asyncio.sleep(0)
            async with asyncio.timeout(5):
                return await reader.read()
        finally:
            writer.close()


@pytest.fixture
async def behind(tmp_path: Path) -> AsyncIterator[Behind]:
    made = Behind(tmp_path / "self" / "m")
    made.open()
    yield made
    for door in made.doors:
        door.leave()
        await door.left()


async def test_a_request_is_answered_and_the_connection_ends(behind: Behind) -> None:
    answer = await behind.ask(GET)
    assert answer == (
        b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-type: application/json; charset=utf-8\r\n"
        b'content-length: 12\r\n\r\n{"ok": true}'
    )
    assert behind.asked == [Request("GET", ("v1", "apps", "demo", "machines", "m"))]


async def test_an_empty_answer_has_no_body(behind: Behind) -> None:
    behind.answer = Answer(204)
    assert await behind.ask(GET) == b"HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n"


@pytest.mark.parametrize(
    "framing",
    [
        b'Content-Length: 13\r\n\r\n{"value":"e"}',
        b'Transfer-Encoding: chunked\r\n\r\n5\r\n{"val\r\n8\r\nue":"e"}\r\n0\r\n\r\n',
    ],
)
async def test_bodies_come_by_length_or_in_chunks(behind: Behind, framing: bytes) -> None:
    head = b"POST /a%2Fb/c?d=e HTTP/1.1\r\nHost: x\r\nFly-Machine-Lease-Nonce: abc\r\n"
    await behind.ask(head, framing)
    (request,) = behind.asked
    assert (request.method, request.path, request.nonce) == ("POST", ("a/b", "c"), "abc")
    assert request.json() == {"value": "e"}


async def test_who_waits_for_leave_to_send_gets_it(behind: Behind) -> None:
    reader, writer = await behind.connect()
    writer.write(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n")
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"{}")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 OK")
    writer.close()


async def test_only_the_first_of_several_requests_counts(behind: Behind) -> None:
    answer = await behind.ask(GET + b"POST /v1/apps/demo/machines/m/stop HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.count(b"HTTP/1.1") == 1
    assert [request.method for request in behind.asked] == ["GET"]


@pytest.mark.parametrize("nonsense", [b"\x16\x03\x01\x02\x00\x01\r\n\r\n", b"GET\r\n\r\n", b"GET / HTTP/9.9\r\n\r\n"])
async def test_nonsense_is_told_so(behind: Behind, nonsense: bytes) -> None:
    answer = await behind.ask(nonsense)
    assert answer.startswith(b"HTTP/1.1 400 Bad Request")
    assert b"invalid_argument: not an HTTP request" in answer
    assert behind.asked == []


@pytest.mark.parametrize(
    "pieces",
    [
        (b"GET /" + b"a" * 70_000 + b" HTTP/1.1\r\n\r\n",),
        (b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 12_000 + b"\r\n",),
        (b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n", b"x" * 500_000),
    ],
)
async def test_too_much_is_told_so_in_time_to_be_read(behind: Behind, pieces: tuple[bytes, ...]) -> None:
    assert (await behind.ask(*pieces)).startswith(b"HTTP/1.1 413 ")
    assert behind.asked == []


async def test_who_is_slow_to_ask_is_given_up(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "_RECEIVE_S", 0.1)
    reader, writer = await behind.connect()
    async with asyncio.timeout(5):
        while not reader.at_eof():
            writer.write(b"G")
            try:
                await asyncio.wait_for(reader.read(), 0.02)
            except TimeoutError:
                continue
            except ConnectionResetError:
                break
    writer.close()
    assert (await behind.ask(GET)).startswith(b"HTTP/1.1 200")


async def test_who_does_not_read_the_answer_is_given_up(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(door_module, "_SEND_S", 0.1)
    behind.answer = Answer(200, "x" * 4_000_000)
    writers = []
    for _ in range(door_module._AT_ONCE):
        _, writer = await behind.connect()
        writer.transport.pause_reading()  # type: ignore[attr-defined]
        writer.write(GET)
        writers.append(writer)
    behind.answer = Answer(200, "short")
    assert (await behind.ask(GET)).startswith(b"HTTP/1.1 200")
    for writer in writers:
        writer.close()


async def test_connections_beyond_a_few_wait_for_their_turn(behind: Behind) -> None:
    behind.waits = asyncio.Event()
    asking = [asyncio.create_task(behind.ask(GET)) for _ in range(3 * door_module._AT_ONCE)]
    await eventually(lambda: len(behind.asked) == door_module._AT_ONCE)
    await asyncio.sleep(0.1)
    assert len(behind.asked) == door_module._AT_ONCE
    behind.waits.set()
    for task in asking:
        assert (await task).startswith(b"HTTP/1.1 200")


async def test_all_doors_together_take_no_more_than_they_may(behind: Behind) -> None:
    behind.in_all._value = 0
    asking = asyncio.create_task(behind.ask(GET))
    await asyncio.sleep(0.05)
    assert behind.asked == []
    behind.in_all.release()
    assert (await asking).startswith(b"HTTP/1.1 200")
    assert (await behind.ask(GET)).startswith(b"HTTP/1.1 200"), "what was taken is given back"


async def test_the_next_agent_answers_at_the_same_place(behind: Behind) -> None:
    inside = behind.directory.stat().st_ino
    behind.doors[0].leave()
    await behind.doors[0].left()
    with pytest.raises(ConnectionRefusedError):
        await behind.connect()
    behind.open()
    assert (await behind.ask(GET)).startswith(b"HTTP/1.1 200")
    assert behind.directory.stat().st_ino == inside, "what a sandbox has mounted is what the new socket is in"


async def test_a_closed_door_leaves_nothing(behind: Behind) -> None:
    door = behind.doors[0]
    door.close()
    assert not behind.directory.exists()
    await door.left()
    door.close()


async def test_every_user_inside_may_knock_and_nobody_outside(behind: Behind) -> None:
    def mode(path: Path) -> int:
        return stat.S_IMODE(path.stat().st_mode)

    assert mode(behind.directory / SOCKET) == 0o666
    assert mode(behind.directory) == 0o755
    assert mode(behind.directory.parent) == 0o700


async def test_a_knock_without_a_question_is_no_event(behind: Behind) -> None:
    for _ in range(2 * door_module._AT_ONCE):
        knocking = socket.socket(socket.AF_UNIX)
        knocking.connect(str(behind.directory / SOCKET))
        knocking.close()
        await asyncio.sleep(0.02)
    assert (await behind.ask(GET)).startswith(b"HTTP/1.1 200")
