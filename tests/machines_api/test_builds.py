"""Builds through the API: started, shown, followed, cancelled, and nobody else's."""

from __future__ import annotations

import json

import httpx
import pytest

from caddisfly.bus import contract
from caddisfly.control.auth.passes import Passes
from caddisfly.model.errors import Exhausted
from tests.control.api import UNAUTHORIZED, Api
from tests.control.fake_host import FakeHost

CONTEXT = "sha256:" + "0" * 64
BUILDS = "/v1/apps/demo/builds"


async def start(fly: httpx.AsyncClient, **more: object) -> dict[str, object]:
    reply = await fly.post(BUILDS, json={"context": CONTEXT, **more})
    assert reply.status_code == 201, reply.text
    return dict(reply.json())


async def test_a_build_is_started_and_shown(fly: httpx.AsyncClient, host: FakeHost) -> None:
    build = await start(fly, args={"A": "1"}, tag="v1", dockerfile="Dockerfile.dev")
    assert (build["state"], build["tag"], build["args"], build["ahead"]) == ("queued", "v1", {"A": "1"}, 0)
    assert (await fly.get(f"{BUILDS}/{build['id']}")).json() == build
    assert [one["id"] for one in (await fly.get(BUILDS)).json()["builds"]] == [build["id"]]


async def test_the_host_gets_a_pass_for_this_app_and_no_token(api: Api, fly: httpx.AsyncClient, host: FakeHost) -> None:
    await start(fly)
    (_, request) = next(call for call in host.calls if call[0] == contract.START_BUILD.name)
    found = Passes(api.settings.bus_token.get_secret_value()).read(f"Bearer {request.token}")
    assert found is not None
    assert (found.app_id, found.org_id) == (request.app.id, request.app.org_id)


async def test_a_secret_is_nowhere_in_what_comes_back(fly: httpx.AsyncClient, host: FakeHost) -> None:
    reply = await fly.post(BUILDS, json={"context": CONTEXT, "secrets": {"npmrc": "swordfish"}})
    assert reply.json()["secrets"] == ["npmrc"]
    shown = reply.text + (await fly.get(BUILDS)).text
    wrong = await fly.post(BUILDS, json={"context": CONTEXT, "secrets": {"npmrc": ["swordfish"]}})
    assert wrong.status_code == 400
    assert "swordfish" not in shown + wrong.text
    assert "swordfish" not in repr(host.calls)


async def test_the_same_key_makes_one_build(fly: httpx.AsyncClient, host: FakeHost) -> None:
    headers = {"idempotency-key": "deploy-7"}
    first, second = [(await fly.post(BUILDS, json={"context": CONTEXT}, headers=headers)).json() for _ in range(2)]
    assert first["id"] == second["id"]
    assert len(host.builds) == 1


@pytest.mark.parametrize(
    ("body", "says"),
    [
        ({}, "context"),
        ({"context": "latest"}, "context"),
        ({"context": CONTEXT, "tag": "../x"}, "tag"),
        ({"context": CONTEXT, "args": {"A=B": "x"}}, "args"),
        ({"context": CONTEXT, "secrets": {"../auth.json": "x"}}, "secrets"),
        ({"context": CONTEXT, "labels": {"": "x"}}, "labels"),
        ({"context": CONTEXT, "target": "--privileged"}, "target"),
        ({"context": CONTEXT, "no_cache": "perhaps"}, "no_cache"),
    ],
)
async def test_wrong_input_names_the_field(fly: httpx.AsyncClient, host: FakeHost, body: object, says: str) -> None:
    reply = await fly.post(BUILDS, json=body)
    assert reply.status_code == 400
    assert says in reply.json()["error"]
    assert host.builds == {}


