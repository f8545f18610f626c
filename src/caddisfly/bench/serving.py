"""Programs to compare with, run for as long as they are measured."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@asynccontextmanager
async def process(*command: str | Path, port: int, log: Path, **environment: str) -> AsyncIterator[int]:
    """A process that listens on `port`. Stopped at the end."""
    with log.open("ab") as output:
        started = await asyncio.create_subprocess_exec(
            *map(str, command), stdout=output, stderr=output, env={**os.environ, **environment}
        )
    try:
        await _listening(port, started, log)
        yield started.pid
    finally:
        if started.returncode is None:
            started.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(5):
                await started.wait()
        except TimeoutError:
            started.kill()
            await started.wait()


async def _listening(port: int, process: asyncio.subprocess.Process, log: Path) -> None:
    async with asyncio.timeout(90):  # programs of 100 MB start slowly on a busy computer
        while True:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                if process.returncode is not None:
                    raise FailedPrecondition(
                        "what is measured beside did not start", why=log.read_text()[-500:]
                    ) from None
                await asyncio.sleep(0.02)
            else:
                writer.close()
                return


def _end(log: Path) -> str:
    return log.read_text()[-500:]
