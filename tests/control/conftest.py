"""Fixtures that compose upward: database, bus → control → control with a host."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
from pydantic import SecretStr

from caddisfly.bus.sealing import new_key
from caddisfly.control.records import schema
from caddisfly.control.records.database import Database
from caddisfly.control.settings import ControlSettings
from tests.conftest import NatsServer
from tests.control.api import Api
from tests.control.fake_host import FakeHost
from tests.control.postgres import Postgres


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[Postgres]:
    cluster = Postgres()
    try:
        cluster.start()
        yield cluster
    finally:
        cluster.close()


@pytest.fixture
def postgres(postgres_cluster: Postgres) -> Postgres:
    """The cluster, running, whatever the test before did to it."""
    if not postgres_cluster.running:
        postgres_cluster.start()
    return postgres_cluster


@pytest.fixture(params=["sqlite", "postgresql"])
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database: every test that takes it runs on both kinds."""
    if request.param == "sqlite":
        return f"sqlite+aiosqlite:///{tmp_path / 'records.db'}"
    cluster: Postgres = request.getfixturevalue("postgres")
    return cluster.new_database()


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    await schema.upgrade(database_url, timeout_s=5)
    instance = Database(database_url, timeout_s=5)
    yield instance
    await instance.close()


@pytest.fixture
def settings(nats: NatsServer, tmp_path: Path) -> ControlSettings:
    return ControlSettings(
        data_directory=tmp_path / "control",
        bus_url=nats.url,
        bus_token=nats.token,
        region="ams",
        host_silence_s=2,
        apps_reload_s=0.3,
        log_hold_s=0.2,
        database_timeout_s=5,
        secrets_key=SecretStr(new_key()),
    )


@pytest.fixture
async def empty_api(settings: ControlSettings) -> AsyncIterator[Api]:
    """A control without any host."""
    instance = Api(settings)
    await instance.start()
    await instance.ready()
    yield instance
    await instance.stop()


@pytest.fixture
async def host(nats: NatsServer) -> AsyncIterator[FakeHost]:
    instance = FakeHost(url=nats.url, token=nats.token)
    await instance.start()
    yield instance
    await instance.stop()


@pytest.fixture
async def api(empty_api: Api, host: FakeHost) -> Api:
    await empty_api.ready(hosts=1)
    return empty_api


@pytest.fixture
async def fly(api: Api) -> httpx.AsyncClient:
    """A client of the organization `personal`, which has an app `demo`."""
    _, token = await api.tenant("personal")
    client = api.client(token)
    reply = await client.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})
    assert reply.status_code == 201, reply.text
    return client


@pytest.fixture
async def theirs(api: Api) -> httpx.AsyncClient:
    """A client of another organization, `rivals`, which has an app `theirs`."""
    _, token = await api.tenant("rivals")
    client = api.client(token)
    reply = await client.post("/v1/apps", json={"name": "theirs", "org_slug": "rivals"})
    assert reply.status_code == 201, reply.text
    return client
