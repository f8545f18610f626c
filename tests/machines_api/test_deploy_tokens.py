"""Tokens narrowed to one app (reference machines-api, A5)."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import httpx
import pytest
from sqlalchemy import delete

from caddisfly.control.records.tables import MembershipRow
from caddisfly.model.machine import wall_ms
from tests.control.api import UNAUTHORIZED, Api
from tests.machines_api.test_tenants import BODY, ROUTES, fill

YEAR_MS = 365 * 24 * 3_600_000


async def narrowed(api: Api, fly: httpx.AsyncClient, app: str = "demo", **body: Any) -> tuple[httpx.AsyncClient, str]:
    """A client with a new token of `app`, and the token's id."""
    reply = await fly.post(f"/v1/apps/{app}/deploy_token", json=body)
    assert reply.status_code == 200, reply.text
    made = reply.json()
    assert made["token"].startswith("FlyV1 fo1_")
    return api.client(header=made["token"]), made["id"]


async def stored(fly: httpx.AsyncClient) -> dict[str, Any]:
    """The one token that `demo` has."""
    (found,) = (await fly.get("/v1/apps/demo/deploy_tokens")).json()["tokens"]
    return dict(found)


async def test_it_reaches_its_app_and_says_so(api: Api, fly: httpx.AsyncClient) -> None:
    client, _ = await narrowed(api, fly)
    made = await client.post("/v1/apps/demo/machines", json={"config": {"image": "nginx"}})
    assert made.status_code == 200
    (facts,) = (await client.get("/v1/tokens/current")).json()["tokens"]
    assert (facts["apps"], facts["org_slug"]) == (["demo"], "personal")


async def test_it_reaches_nothing_else_of_its_organization(api: Api, fly: httpx.AsyncClient) -> None:
    """Each route that names an app, with a Machine of the app next door."""
    assert (await fly.post("/v1/apps", json={"name": "next-door", "org_slug": "personal"})).status_code == 201
    body = {"config": {"image": "nginx", "env": {"SECRET": "swordfish"}}}
    machine = (await fly.post("/v1/apps/next-door/machines", json=body)).json()["id"]
    client, _ = await narrowed(api, fly)
    for method, path in ROUTES:
        if "{app}" not in path:
            continue
        reply = await client.request(method, fill(path, app="next-door", machine=machine), json=BODY)
        assert (reply.status_code, reply.json()) == (403, UNAUTHORIZED), f"{method} {path}"
        if "{machine}" in path:
            reply = await client.request(method, fill(path, app="demo", machine=machine), json=BODY)
            assert reply.status_code == 404, f"{method} {path}: {reply.status_code}"
    assert [app["name"] for app in (await client.get("/v1/apps?org_slug=personal")).json()["apps"]] == ["demo"]
    listed = await client.get("/v1/orgs/personal/machines?include_deleted=true")
    assert (listed.status_code, listed.json()["machines"]) == (200, [])
    made = await client.post("/v1/apps", json={"name": "sneaky", "org_slug": "personal"})
    assert made.status_code == 403
    assert "one app" in made.json()["why"]
    assert (await fly.get("/v1/apps/sneaky")).status_code == 404


async def test_together_with_a_wider_token_the_wider_one_counts(api: Api, fly: httpx.AsyncClient) -> None:
    token = (await fly.post("/v1/apps/demo/deploy_token")).json()["token"]
    wide = fly.headers["authorization"].removeprefix("Bearer ")
    client = api.client(header=f"{token},{wide}")
    assert (await client.post("/v1/apps", json={"name": "another", "org_slug": "personal"})).status_code == 201


@pytest.mark.parametrize(("body", "lasts_ms"), [({}, 20 * YEAR_MS), ({"expiry": "24h"}, YEAR_MS // 365)])
async def test_it_ends_when_it_was_asked_to(
    api: Api, fly: httpx.AsyncClient, body: dict[str, str], lasts_ms: int
) -> None:
    await narrowed(api, fly, **body)
    ends = datetime.fromisoformat((await stored(fly))["expires_at"]).timestamp() * 1000
    assert abs(ends - wall_ms() - lasts_ms) < 60_000


async def test_one_made_with_another_ends_no_later(api: Api, fly: httpx.AsyncClient) -> None:
    short, first = await narrowed(api, fly, expiry="1h")
    await narrowed(api, short, expiry="100h")
    tokens = (await fly.get("/v1/apps/demo/deploy_tokens")).json()["tokens"]
    assert tokens[0]["id"] == first
    assert tokens[0]["expires_at"] == tokens[1]["expires_at"]


@pytest.mark.parametrize("expiry", ["soon", "0s", "-1h", "1d"])
async def test_an_expiry_that_makes_no_sense_is_refused(fly: httpx.AsyncClient, expiry: str) -> None:
    reply = await fly.post("/v1/apps/demo/deploy_token", json={"expiry": expiry})
    assert reply.status_code == 400
    assert "invalid expiry" in reply.json()["error"]
    assert (await fly.get("/v1/apps/demo/deploy_tokens")).json() == {"tokens": []}


async def test_a_revoked_one_is_no_good_and_not_listed(api: Api, fly: httpx.AsyncClient) -> None:
    client, id = await narrowed(api, fly, name="for CI")
    assert (await client.get("/v1/apps/demo")).status_code == 200
    listed = await stored(fly)
    assert (listed["id"], listed["name"], listed["user"]) == (id, "for CI", "personal@example.com")
    assert (await fly.delete(f"/v1/apps/demo/deploy_tokens/{id}")).json() == {"ok": True}
    assert (await client.get("/v1/apps/demo")).status_code == 401
    assert (await fly.get("/v1/apps/demo/deploy_tokens")).json() == {"tokens": []}


async def test_only_tokens_of_the_app_itself_are_revoked(
    api: Api, fly: httpx.AsyncClient, theirs: httpx.AsyncClient
) -> None:
    _, id = await narrowed(api, fly)
    (mine,) = (await fly.get("/v1/tokens/current")).json()["tokens"]
    assert (await theirs.delete(f"/v1/apps/theirs/deploy_tokens/{id}")).status_code == 404
    assert (await fly.delete(f"/v1/apps/demo/deploy_tokens/{mine['token_id']}")).status_code == 404
    assert (await stored(fly))["id"] == id


async def test_it_goes_with_its_app(api: Api, fly: httpx.AsyncClient) -> None:
    """Also when the name comes back."""
    client, _ = await narrowed(api, fly)
    assert (await fly.delete("/v1/apps/demo")).status_code == 202
    assert (await fly.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})).status_code == 201
    assert (await client.get("/v1/apps/demo")).status_code in (401, 403)
    assert (await fly.get("/v1/apps/demo/deploy_tokens")).json() == {"tokens": []}


async def test_whoever_leaves_the_organization_takes_them_along(api: Api, fly: httpx.AsyncClient) -> None:
    client, _ = await narrowed(api, fly)
    async with api.control.database.writing() as session:
        await session.execute(delete(MembershipRow).where(MembershipRow.user_id == api.users["personal"]))
    assert (await client.get("/v1/apps/demo")).status_code == 403
