"""Workers as processes: siblings on one port, sudden death, and leaving politely."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from caddisfly.edge.settings import EdgeSettings
from tests.conftest import eventually, free_port
from tests.edge.conftest import Echo, Platform, RawClient, ask

_MAIN = """
import sys
from caddisfly.edge.settings import EdgeSettings
from caddisfly.edge.worker import main
settings = EdgeSettings.model_validate_json(sys.stdin.read())
main(settings, number=sys.argv[1])
"""


@asynccontextmanager
async def worker_process(
    platform: Platform, port: int, *, number: str = ""
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One worker; listening when the block begins, gone when it ends."""
    settings = platform.settings(http_listen=(f"127.0.0.1:{port}",))
    text = EdgeSettings.model_dump_json(settings).replace("**********", platform.nats.token)
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _MAIN, number, stdin=asyncio.subprocess.PIPE)
    assert process.stdin is not None
    process.stdin.write(text.encode())
    process.stdin.close()
    try:
        await eventually(lambda: port in listeners(process.pid))
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def listeners(pid: int) -> set[int]:
    """Ports on which the process itself listens (its siblings share them)."""
    inodes, found = set(), set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            inodes.add(str(link.readlink()))
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        fields = line.split()
        if fields[3] == "0A" and f"socket:[{fields[9]}]" in inodes:
            found.add(int(fields[1].rpartition(":")[2], 16))
    return found


async def request(port: int) -> int:
    """Status of one request on a connection of its own; 0 when the connection broke."""
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return 0
    try:
        writer.write(b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: close\r\n\r\n")
        answer = await reader.read()
    except OSError:
        return 0
    finally:
        writer.close()
    return int(answer[9:12] or 0)


async def test_a_killed_worker_costs_only_its_own_connections(platform: Platform) -> None:
    """Fault 26: siblings go on, and new connections reach them at once."""
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(Echo()))
    port = free_port()
    async with worker_process(platform, port) as victim, worker_process(platform, port):
        assert {await request(port) for _ in range(50)} == {200}
        loads = [asyncio.create_task(many(port, 150)) for _ in range(4)]
        await asyncio.sleep(0.1)  # lets the load run while the victim dies
        victim.kill()
        await victim.wait()
        statuses = [status for load in loads for status in await load]
        assert {await request(port) for _ in range(50)} == {200}
    assert statuses.count(0) <= 4 + 4  # at most what was open, and queued, on the victim
    assert set(statuses) <= {0, 200}


async def many(port: int, count: int) -> list[int]:
    return [await request(port) for _ in range(count)]


async def test_a_stopped_worker_finishes_what_is_under_way(platform: Platform) -> None:
    """P20."""
    go = asyncio.Event()
    begun = asyncio.Event()

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhal")
        begun.set()
        await go.wait()
        writer.write(b"ves")
        await writer.drain()

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(slow))
    port = free_port()
    async with worker_process(platform, port) as process:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        idle_reader, idle_writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
        await begun.wait()
        process.send_signal(signal.SIGTERM)
        assert await idle_reader.read() == b""  # an idle connection is closed at once
        await eventually(lambda: port not in listeners(process.pid))
        assert process.returncode is None
        go.set()
        assert (await reader.read()).endswith(b"halves")
        async with asyncio.timeout(10):
            assert await process.wait() == 0
        writer.close()
        idle_writer.close()


async def test_draining_cuts_at_its_limit_and_asks_clients_to_leave(platform: Platform) -> None:
    go = asyncio.Event()
    begun = asyncio.Semaphore(0)

    async def slow(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        begun.release()
        await (asyncio.Event() if b"/never" in head else go).wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        await writer.drain()

    await platform.app("web")
    await platform.machine("web", port=await platform.serve(slow))
    worker = await platform.edge()
    soon, never = await RawClient.open(worker), await RawClient.open(worker)
    soon.send(b"GET /soon HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
    never.send(b"GET /never HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
    await begun.acquire()
    await begun.acquire()
    platform.workers.remove(worker)
    stopping = asyncio.create_task(worker.stop(drain_timeout_s=0.5))
    await eventually(lambda: worker.edge.draining)
    go.set()
    status, headers, _ = await soon.response()
    assert (status, headers["connection"]) == (200, "close")
    await stopping
    with pytest.raises((asyncio.IncompleteReadError, ConnectionResetError)):
        await never.response()
    soon.close()
    never.close()


async def test_an_edge_that_never_saw_the_bus_says_so(platform: Platform) -> None:
    platform.nats.kill()
    worker = await platform.edge(full_deadline_s=0.2)
    status, _, body = await ask(worker, "web.localhost")
    assert (status, b"has not reached the bus" in body) == (503, True)
