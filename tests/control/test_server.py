"""The process: it starts, serves, and ends when told to."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from sqlalchemy import text

from caddisfly.control import bootstrap
from caddisfly.control.records.database import Database
from caddisfly.control.settings import ControlSettings
from tests.conftest import NatsServer, eventually, free_port

_RUN = """
import sys
from caddisfly.control import server
from caddisfly.control.settings import ControlSettings
server.main(ControlSettings.model_validate_json(sys.argv[1]))
"""


class Process:
    def __init__(self, nats: NatsServer, directory: Path) -> None:
        self.port = free_port()
        self.values = {
            "listen_port": self.port,
            "data_directory": str(directory),
            "bus_url": nats.url,
            "bus_token": nats.token,
        }
        self.settings = ControlSettings.model_validate(self.values)
        self.url = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> subprocess.Popen[bytes]:
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", _RUN, json.dumps(self.values)], stderr=subprocess.PIPE
        )
        return self._process

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()


@pytest.fixture
def process(nats: NatsServer, tmp_path: Path) -> Iterator[Process]:
    instance = Process(nats, tmp_path / "control")
    yield instance
    instance.close()


async def test_it_serves_until_sigterm_also_with_a_wait_open(process: Process) -> None:
    token = await bootstrap.first_run(process.settings)
    running = process.start()
    async with httpx.AsyncClient(base_url=process.url, headers={"authorization": f"Bearer {token}"}) as client:

        async def up() -> bool:
            try:
                return (await client.get("/healthz")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(up, timeout_s=30)
        assert (await client.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})).status_code == 201
        document = (await client.get("/v1/openapi.json")).json()
        assert document["paths"]["/v1/apps"]["get"]["operationId"] == "Apps_list"
        running.send_signal(signal.SIGTERM)
        _, errors = await asyncio.to_thread(running.communicate, timeout=15)
        assert running.returncode in (0, -signal.SIGTERM), errors.decode()
        assert b"Traceback" not in errors
    # What was acknowledged is there after a restart.
    process.start()
    async with httpx.AsyncClient(base_url=process.url, headers={"authorization": f"Bearer {token}"}) as client:

        async def kept() -> bool:
            try:
                return (await client.get("/v1/apps/demo")).status_code == 200
            except httpx.TransportError:
                return False

        await eventually(kept, timeout_s=30)


async def test_a_database_from_the_future_keeps_it_from_starting(process: Process) -> None:
    await bootstrap.first_run(process.settings)
    database = Database(process.settings.database(), timeout_s=5)
    async with database.writing() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await database.close()
    running = process.start()
    _, errors = await asyncio.to_thread(running.communicate, timeout=30)
    assert running.returncode == 3
    assert b"newer version" in errors
