"""No token, no data; another tenant's token, no data: generated from the routes that there are.

A route that is added without saying here what it may reach fails the first test, so it cannot be forgotten.
"""

from __future__ import annotations

import re
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.routing import APIWebSocketRoute

from caddisfly.bus import contract
from caddisfly.control.control import Control
from caddisfly.control.rest import api as rest
from caddisfly.control.settings import ControlSettings
from tests.control.api import UNAUTHORIZED, Api, wait
from tests.control.fake_host import FakeHost

PUBLIC = {"/openapi.json", "/v1/openapi.json", "/healthz"}
"""What anybody may read: it says nothing about any tenant."""

OF_THE_CALLER = {
    ("GET", "/v1/apps"),
    ("POST", "/v1/apps"),
    ("GET", "/v1/platform/regions"),
    ("GET", "/v1/platform/registry"),
    ("GET", "/v1/tokens/current"),
    ("POST", "/v1/tokens/oidc"),
    ("POST", "/v1/tokens/kms"),
    ("POST", "/v1/tokens/authenticate"),
    ("POST", "/v1/tokens/authorize"),
    ("GET", "/v1/orgs/{org}/machines"),
    ("GET", "/v1/orgs/{org}/volumes"),
    ("POST", "/v1/platform/placements"),
    ("GET", "/v1/postgres"),
    ("POST", "/v1/postgres"),
}
"""Routes that name no app: what they give is the caller's own, and each is tested below or is not there yet."""


def routes(app: FastAPI) -> list[tuple[str, str]]:
    found = []
    for route in app.routes:
        path = getattr(route, "path", "")
        methods = getattr(route, "methods", None) or set()
        found += [(method, path) for method in sorted(methods) if method not in ("HEAD", "OPTIONS")]
        if not methods:
            found.append(("?", repr(route)))
    return found


def flatten() -> list[tuple[str, str]]:
    """Every route, also those that are kept in included routers."""
    app = rest.routes(Control(ControlSettings()))
    document = app.openapi()
    documented = {(method.upper(), path) for path, operations in document["paths"].items() for method in operations}
    hidden = {(method, path) for method, path in routes(app) if method != "?"} - documented
    assert hidden == {("GET", path) for path in PUBLIC}
    return sorted(documented)


ROUTES = flatten()
BODY: dict[str, Any] = {
    "config": {"image": "evil"},
    "signal": "SIGKILL",
    "cmd": "id",
    "name": "x",
    "value": "theirs",
    "values": {"A": "theirs"},
    "org_slug": "personal",
    "context": "sha256:" + "0" * 64,
    "nonce": "n",
    "groups": {"web": {"count": 0}},
}


WEBSOCKETS = ("/v1/apps/{app}/machines/{machine}/exec/stream",)
"""Tried like the others in test_attach.py: they are in no OpenAPI document."""


def test_every_websocket_is_covered() -> None:
    routers = [getattr(route, "original_router", None) for route in rest.routes(Control(ControlSettings())).routes]
    found = [route for router in routers if router for route in router.routes if isinstance(route, APIWebSocketRoute)]
    assert tuple(route.path for route in found) == WEBSOCKETS


def test_every_route_is_covered() -> None:
    assert len(ROUTES) > 70
    for method, path in ROUTES:
        assert (method, path) in OF_THE_CALLER or "/apps/{app}" in path, f"{method} {path}: whose data does it give?"
    names = {"app", "machine", "key", "policy", "volume", "name", "hostname", "ip", "org", "build", "token", "version"}
    for _, path in [*ROUTES, *(("", path) for path in WEBSOCKETS)]:
        assert set(re.findall(r"{(\w+)}", path)) <= names, f"{path}: a kind of id that no tenant test knows"


@pytest.fixture
async def machine(fly: httpx.AsyncClient) -> str:
    """A running machine of `demo`, which belongs to `personal`."""
    body = {"config": {"image": "nginx", "env": {"SECRET": "swordfish"}}}
    made = (await fly.post("/v1/apps/demo/machines", json=body)).json()
    await wait(fly, "demo", made["id"], "started")
    return str(made["id"])


async def test_nothing_without_a_token(api: Api, fly: httpx.AsyncClient, machine: str) -> None:
    client = api.client()
    for method, path in ROUTES:
        reply = await client.request(method, fill(path, app="demo", machine=machine), json=BODY)
        assert reply.status_code == 401, f"{method} {path}: {reply.status_code} {reply.text}"
        assert "swordfish" not in reply.text


