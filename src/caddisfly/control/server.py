"""The control process: the parts, behind uvicorn."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import uvicorn
from starlette.types import ASGIApp

from caddisfly.control.control import Control
from caddisfly.control.rest import api
from caddisfly.control.settings import ControlSettings
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)

_KEEP_ALIVE_S = 75
"""Longer than the idle timeout of the clients' pools, so that it is they who close: no race, no retry."""
_MESSAGE_MAX = 1024 * 1024
"""Bytes of one message of a client. No client has credit for more than half of it at once."""


def create_app(settings: ControlSettings) -> ASGIApp:
    """The API as an ASGI application. Its lifespan starts and stops the parts."""
    control = Control(settings)

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        await control.start()
        gc.collect()
        gc.freeze()  # what is loaded now stays: no later collection needs to look at it
        try:
            yield
        finally:
            await control.stop()

    return api.build(control, lifespan=lifespan)


def listening(app: ASGIApp, *, grace_s: int, **more: Any) -> uvicorn.Config:
    """How the API is served. `grace_s`: seconds that requests under way have at the end; `more` is uvicorn's."""
    logging.getLogger("uvicorn.error").addFilter(_worth_logging)
    return uvicorn.Config(
        app,
        http="httptools",
        ws="websockets-sansio",
        ws_max_size=_MESSAGE_MAX,
        ws_per_message_deflate=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,
        **more,
    )


def _worth_logging(record: logging.LogRecord) -> bool:
    """Not uvicorn's line for each WebSocket: its address has the command, and a command may have a secret.

    Nor its complaint about each that was refused: that it takes a refusal for a bug is one of its own.
    """
    said = str(record.msg)
    return '"WebSocket ' not in said and "without completing handshake" not in said


def main(settings: ControlSettings) -> None:
    """Serve until SIGTERM or SIGINT. Exits with 3 when it could not start."""
    app = create_app(settings)
    place = {"host": settings.listen_host, "port": settings.listen_port, "loop": "uvloop"}
    config = listening(app, grace_s=settings.shutdown_grace_s, lifespan="on", **place)
    # uvicorn sends itself the signal again once it has shut down: an end that was asked for is no failure.
    signal.signal(signal.SIGTERM, _leave)
    server = uvicorn.Server(config)
    try:
        server.run()
    except Problem as problem:
        log.error("control.refused", extra={"reason": str(problem), "next": problem.next})
    except KeyboardInterrupt:
        log.info("control.interrupted")
    if not server.started:
        sys.exit(3)


def _leave(*_: object) -> None:
    sys.exit(0)
