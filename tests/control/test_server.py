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
from tests.control.fake_host import FakeHost

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


async def test_it_serves_until_sigterm_and_keeps_what_it_acknowledged(process: Process) -> None:
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
        assert running.returncode == 0, errors.decode()
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


async def test_killed_amid_creates_each_key_still_makes_one_machine(process: Process, nats: NatsServer) -> None:
    """Fault 4: SIGKILL during 200 creates. The clients repeat what was not answered, under the same keys."""
    token = await bootstrap.first_run(process.settings)
    host = FakeHost(url=nats.url, token=nats.token, region="local")
    await host.start()
    limits = httpx.Limits(max_connections=20)
    headers = {"authorization": f"Bearer {token}"}
    answered: dict[str, str] = {}
    try:
        async with httpx.AsyncClient(base_url=process.url, headers=headers, timeout=30, limits=limits) as client:

            async def create(key: str) -> None:
                body = {"name": key, "config": {"image": "nginx"}}
                reply = await client.post("/v1/apps/demo/machines", json=body, headers={"Idempotency-Key": key})
                assert reply.status_code == 200, reply.text
                answered[key] = reply.json()["id"]

            async def ready() -> bool:
                try:
                    return bool((await client.get("/v1/platform/regions")).json()["Regions"])
                except httpx.TransportError:
                    return False

            running = process.start()
            await eventually(ready, timeout_s=30)
            assert (await client.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})).status_code == 201
            keys = [f"k{number}" for number in range(200)]
            creates = [asyncio.create_task(create(key)) for key in keys]
            await eventually(lambda: len(answered) >= 50, timeout_s=30)
            running.kill()
            await asyncio.to_thread(running.communicate)
            await asyncio.gather(*creates, return_exceptions=True)
            first = dict(answered)
            assert 50 <= len(first) < 200
            process.start()
            await eventually(ready, timeout_s=30)
            await asyncio.gather(*(create(key) for key in keys))
        assert {key: answered[key] for key in first} == first, "what was acknowledged is still so"
        assert len(host.machines) == 200
        assert sorted(machine.name for machine in host.machines.values()) == sorted(keys)
    finally:
        await host.stop()


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
