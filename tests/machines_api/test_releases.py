"""Releases and desired counts of an app, as clients see them."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.control.api import Api

RELEASES = "/v1/apps/demo/releases"
SCALE = "/v1/apps/demo/scale"
DEFINITION = {"app": "demo", "processes": {"web": "serve"}, "nothing": None}


async def begin(fly: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    reply = await fly.post(RELEASES, json=body)
    assert reply.status_code == 201, reply.text
    made: dict[str, Any] = reply.json()
    return made


async def test_a_release_from_first_to_last(fly: httpx.AsyncClient) -> None:
    made = await begin(fly, image="nginx", strategy="bluegreen", definition=DEFINITION, description="by hand")
    assert (made["version"], made["status"], made["in_progress"], made["stable"]) == (1, "pending", True, False)
    assert (made["strategy"], made["image_ref"], made["description"]) == ("BLUEGREEN", "nginx", "by hand")
    assert made["user"]["email"] == "personal@example.com"
    assert made["definition"] == DEFINITION
    assert made["expires_at"].endswith("Z")
    patch = {"nonce": made["nonce"], "status": "complete", "progress": {"at": "end"}}
    ended = await fly.patch(f"{RELEASES}/1", json=patch)
    assert (ended.json()["stable"], ended.json()["expires_at"], ended.json()["progress"]) == (True, None, {"at": "end"})
    (listed,) = (await fly.get(RELEASES)).json()["releases"]
    assert "definition" not in listed
    for version in ("1", "v1", "current", "latest"):
        shown = await fly.get(f"{RELEASES}/{version}")
        assert shown.json() == ended.json()
        assert made["nonce"] not in shown.text


async def test_while_one_is_under_way_there_is_no_other(fly: httpx.AsyncClient) -> None:
    await begin(fly, ttl=90)
    reply = await fly.post(RELEASES, json={})
    assert reply.status_code == 409
    assert "lease currently held by personal@example.com, expires at 20" in reply.json()["error"]
    assert reply.json()["status"] == "release_under_way"
    assert (await fly.get(f"{RELEASES}/current")).status_code == 404


async def test_an_idempotency_key_gives_the_same_release_again(fly: httpx.AsyncClient) -> None:
    headers = {"idempotency-key": "k"}
    first, second = [(await fly.post(RELEASES, json={"image": "nginx"}, headers=headers)).json() for _ in range(2)]
    assert first == second
    other = await fly.post(RELEASES, json={"image": "caddy"}, headers=headers)
    assert other.status_code == 422


@pytest.mark.parametrize(
    ("method", "path", "body", "said"),
    [
        ("POST", "", {"strategy": "hope"}, "invalid strategy"),
        ("POST", "", {"definition": ["a"]}, "definition"),
        ("POST", "", {"image": "a\0b"}, "zero byte"),
        ("POST", "", {"ttl": -1}, "ttl"),
        ("PATCH", "/1", {"status": "done"}, "invalid status"),
        ("PATCH", "/current", {}, "must be a whole number"),
        ("GET", "/newest", None, "invalid version"),
        ("GET", "?limit=0", None, "invalid limit"),
    ],
)
async def test_what_makes_no_sense_is_refused(
    fly: httpx.AsyncClient, method: str, path: str, body: Any, said: str
) -> None:
    reply = await fly.request(method, f"{RELEASES}{path}", json=body)
    assert (reply.status_code, said in reply.text) == (400, True), reply.text


async def test_a_token_of_the_app_alone_may_deploy(api: Api, fly: httpx.AsyncClient) -> None:
    token = (await fly.post("/v1/apps/demo/deploy_token")).json()["token"]
    made = await begin(api.client(header=token))
    assert made["user"]["email"] == "personal@example.com"


async def test_counts_are_remembered_by_group(fly: httpx.AsyncClient) -> None:
    assert (await fly.get(SCALE)).json() == {"groups": {}}
    web = {"count": 2, "regions": ["ams"], "max_per_region": 1}
    await fly.put(SCALE, json={"groups": {"web": web, "worker": {"count": 0}}})
    none = {"count": 0, "regions": [], "max_per_region": None}
    assert (await fly.get(SCALE)).json() == {"groups": {"web": web, "worker": none}}
    assert (await fly.put(SCALE, json={"groups": {"web": None}})).json() == {"groups": {"worker": none}}


@pytest.mark.parametrize(
    "said",
    [{"count": -1}, {"regions": ["ams"]}, {"count": 1, "regions": ["a,b"]}, {"count": 1, "max_per_region": 0}, 3],
)
async def test_a_count_that_cannot_be_is_refused(fly: httpx.AsyncClient, said: Any) -> None:
    reply = await fly.put(SCALE, json={"groups": {"web": said}})
    assert (reply.status_code, "groups.web" in reply.json()["error"]) == (400, True), reply.text
    assert (await fly.put(SCALE, json={"groups": {"a,b": {"count": 1}}})).status_code == 400
