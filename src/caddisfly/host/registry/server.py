"""The registry as a process: its parts, and the order in which they start.

It waits for the image store, which the agent mounts: without it, its directory would be another one. It serves without
the bus, and says then that it cannot tell who asks.
"""

from __future__ import annotations

import asyncio
import gc
import logging
import signal
import sys
from collections.abc import Awaitable, Callable
from contextlib import nullcontext
from typing import IO, Any, cast

import uvicorn

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.rpc import BusCaller, Caller
from caddisfly.host.images import kernel
from caddisfly.host.lock import HeldError, hold
from caddisfly.host.registry.access import Gatekeeper
from caddisfly.host.registry.application import Application
from caddisfly.host.registry.collection import Collection
from caddisfly.host.registry.content import Content
from caddisfly.host.registry.layout import NAME, Layout
from caddisfly.host.registry.repository import Repositories
from caddisfly.host.registry.settings import RegistrySettings
from caddisfly.host.registry.uploads import Uploads
from caddisfly.model.errors import FailedPrecondition, Problem

log = logging.getLogger(__name__)

_KEEP_ALIVE_S = 75
"""Longer than the edge keeps its connections, so that it is the edge that closes."""
_GRACE_S = 5
_LOOK_EVERY_S = 0.1

_App = Callable[[Any, Any, Any], Awaitable[None]]


class Registry:
    """One directory, served. `open` before anything else; it blocks."""

    def __init__(self, settings: RegistrySettings, control: Caller) -> None:
        self._settings = settings
        self._layout = Layout(settings.store / NAME)
        self.content: Content
        self.uploads = Uploads(settings)
        self._control = control
        self._lock: IO[str] | None = None

    def open(self) -> None:
        """Sweep what a crash left. Raises `FailedPrecondition` when another process has the directory."""
        root = self._layout.root
        root.mkdir(mode=0o700, exist_ok=True)
        try:
            self._lock = hold(root / "lock")
        except HeldError as other:
            raise FailedPrecondition(
                f"another registry serves {root}", why=f"process {other} has it", next="caddis status; caddis down"
            ) from None
        self._layout.repositories.mkdir(exist_ok=True)
        self.content = Content(self._layout, grace_s=self._settings.grace_s)
        self.repositories = Repositories(self._layout, self.content)
        self.repositories.sweep()
        self.content.sweep()
        self.collection = Collection(
            self.repositories, self.content, self.uploads, self._control, settings=self._settings
        )
        gatekeeper = Gatekeeper(
            self._control,
            cache_s=self._settings.access_cache_s,
            host_secret=self._settings.registry_secret.get_secret_value(),
        )
        self.application = Application(self.repositories, self.uploads, gatekeeper)

    def close(self) -> None:
        self.uploads.close()
        if self._lock is not None:
            self._lock.close()
            self._lock = None


async def serve(settings: RegistrySettings, *, stop: asyncio.Event) -> None:
    """Until `stop` is set. Raises `FailedPrecondition` and `OSError` when it cannot begin."""
    bus = Bus(url=settings.bus_url, token=settings.bus_token.get_secret_value(), name="registry")
    bus.open()
    registry = Registry(settings, BusCaller(bus, contract.CONTROL))
    try:
        if not await _store_mounted(settings, stop):
            return
        await asyncio.to_thread(registry.open)
        collecting = asyncio.create_task(registry.collection.run(), name="registry-collection")
        gc.collect()
        gc.freeze()  # what is loaded now stays: no later collection needs to look at it
        # Tools try TLS first, and each try would be a warning that nobody can do anything about.
        logging.getLogger("uvicorn.error").setLevel(logging.ERROR)
        server = Server(config_of(settings, registry.application))
        serving = asyncio.create_task(server.serve(), name="registry-serve")
        log.info("registry.serves", extra={"address": settings.address})
        stopping = asyncio.create_task(stop.wait(), name="registry-stop")
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await serving
        for task in (stopping, collecting):
            task.cancel()
        await asyncio.gather(stopping, collecting, return_exceptions=True)
    finally:
        registry.close()
        await bus.close()


def config_of(settings: RegistrySettings, application: Application) -> uvicorn.Config:
    return uvicorn.Config(
        cast(Any, application),
        host=settings.host,
        port=settings.port,
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_GRACE_S,
    )


class Server(uvicorn.Server):
    """Signals are for whoever runs the loop."""

    capture_signals = nullcontext  # type: ignore[assignment] # called without arguments


def main(settings: RegistrySettings) -> None:
    """Serve until SIGTERM or SIGINT. Exits with 1 when it could not start."""
    import uvloop

    try:
        uvloop.run(_run(settings))
    except Problem as problem:
        log.error("registry.refused", extra={"reason": str(problem), "next": problem.next})
        sys.exit(1)


async def _run(settings: RegistrySettings) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    await serve(settings, stop=stop)


async def _store_mounted(settings: RegistrySettings, stop: asyncio.Event) -> bool:
    """Wait until the agent has mounted it: the kernel has no event for that which would be simpler than looking."""
    said = False
    while not stop.is_set():
        if any(point == settings.store for point, _ in kernel.mounts_below(settings.store)):
            return True
        if not said:
            said = True
            log.info("registry.waits", extra={"store": str(settings.store)})
        try:
            async with asyncio.timeout(_LOOK_EVERY_S):
                await stop.wait()
        except TimeoutError:
            continue
    return False