async def test_nothing_of_another_tenant(
    api: Api, fly: httpx.AsyncClient, theirs: httpx.AsyncClient, host: FakeHost, machine: str
) -> None:
    """`theirs` is a good token; the ids are those of `personal`, straight and under an app of one's own."""
    before = host.machines[machine]
    host.calls.clear()
    for method, path in ROUTES:
        if (method, path) in OF_THE_CALLER and ("{" not in path or path == "/v1/orgs/{org}/machines"):
            continue
        reply = await theirs.request(method, fill(path, app="demo", machine=machine), json=BODY)
        assert reply.status_code in (403, 404, 501), f"{method} {path}: {reply.status_code}"
        if "{app}" in path:
            assert (reply.status_code, reply.json()) == (403, UNAUTHORIZED), f"{method} {path}"
        assert "swordfish" not in reply.text
        if "{machine}" in path:
            reply = await theirs.request(method, fill(path, app="theirs", machine=machine), json=BODY)
            assert reply.status_code == 404, f"{method} {path}: {reply.status_code}"
            assert "machine not found" in reply.json()["error"]
        unknown = await theirs.request(method, fill(path, app="nope", machine=machine), json=BODY)
        assert unknown.status_code == (404 if "{app}" in path else 501)
    assert host.calls == []
    assert host.machines[machine] == before


async def test_what_names_no_app_gives_ones_own(
    fly: httpx.AsyncClient, theirs: httpx.AsyncClient, machine: str
) -> None:
    paths = (
        "/v1/apps?org_slug=personal",
        "/v1/apps?org_slug=rivals",
        "/v1/tokens/current",
        "/v1/orgs/personal/machines",  # for who has one organization, an alias of it
        "/v1/orgs/rivals/machines",
    )
    for path in paths:
        reply = await theirs.get(path)
        assert reply.status_code == 200
        for word in ("demo", machine, "personal@", "swordfish"):
            assert word not in reply.text
    assert (await fly.get("/v1/orgs/rivals/machines")).status_code == 404
    assert [one["id"] for one in (await fly.get("/v1/orgs/personal/machines")).json()["machines"]] == [machine]
    assert (await theirs.post("/v1/apps", json={"name": "sneak", "org_slug": "personal"})).json()["organization"][
        "slug"
    ] == "rivals"


@pytest.mark.parametrize("follow", ["", "&follow=true"])
async def test_logs_of_another_tenant(
    theirs: httpx.AsyncClient, fly: httpx.AsyncClient, machine: str, follow: str
) -> None:
    for app in ("demo", "*", ">", "theirs.ams.>", "%3E", "demo%2E%3E"):
        reply = await theirs.get(f"/api/v1/apps/{app}/logs?instance={machine}{follow}")
        assert reply.status_code in (403, 404), f"{app}: {reply.status_code}"


async def test_a_log_line_reaches_its_own_app_only(
    api: Api, theirs: httpx.AsyncClient, fly: httpx.AsyncClient, host: FakeHost, machine: str
) -> None:
    host.lines[machine] = [
        {
            "timestamp": "2026-01-01T00:00:00.000000001Z",
            "message": "swordfish",
            "fly": {"app": {"name": "demo", "instance": machine}, "region": "ams"},
            "event": {"provider": "app"},
            "log": {"level": "info"},
        }
    ]
    assert contract.log_subject(app="demo", region="ams", machine_id=machine) == f"logs.demo.ams.{machine}"
    reply = await theirs.get(f"/api/v1/apps/theirs/logs?instance={machine}&next_token=0")
    assert reply.json()["data"] == []
    reply = await fly.get(f"/api/v1/apps/demo/logs?instance={machine}&next_token=0")
    assert [line["attributes"]["message"] for line in reply.json()["data"]] == ["swordfish"]


def fill(path: str, *, app: str, machine: str) -> str:
    others = {
        "key": "a",
        "policy": "p",
        "volume": "vol_1",
        "name": "n",
        "hostname": "h",
        "ip": "fdaa::1",
        "org": "personal",
        "token": "t",
        "build": "00000000000001",
        "version": "1",
    }
    return path.format(app=app, machine=machine, **others)
