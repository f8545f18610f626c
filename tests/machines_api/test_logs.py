"""Logs over HTTP, from a real server: pages, polling, and the live stream."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
import uvicorn

from caddisfly.bus import contract
from caddisfly.control.logs import nanoseconds
from tests.conftest import eventually
from tests.control.api import Api, wait
from tests.control.fake_host import FakeHost

LOGS = "/api/v1/apps/demo/logs"


def record(machine: str, message: str, *, second: int, app: str = "demo") -> dict[str, Any]:
    return {
        "timestamp": f"2026-01-01T00:00:{second:02}.000000007Z",
        "message": message,
        "fly": {"app": {"name": app, "instance": machine}, "region": "ams"},
        "event": {"provider": "app"},
        "log": {"level": "info"},
        "host": "h",
    }


@pytest.fixture
async def machine(fly: httpx.AsyncClient) -> str:
    made = (await fly.post("/v1/apps/demo/machines", json={"config": {"image": "nginx"}})).json()
    await wait(fly, "demo", made["id"], "started")
    return str(made["id"])


@pytest.fixture
async def served(api: Api) -> AsyncIterator[str]:
    """The base URL of a real uvicorn: an in-process transport would hold a stream back until its end."""
    config = uvicorn.Config(api.asgi, port=0, lifespan="off", log_config=None, ws="none", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    serving = asyncio.create_task(server.serve())
    await eventually(lambda: server.started)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}"
    server.should_exit = True
    await serving


def test_times_keep_their_nanoseconds() -> None:
    assert nanoseconds("1970-01-01T00:00:01.000000007Z") == 1_000_000_007
    assert nanoseconds("1970-01-01T00:00:01Z") == 1_000_000_000
    assert nanoseconds("1970-01-01T01:00:01.5+01:00") == 1_500_000_000
    with pytest.raises(ValueError, match="noon"):
        nanoseconds("noon")


async def test_pages_go_on_where_the_last_ended(fly: httpx.AsyncClient, host: FakeHost, machine: str) -> None:
    host.lines[machine] = [record(machine, f"line {second}", second=second) for second in range(3)]
    page = (await fly.get(f"{LOGS}?next_token=1")).json()
    assert [line["attributes"]["message"] for line in page["data"]] == ["line 0", "line 1", "line 2"]
    attributes = page["data"][0]["attributes"]
    assert attributes["instance"] == machine
    assert attributes["meta"]["event"]["provider"] == "app"
    token = page["meta"]["next_token"]
    again = (await fly.get(f"{LOGS}?next_token={token}")).json()
    assert again == {"data": [], "meta": {"next_token": token}}
    host.lines[machine].append(record(machine, "late", second=9))
    later = (await fly.get(f"{LOGS}?next_token={token}")).json()
    assert [line["attributes"]["message"] for line in later["data"]] == ["late"]


async def test_filters_and_bad_tokens(fly: httpx.AsyncClient, host: FakeHost, machine: str) -> None:
    host.lines[machine] = [record(machine, "x", second=0), {"message": "no time"}]
    for query, count in (("region=ams", 1), ("region=fra", 0), (f"instance={machine}", 1), ("instance=other", 0)):
        page = (await fly.get(f"{LOGS}?next_token=1&{query}")).json()
        assert len(page["data"]) == count, query
    assert (await fly.get(f"{LOGS}?next_token=yesterday")).status_code == 400


async def test_the_stream_carries_ones_own_lines_only(
    api: Api, fly: httpx.AsyncClient, theirs: httpx.AsyncClient, machine: str, served: str
) -> None:
    bus = api.control.bus

    async def publish(app: str, message: str) -> None:
        subject = contract.log_subject(app=app, region="ams", machine_id=machine)
        await bus.publish(subject, json.dumps(record(machine, message, second=1, app=app)).encode())

    headers = {"authorization": fly.headers["authorization"]}
    async with (
        httpx.AsyncClient(base_url=served, headers=headers, timeout=20) as client,
        client.stream("GET", f"{LOGS}?follow=true") as reply,
    ):
        assert reply.headers["content-type"] == "application/x-ndjson"
        lines = reply.aiter_lines()
        first = asyncio.create_task(anext(lines))

        async def heard() -> bool:
            await publish("theirs", "swordfish")
            await publish("demo", "hello")
            await asyncio.sleep(0)
            return first.done()

        await eventually(heard)
        assert json.loads(await first)["attributes"]["message"] == "hello"
        await publish("theirs", "swordfish")
        await publish("demo", "last")
        async for line in lines:
            message = json.loads(line)["attributes"]["message"]
            assert message in ("hello", "last")
            if message == "last":
                break
