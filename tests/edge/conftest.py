"""A small platform around the edge: a real bus, real upstream servers, and an agent that knows how to wake."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import uvloop

from caddisfly.bus.catalog import Publication
from caddisfly.bus.connection import Bus
from caddisfly.bus.contract import WAKE_MACHINE, MachineCall, MachineReply
from caddisfly.bus.rpc import Dispatcher
from caddisfly.edge.settings import EdgeSettings
from caddisfly.edge.worker import EdgeWorker
from caddisfly.model import ids, states
from caddisfly.model.config import Config
from caddisfly.model.errors import NotFound
from caddisfly.model.machine import ImageRef, Machine, wall_ms
from tests.conftest import NatsServer, eventually

HOST_ID = "0a0b0c0d"
Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Any]


def service(internal_port: int, **changes: Any) -> dict[str, Any]:
    """A service on port 80; its Machines pool connections, so that tests see the hot path."""
    return {
        "protocol": "tcp",
        "internal_port": internal_port,
        "ports": [{"port": 80, "handlers": ["http"], **changes.pop("port", {})}],
        "concurrency": {"type": "requests", "soft_limit": 200, **changes.pop("concurrency", {})},
        **changes,
    }


class Platform:
    """Apps and Machines in the catalog, and the agent of their host."""

    def __init__(self, nats: NatsServer, directory: Path) -> None:
        self.nats, self.socket = nats, directory / "agent.sock"
        self.machines: dict[str, Machine] = {}
        self.wakes: list[str] = []
        self.on_wake: Callable[[Machine], Any] | None = None
        """Awaited for each wake, before the Machine is started; may raise a `Problem`."""
        self.workers: list[EdgeWorker] = []
        self.servers: list[asyncio.Server] = []
        self._next_address = 1
        self._writers: set[asyncio.StreamWriter] = set()

    async def open(self) -> None:
        self.bus = Bus(url=self.nats.url, token=self.nats.token, name="test-platform")
        self.bus.open()
        await eventually(lambda: self.bus.connected)
        self.catalog = Publication(self.bus, owner="control", owns=lambda key, value: self.owns(key))
        self.catalog.start()
        self.dispatcher = Dispatcher()
        self.dispatcher.handle(WAKE_MACHINE, self._wake)
        self.agent = await self.dispatcher.serve_unix(self.socket)

    def owns(self, key: str) -> bool:
        """Whether what stands there is ours alone."""
        return True

    async def close(self) -> None:
        for worker in self.workers:
            await worker.stop(drain_timeout_s=0)
        for writer in self._writers:
            writer.transport.abort()
        for server in (*self.servers, self.agent):
            server.close()
        await self.catalog.stop()
        await self.bus.close()
        await asyncio.sleep(0)

    def settings(self, **changes: Any) -> EdgeSettings:
        return EdgeSettings(
            **{
                "bus_url": self.nats.url,
                "bus_token": self.nats.token,
                "agent_socket": self.socket,
                "host_id": HOST_ID,
                "region": "lab",
                "http_listen": ("127.0.0.1:0",),
                **changes,
            }
        )

    async def edge(self, **changes: Any) -> EdgeWorker:
        worker = EdgeWorker(self.settings(**changes))
        await worker.start()
        self.workers.append(worker)
        return worker

    async def app(self, name: str) -> None:
        entry = {
            "id": f"id-{name}",
            "name": name,
            "org_id": "org",
            "org_slug": "org",
            "network": "default",
            "network_id": 1,
        }
        await self.catalog.put(f"app.{name}", entry)

    def address(self) -> str:
        """A loopback address of its own for a Machine."""
        self._next_address += 1
        return f"127.0.0.{self._next_address}"

    async def machine(self, app: str, *, port: int = 8080, **changes: Any) -> Machine:
        services = changes.pop("services", [service(port, **changes.pop("service", {}))])
        machine = Machine(
            **{
                "id": ids.machine_id(),
                "name": "m",
                "app_name": app,
                "app_id": f"id-{app}",
                "org_id": "org",
                "org_slug": "org",
                "network_id": 1,
                "host_id": HOST_ID,
                "region": "lab",
                "state": states.STARTED,
                "instance_id": ids.ulid(),
                "run_id": ids.ulid(),
                "config": Config({"image": "x", "services": services}),
                "image": ImageRef(registry="r", repository="x", tag="t", digest="d"),
                "private_ip": "::1",
                "ipv4": "127.0.0.1",
                "created_ms": wall_ms(),
                "updated_ms": wall_ms(),
                **changes,
            }
        )
        await self.put(machine)
        return machine

    async def put(self, machine: Machine) -> None:
        """Publish, and wait until every edge knows."""
        self.machines[machine.id] = machine
        revision = await self.catalog.put(f"machine.{machine.id}", machine.to_record())
        for worker in self.workers:
            assert await worker._projection.wait_for(revision, timeout_s=5)

    async def change(self, machine: Machine, **changes: Any) -> Machine:
        machine = replace(self.machines[machine.id], updated_ms=wall_ms() + 1, **changes)
        await self.put(machine)
        return machine

    async def start_machine(self, machine: Machine) -> Machine:
        machine = replace(self.machines[machine.id], state=states.STARTED, run_id=ids.ulid())
        machine = machine.with_event("start", "started", source="proxy", now_ms=wall_ms() + 1)
        self.machines[machine.id] = machine
        if self.bus.connected:
            await self.catalog.put(f"machine.{machine.id}", machine.to_record())
        return machine

    async def _wake(self, call: MachineCall) -> MachineReply:
        self.wakes.append(call.machine_id)
        machine = self.machines.get(call.machine_id)
        if machine is None:
            raise NotFound("no such machine")
        if self.on_wake is not None:
            await self.on_wake(machine)
        if self.machines[machine.id].state != states.STARTED:
            machine = await self.start_machine(machine)
        return MachineReply(record=machine.to_record())

    async def serve(self, handler: Handler, *, host: str = "127.0.0.1", port: int = 0) -> int:
        """A raw TCP server. Returns its port."""

        async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            self._writers.add(writer)
            try:
                await handler(reader, writer)
            except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                logging.getLogger(__name__).debug("upstream connection ended")
            finally:
                self._writers.discard(writer)
                writer.close()

        server = await asyncio.start_server(on_connection, host, port)
        self.servers.append(server)
        return int(server.sockets[0].getsockname()[1])


def pytest_asyncio_loop_factories(config: pytest.Config, item: pytest.Item) -> dict[str, Any]:
    """The loop that the edge runs on in earnest."""
    return {"uvloop": uvloop.new_event_loop}


@pytest.fixture
async def platform(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Platform]:
    instance = Platform(nats, tmp_path)
    await instance.open()
    try:
        yield instance
    finally:
        await instance.close()


async def read_request(reader: asyncio.StreamReader) -> tuple[bytes, bytes]:
    """One request, head and body, as an app sees it. An empty head at the end of the connection."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return b"", b""
    lower = head.lower()
    if b"\r\ncontent-length: " in lower:
        size = int(lower.split(b"\r\ncontent-length: ")[1].split(b"\r\n")[0])
        return head, await reader.readexactly(size)
    if b"\r\ntransfer-encoding: chunked" in lower:
        body = b""
        while True:
            size = int(await reader.readline(), 16)
            piece = await reader.readexactly(size)
            assert await reader.readexactly(2) == b"\r\n"
            if not size:
                return head, body
            body += piece
    return head, b""


