"""Fixtures that start real parts. Each stops what it started, also when the test failed."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from caddisfly.bus import server
from caddisfly.observe.logs import Lines


def pytest_sessionstart(session: pytest.Session) -> None:
    """Let a failed test show what was logged as an operator would see it, facts included."""
    plugin = session.config.pluginmanager.get_plugin("logging-plugin")
    for handler in (plugin.caplog_handler, plugin.report_handler):
        handler.setFormatter(Lines("test"))


def free_port() -> int:
    """A TCP port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class NatsServer:
    """A real nats-server with JetStream on disk. Outage is a verb: `kill`, `freeze`, `thaw`, `start`."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.port = free_port()
        self.token = "test-token"
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        text = server.configuration(
            host="127.0.0.1", port=self.port, token=self.token, directory=self.directory / "jetstream"
        )
        config = self.directory / "nats.conf"
        config.write_text(text)
        log = (self.directory / "nats.log").open("ab")
        with log:
            self._process = subprocess.Popen([server.binary(), "-c", config], stdout=log, stderr=log)
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1).close()
                return
            except OSError:
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.01)

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)


@pytest.fixture
def nats(tmp_path: Path) -> Iterator[NatsServer]:
    directory = tmp_path / "nats"
    directory.mkdir()
    instance = NatsServer(directory)
    instance.start()
    try:
        yield instance
    finally:
        instance.kill()


async def eventually(check, *, timeout_s: float = 30.0, every_s: float = 0.01):  # type: ignore[no-untyped-def]
    """Await until `check()` is true (it may be async), and return what it gave. For facts that have no event."""
    deadline = time.monotonic() + timeout_s
    while True:
        value = check()
        if asyncio.iscoroutine(value):
            value = await value
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {timeout_s} s: {check}"
        await asyncio.sleep(every_s)
