"""Control when what it depends on is away (faults 4, 5 and 7): it says 503 before acting, and comes back by itself."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from pydantic import SecretStr

from caddisfly.bus.catalog import AppEntry, Publication
from caddisfly.control.records.apps import AppRecord
from caddisfly.control.settings import ControlSettings
from caddisfly.model.errors import Unavailable
from tests.conftest import NatsServer, eventually
from tests.control.api import Api, wait
from tests.control.fake_host import FakeHost
from tests.control.postgres import Postgres

MACHINES = "/v1/apps/demo/machines"
NGINX = {"config": {"image": "nginx"}}


async def test_postgresql_goes_and_comes_back(settings: ControlSettings, host: FakeHost, postgres: Postgres) -> None:
    url = SecretStr(postgres.new_database())
    api = Api(settings.model_copy(update={"database_url": url, "token_cache_s": 0, "app_cache_s": 0}))
    await api.start()
    try:
        await api.ready(hosts=1)
        _, token = await api.tenant("personal")
        client = api.client(token)
        assert (await client.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})).status_code == 201
        machine = (await client.post(MACHINES, json=NGINX)).json()["id"]
        postgres.crash()
        for method, path in (("GET", "/v1/apps/demo"), ("GET", MACHINES), ("POST", "/v1/apps"), ("POST", MACHINES)):
            reply = await client.request(method, path, json=NGINX)
            assert reply.status_code == 503, reply.text
            assert reply.headers["retry-after"]
            assert "SELECT" not in reply.text
        assert len(host.machines) == 1
        postgres.start()
        assert (await client.get("/v1/apps/demo")).status_code == 200
        assert (await client.get(f"{MACHINES}/{machine}")).status_code == 200
        assert (await client.post("/v1/apps", json={"name": "more", "org_slug": "personal"})).status_code == 201
    finally:
        await api.stop()


async def test_control_starts_before_its_database(settings: ControlSettings, postgres: Postgres) -> None:
    url = postgres.new_database()
    postgres.crash()
    api = Api(settings.model_copy(update={"database_url": SecretStr(url)}))
    await api.start()
    try:
        client = api.client("fo1_whoever")
        assert (await client.get("/v1/apps/demo")).status_code == 503
        postgres.start()

        async def recognised() -> bool:
            return (await client.get("/v1/apps/demo")).status_code == 401

        await eventually(recognised)
    finally:
        await api.stop()


async def test_control_starts_and_serves_records_without_the_bus(settings: ControlSettings, nats: NatsServer) -> None:
    nats.kill()
    api = Api(settings)
    await api.start()
    try:
        _, token = await api.tenant("personal")
        client = api.client(token)
        assert (await client.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})).status_code == 201
        assert (await client.get("/v1/apps/demo")).status_code == 200
        assert (await client.get(MACHINES)).status_code == 503
        assert (await client.post(MACHINES, json=NGINX)).status_code == 503
        assert (await client.delete("/v1/apps/demo")).status_code == 503
        assert (await client.get("/api/v1/apps/demo/logs?follow=true")).status_code == 503
        nats.start()
        await api.ready()
        assert (await client.get(MACHINES)).json() == []
        await eventually(lambda: "demo" in api.control.projection.apps)
    finally:
        await api.stop()


async def test_machines_are_still_read_while_the_bus_is_away(fly: httpx.AsyncClient, nats: NatsServer) -> None:
    machine = (await fly.post(MACHINES, json=NGINX)).json()["id"]
    await wait(fly, "demo", machine, "started")
    nats.kill()

    async def unknown() -> bool:
        return bool((await fly.get(f"{MACHINES}/{machine}")).json()["host_status"] == "unknown")

    await eventually(unknown)
    assert (await fly.get(MACHINES)).json()[0]["state"] == "started"
    assert (await fly.post(f"{MACHINES}/{machine}/stop")).status_code == 503
    assert (await fly.post(MACHINES, json=NGINX)).status_code == 503
    nats.start()

    async def stopped() -> bool:
        return (await fly.post(f"{MACHINES}/{machine}/stop")).status_code == 200

    await eventually(stopped)


async def test_a_deletion_that_met_a_lost_host_goes_on_by_itself(
    api: Api, fly: httpx.AsyncClient, host: FakeHost
) -> None:
    machine = (await fly.post(MACHINES, json=NGINX)).json()["id"]
    await wait(fly, "demo", machine, "started")
    host.failing["machine.destroy"] = Unavailable("rebooting")
    assert (await fly.delete("/v1/apps/demo")).status_code == 202
    assert (await fly.get("/v1/apps/demo")).status_code == 200, "it is not gone before its machines are"
    reply = await fly.post(MACHINES, json=NGINX)
    assert reply.status_code == 412
    host.failing.clear()

    async def gone() -> bool:
        return (await fly.get("/v1/apps/demo")).status_code == 404

    await eventually(gone)
    assert host.machines[machine].state in ("destroying", "destroyed")
    await eventually(lambda: "demo" not in api.control.projection.apps)


async def test_a_deletion_survives_its_control(settings: ControlSettings, fly: httpx.AsyncClient, api: Api) -> None:
    app = (await api.control.apps.find("demo")).app
    await api.control.apps.begin_delete(app)
    another = Api(settings)
    await another.start()
    try:

        async def gone() -> bool:
            return (await fly.get("/v1/apps/demo")).status_code == 404

        await eventually(gone)
    finally:
        await another.stop()


async def test_the_catalog_is_what_sql_says(api: Api, fly: httpx.AsyncClient) -> None:
    """A lost key comes back, and one that stands for no app goes, both without a restart."""
    projection = api.control.projection
    await eventually(lambda: "demo" in projection.apps)
    ghost = AppEntry(id="g", name="ghost", org_id="o", org_slug="o", network="default", network_id=1)
    stranger = Publication(api.control.bus, owner="stranger", owns=lambda key, value: False)
    await stranger.put("app.ghost", ghost.model_dump())
    await stranger.remove("app.demo")
    await eventually(lambda: "ghost" in projection.apps and "demo" not in projection.apps)
    await eventually(lambda: "ghost" not in projection.apps and "demo" in projection.apps)


async def test_two_controls_leave_each_others_apps_alone(settings: ControlSettings, api: Api) -> None:
    _, token = await api.tenant("personal")
    other = Api(settings.model_copy(update={"apps_reload_s": 0.05}))
    await other.start()
    try:
        await other.ready()
        clients = [api.client(token), other.client(token)]
        names = [f"app-{number}" for number in range(20)]
        replies = await asyncio.gather(
            *(
                clients[number % 2].post("/v1/apps", json={"name": name, "org_slug": "personal"})
                for number, name in enumerate(names)
            )
        )
        assert {reply.status_code for reply in replies} == {201}
        await eventually(lambda: set(names) <= set(other.control.projection.apps))
        assert (await clients[0].delete("/v1/apps/app-0")).status_code == 202
        await eventually(lambda: "app-0" not in other.control.projection.apps)
    finally:
        await other.stop()


async def test_a_bug_is_answered_without_its_cause(
    api: Api, fly: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def broken(*_: object, **__: object) -> None:
        raise ZeroDivisionError("the secret is swordfish")

    monkeypatch.setattr(api.control.apps, "find", broken)
    reply = await fly.get("/v1/apps/demo")
    assert (reply.status_code, reply.json()["error"]) == (500, "unknown: internal error")
    assert "swordfish" not in reply.text


async def test_it_stops_although_a_cancellation_was_swallowed(
    settings: ControlSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`wait_for` of Python 3.11 returns a result that came with the cancellation, and drops the cancellation."""
    api = Api(settings)
    reached = asyncio.Event()

    async def load() -> list[AppRecord]:
        reached.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            return []
        raise AssertionError

    monkeypatch.setattr(api.control.publication, "load", load)
    await api.start()
    await reached.wait()
    async with asyncio.timeout(5):
        await api.stop()