class Echo:
    """An app that answers each request with what it saw of it, and remembers it."""

    def __init__(self, name: bytes = b"") -> None:
        self.name = name
        self.heads: list[bytes] = []
        self.bodies: list[bytes] = []
        self.connections = 0

    async def __call__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        while True:
            head, body = await read_request(reader)
            if not head:
                return
            self.heads.append(head)
            self.bodies.append(body)
            text = self.name + head + body
            head_only = head.startswith(b"HEAD ")
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nX-App: yes\r\n\r\n" % len(text))
            writer.write(b"" if head_only else text)
            await writer.drain()


class RawClient:
    """A client that sends exactly the bytes it is told to."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, worker: EdgeWorker) -> RawClient:
        host, port = worker.addresses[0]
        return cls(*await asyncio.open_connection(host, port, limit=2**20))

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def response(self, *, method: str = "GET") -> tuple[int, dict[str, str], bytes]:
        """Status, headers (lower case) and body of the next response that is not 1xx."""
        while True:
            head = await self.reader.readuntil(b"\r\n\r\n")
            first, *lines = head.decode("latin-1").strip().split("\r\n")
            status = int(first.split(" ")[1])
            headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
            if status >= 200 or status == 101:
                break
        if method == "HEAD" or status in (101, 204, 304):
            return status, headers, b""
        if "content-length" in headers:
            return status, headers, await self.reader.readexactly(int(headers["content-length"]))
        if headers.get("transfer-encoding") == "chunked":
            body = b""
            while size := int(await self.reader.readline(), 16):
                body += (await self.reader.readexactly(size + 2))[:-2]
            assert await self.reader.readexactly(2) == b"\r\n"
            return status, headers, body
        return status, headers, await self.reader.read()

    async def eof(self) -> bytes:
        async with asyncio.timeout(10):
            return await self.reader.read()

    def close(self) -> None:
        self.writer.close()


async def ask(
    worker: EdgeWorker,
    host: str,
    *,
    path: str = "/",
    method: str = "GET",
    headers: str = "",
    body: bytes = b"",
) -> tuple[int, dict[str, str], bytes]:
    """One request on a connection of its own."""
    client = await RawClient.open(worker)
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    try:
        head = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\n{length}{headers}Connection: close\r\n\r\n"
        client.send(head.encode() + body)
        async with asyncio.timeout(20):
            return await client.response(method=method)
    finally:
        client.close()
