"""One edge process. A host runs one for each core; they share ports (SO_REUSEPORT) and nothing else.

It listens once it has a copy of the catalog, or after a moment without one. It stops by no longer accepting, asking
clients to leave with `connection: close`, and waiting for what is under way.
"""

from __future__ import annotations

import asyncio
import errno
import gc
import logging
import secrets
import signal
import socket
from contextlib import ExitStack

import uvloop

from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import CATALOG_WAIT_S, Projection
from caddisfly.edge.autostop.autostop import Autostop
from caddisfly.edge.client_side import Client
from caddisfly.edge.context import SWEEP_S, Edge
from caddisfly.edge.routes import Routes
from caddisfly.edge.settings import EdgeSettings

log = logging.getLogger(__name__)


class EdgeWorker:
    """`start`, then `stop`. `addresses` tells where it listens, as host and port."""

    def __init__(self, settings: EdgeSettings, *, number: str = "") -> None:
        """`number` tells it from its siblings, and its successor is given it again."""
        self.settings = settings
        self.name = f"{settings.host_id}-{number or secrets.token_hex(4)}"
        self.addresses: list[tuple[str, int]] = []
        self._servers: list[asyncio.Server] = []
        self._stack = ExitStack()
        self._sweeper: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Listen. Raises `OSError` when an address is not to be had."""
        settings = self.settings
        loop = asyncio.get_running_loop()
        self._bus = Bus(url=settings.bus_url, token=settings.bus_token.get_secret_value(), name="edge")
        self._projection = Projection(self._bus)
        routes = Routes(projection=self._projection, settings=settings)
        self._stack.enter_context(routes.listening())
        self.edge = edge = Edge(settings=settings, bus=self._bus, routes=routes, loop=loop)
        self._autostop = Autostop(edge, name=self.name, projection=self._projection)
        self._autostop.start()
        self._bus.open()
        self._projection.start()
        if not await self._projection.arrived(timeout_s=CATALOG_WAIT_S):
            log.warning("edge.no_catalog_yet", extra={"waited_s": CATALOG_WAIT_S})
        for address in settings.http_listen:
            bound = listen(address, backlog=settings.backlog)
            if bound is None:
                continue
            server = await loop.create_server(lambda: Client(edge), sock=bound, backlog=settings.backlog)
            self._servers.append(server)
            self.addresses.append(bound.getsockname()[:2])
        self._sweeper = asyncio.create_task(self._sweep(), name="edge-sweep")
        log.info("edge.listening", extra={"addresses": [f"{host}:{port}" for host, port in self.addresses]})

    async def stop(self, *, drain_timeout_s: float | None = None) -> None:
        """Finish what is under way, at most `drain_timeout_s` (default: the setting), then cut."""
        limit = self.settings.drain_timeout_s if drain_timeout_s is None else drain_timeout_s
        edge = self.edge
        # What the kernel has already accepted for us is taken before the door is closed, or it would be reset.
        await asyncio.sleep(0)
        for server in self._servers:
            server.close()
        edge.draining = True
        for client in list(edge.clients):
            client.leave()
        try:
            async with asyncio.timeout(limit):
                if edge.clients:
                    await edge.empty.wait()
        except TimeoutError:
            log.warning("edge.drain_cut", extra={"clients": len(edge.clients), "waited_s": limit})
        for client in list(edge.clients):
            client.transport.abort()
        if self._sweeper is not None:
            self._sweeper.cancel()
        await self._autostop.stop()
        await edge.wake.stop()
        for candidate in edge.routes.candidates():
            candidate.retire()
        self._stack.close()
        await self._projection.stop()
        await self._bus.close()
        await asyncio.sleep(0)  # lets transports that were closed above say so
        log.info("edge.stopped")

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            self.edge.sweep()


def listen(address: str, *, backlog: int) -> socket.socket | None:
    """A listening socket that siblings may share; None for IPv6 on a host without it. Raises `OSError`."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setblocking(False)
        sock.bind((host, int(port)))
        sock.listen(backlog)
    except OSError as error:
        sock.close()
        if family == socket.AF_INET6 and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            log.info("edge.no_ipv6", extra={"address": address})
            return None
        raise OSError(error.errno, f"cannot listen on {address}: {error.strerror}") from error
    return sock


async def _run(settings: EdgeSettings, name: str) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    worker = EdgeWorker(settings, number=name)
    await worker.start()
    # What was imported lives for ever, and an exchange leaves no cycles: the collector has little to do.
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)
    await stop.wait()
    await worker.stop()


def main(settings: EdgeSettings, *, number: str = "") -> None:
    """Serve until SIGTERM or SIGINT, then drain."""
    uvloop.run(_run(settings, number))