async def test_a_log_is_read_by_offset_and_followed_to_its_end(fly: httpx.AsyncClient, host: FakeHost) -> None:
    build = await start(fly)
    host.build_lines = [{"kind": "output", "message": f"line {number}"} for number in range(3)]
    page = (await fly.get(f"{BUILDS}/{build['id']}/logs?offset=1")).json()
    assert [line["message"] for line in page["lines"]] == ["line 1", "line 2"]
    assert (page["next_offset"], page["ended"]) == (3, False)
    await fly.post(f"{BUILDS}/{build['id']}/cancel")
    reply = await fly.get(f"{BUILDS}/{build['id']}/logs?follow=true")
    assert [json.loads(line)["message"] for line in reply.text.splitlines()] == ["line 0", "line 1", "line 2"]
    assert (await fly.get(f"{BUILDS}/{build['id']}/logs?offset=-1")).status_code == 400


async def test_cancelling_twice_is_no_error(fly: httpx.AsyncClient, host: FakeHost) -> None:
    build = await start(fly)
    for _ in range(2):
        reply = await fly.post(f"{BUILDS}/{build['id']}/cancel")
        assert (reply.status_code, reply.json()["state"]) == (200, "cancelled")


@pytest.mark.parametrize("id", ["00000000000000", "nope", "%2E%2E", "*"])
async def test_a_build_that_is_not_there(fly: httpx.AsyncClient, host: FakeHost, id: str) -> None:
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/logs"), ("GET", "/logs?follow=true")):
        reply = await fly.request(method, f"{BUILDS}/{id}{path}")
        assert reply.status_code == 404, f"{method} {path}"
        assert reply.json()["error"] == "not_found: build not found"


async def test_a_build_of_another_tenant(fly: httpx.AsyncClient, theirs: httpx.AsyncClient, host: FakeHost) -> None:
    build = await start(fly)
    for method, path in (("GET", ""), ("POST", "/cancel"), ("GET", "/logs"), ("GET", "/logs?follow=true")):
        reply = await theirs.request(method, f"{BUILDS}/{build['id']}{path}")
        assert (reply.status_code, reply.json()) == (403, UNAUTHORIZED)
        reply = await theirs.request(method, f"/v1/apps/theirs/builds/{build['id']}{path}")
        assert reply.status_code == 404
    assert host.builds[str(build["id"])].state == "queued"


async def test_a_platform_that_does_not_build_says_so(fly: httpx.AsyncClient, host: FakeHost) -> None:
    host.builds_here = False
    assert (await fly.post(BUILDS, json={"context": CONTEXT})).status_code == 501


async def test_too_many_builds_are_refused_as_such(fly: httpx.AsyncClient, host: FakeHost) -> None:
    host.failing[contract.START_BUILD.name] = Exhausted("20 builds of this organization are waiting already")
    reply = await fly.post(BUILDS, json={"context": CONTEXT})
    assert reply.status_code == 429
    assert reply.headers["retry-after"]


@pytest.mark.parametrize(("name", "push"), [("demo", True), ("sibling", False), ("theirs", None), ("nope", None)])
async def test_the_registry_is_told_how_far_a_pass_reaches(
    api: Api, fly: httpx.AsyncClient, theirs: httpx.AsyncClient, name: str, push: bool | None
) -> None:
    assert (await fly.post("/v1/apps", json={"name": "sibling", "org_slug": "personal"})).status_code == 201
    app = (await api.control.apps.find("demo")).app
    passes = Passes(api.settings.bus_token.get_secret_value())
    mine = passes.mint(app_id=app.id, org_id=app.organization.id, ttl_s=60)
    request = contract.AskAccess(authorization=f"Bearer {mine}", names=(name,))
    granted = await api.control.repositories.access(request)
    assert [access.push for access in granted.repositories] == ([] if push is None else [push])


async def test_the_api_does_not_take_a_pass(api: Api, fly: httpx.AsyncClient) -> None:
    app = (await api.control.apps.find("demo")).app
    passes = Passes(api.settings.bus_token.get_secret_value())
    client = api.client(passes.mint(app_id=app.id, org_id=app.organization.id, ttl_s=60))
    assert (await client.get("/v1/apps/demo")).status_code == 401
