"""Streams: bodies that are larger than memory, tunnels, and peers that do not read."""

from __future__ import annotations

import asyncio
import resource
from pathlib import Path

import pytest
from websockets.asyncio.client import connect
from websockets.asyncio.server import ServerConnection, serve

from tests.conftest import eventually
from tests.edge.conftest import Platform, RawClient

_MIB = 1024 * 1024


def memory_bytes() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_slow_reader_of_200_mb_costs_little_memory(platform: Platform) -> None:
    size, block = 200 * _MIB, b"x" * 65536
    sent = 0

    async def large(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        while sent < size:
            writer.write(block)
            sent += len(block)
            await writer.drain()

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(large))
    client = await RawClient.open(await platform.edge())
    client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
    await client.reader.readuntil(b"\r\n\r\n")
    before = memory_bytes()
    stalled = 0

    def still() -> bool:
        nonlocal stalled
        same, stalled = stalled == sent, sent
        return same

    await eventually(still, every_s=0.3)  # nobody reads: it must come to a halt
    assert sent < 40 * _MIB
    assert memory_bytes() - before < 30 * _MIB
    received = 0
    while received < size:
        received += len(await client.reader.read(_MIB))
    assert received == size
    client.close()


@pytest.mark.parametrize("chunked", [False, True])
async def test_an_app_that_does_not_read_pauses_its_client(platform: Platform, chunked: bool) -> None:
    go = asyncio.Event()
    size = 200 * _MIB
    block = b"y" * 65536
    count = size // len(block)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await go.wait()
        got = 0
        while got < size:
            got += len((await reader.read(_MIB)).replace(b"\r", b"").replace(b"\n", b""))
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        await writer.drain()

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(slow))
    worker = await platform.edge(replay_request_bytes=_MIB)
    client = await RawClient.open(worker)
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    client.send(f"POST / HTTP/1.1\r\nHost: web.localhost\r\n{framing}\r\n\r\n".encode())
    sent = 0

    async def send() -> None:
        nonlocal sent
        for _ in range(count):
            client.send(b"%x\r\n%b\r\n" % (len(block), block) if chunked else block)
            sent += len(block)
            await client.writer.drain()
        client.send(b"0\r\n\r\n" if chunked else b"")

    before = memory_bytes()
    sending = asyncio.create_task(send())
    stalled = -1

    def still() -> bool:
        nonlocal stalled
        same, stalled = stalled == sent, sent
        return same

    await eventually(still, every_s=0.3)
    assert sent < 40 * _MIB
    assert memory_bytes() - before < 30 * _MIB
    assert worker.edge.remembered_bytes == 0  # too large to be remembered
    go.set()
    await sending
    assert (await client.response())[2] == b"ok"
    client.close()


async def test_websockets_pass(platform: Platform) -> None:
    async def echo(connection: ServerConnection) -> None:
        async for message in connection:
            await connection.send(message)

    async with serve(echo, "127.0.0.1", 0, max_size=None) as server:
        await platform.app("web")
        await platform.machine("web", port=server.sockets[0].getsockname()[1])
        worker = await platform.edge()
        host, port = worker.addresses[0]
        async with connect(
            "ws://web.localhost/", host=host, port=port, max_size=None, compression=None, proxy=None
        ) as client:
            for message in ("hello", b"\x00" * 3_000_000, "bye"):
                await client.send(message)
                assert await client.recv() == message
            assert [candidate.load for candidate in worker.edge.routes.candidates()] == [1]
        await eventually(lambda: [candidate.load for candidate in worker.edge.routes.candidates()] == [0])


async def test_a_tunnel_half_closes_and_waits_for_slow_readers(platform: Platform) -> None:
    size = 30 * _MIB

    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: bytes\r\nConnection: Upgrade\r\n\r\nhi")
        got = await reader.read()  # until the client closes its half
        writer.write(got[::-1] + b"z" * size)
        await writer.drain()

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(app))
    client = await RawClient.open(await platform.edge())
    client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\nab")
    status, headers, _ = await client.response()
    assert (status, headers["upgrade"], headers["connection"]) == (101, "bytes", "upgrade")
    assert await client.reader.readexactly(2) == b"hi"
    client.send(b"c")
    client.writer.write_eof()
    assert await client.reader.readexactly(3) == b"cba"
    assert len(await client.eof()) == size
    client.close()


async def test_a_refused_upgrade_is_an_ordinary_answer(platform: Platform) -> None:
    async def app(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            writer.write(b"HTTP/1.1 426 Upgrade Required\r\nContent-Length: 2\r\n\r\nno")

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(app))
    client = await RawClient.open(await platform.edge())
    for _ in range(2):
        client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\nUpgrade: bytes\r\n\r\n")
        assert (await client.response())[::2] == (426, b"no")
    client.close()
