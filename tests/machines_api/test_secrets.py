"""Secrets of apps (reference machines-api, S1): what is told of them, and what a host is given."""

from __future__ import annotations

import sqlite3
from typing import Any

import httpx
import pytest

from caddisfly.bus.sealing import Box
from caddisfly.control.settings import ControlSettings
from tests.control.api import UNAUTHORIZED, Api
from tests.control.fake_host import FakeHost

SECRETS = "/v1/apps/demo/secrets"
MACHINES = "/v1/apps/demo/machines"
CONFIG = {"config": {"image": "nginx"}}


async def put(fly: httpx.AsyncClient, **values: str | None) -> int:
    """The version that they make."""
    reply = await fly.post(SECRETS, json={"values": values})
    assert reply.status_code == 200, reply.text
    return int(reply.json()["version"])


async def test_they_are_set_listed_and_removed_without_their_values(fly: httpx.AsyncClient) -> None:
    assert (await fly.get(SECRETS)).json() == {"secrets": []}
    first = await put(fly, B="swordfish", A="1")
    listed = await fly.get(SECRETS)
    assert [secret["name"] for secret in listed.json()["secrets"]] == ["A", "B"]
    assert "swordfish" not in listed.text
    assert all("value" not in secret for secret in listed.json()["secrets"])
    reply = await fly.post(SECRETS, json={"values": {"A": "2", "B": None, "NOPE": None}})
    assert "B" not in [secret["name"] for secret in reply.json()["secrets"]]
    assert reply.json()["version"] == first + 1
    assert (await fly.get(f"{SECRETS}/B")).status_code == 404


async def test_one_alone(fly: httpx.AsyncClient) -> None:
    made = await fly.post(f"{SECRETS}/TOKEN", json={"value": "swordfish"})
    assert made.status_code == 201
    assert made.json()["version"] == made.json()["Version"] == 1
    assert "swordfish" not in made.text
    assert (await fly.get(f"{SECRETS}/TOKEN")).json()["digest"] == made.json()["digest"]
    assert (await fly.delete(f"{SECRETS}/TOKEN")).json()["version"] == 2
    assert (await fly.delete(f"{SECRETS}/TOKEN")).status_code == 404


async def test_asking_for_nothing_gives_the_newest_version(fly: httpx.AsyncClient) -> None:
    """flyctl does that to learn it."""
    version = await put(fly, A="1")
    assert await put(fly) == version
    assert await put(fly, NOPE=None) == version


async def test_a_digest_tells_whether_a_value_is_the_same_and_nothing_else(
    fly: httpx.AsyncClient, theirs: httpx.AsyncClient
) -> None:
    await put(fly, A="same", B="same", C="other")
    a, b, c = [(await fly.get(f"{SECRETS}/{name}")).json()["digest"] for name in "ABC"]
    assert a == b != c
    await theirs.post("/v1/apps/theirs/secrets", json={"values": {"A": "same"}})
    assert (await theirs.get("/v1/apps/theirs/secrets/A")).json()["digest"] != a


async def test_values_are_shown_only_to_who_reaches_the_whole_organization(api: Api, fly: httpx.AsyncClient) -> None:
    await put(fly, A="swordfish")
    shown = await fly.get(f"{SECRETS}?show_secrets=true")
    assert shown.json()["secrets"][0]["value"] == "swordfish"
    token = (await fly.post("/v1/apps/demo/deploy_token")).json()["token"]
    narrow = api.client(header=token)
    for path in (f"{SECRETS}?show_secrets=true", f"{SECRETS}/A?show_secrets=true"):
        reply = await narrow.get(path)
        assert reply.status_code == 403
        assert "swordfish" not in reply.text
    assert (await narrow.get(SECRETS)).status_code == 200
    assert (await narrow.post(SECRETS, json={"values": {"A": "new"}})).status_code == 200


async def test_they_rest_sealed(api: Api, fly: httpx.AsyncClient, settings: ControlSettings) -> None:
    """Read as someone with a copy of the database would."""
    await put(fly, A="swordfish", B="swordfish")
    dump = "\n".join(sqlite3.connect(settings.data_directory / "control.db").iterdump())
    assert "swordfish" not in dump
    assert settings.secrets_key.get_secret_value() not in dump
    app_id = (await fly.get("/v1/apps/demo")).json()["id"]
    sealed = {secret.name: secret.sealed for secret in (await api.control.safe.of(app_id)).secrets}
    assert sealed["A"] != sealed["B"]
    assert Box(settings.secrets_key.get_secret_value()).open_all(sealed, app_id=app_id) == {
        "A": "swordfish",
        "B": "swordfish",
    }


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"values": {"1A": "x"}}, "invalid name"),
        ({"values": {"A-B": "x"}}, "invalid name"),
        ({"values": {"": "x"}}, "invalid name"),
        ({"values": {"A": 7}}, "text or null"),
        ({"values": ["A"]}, "invalid values"),
        ({"values": {"A": "a\0b"}}, "zero byte"),
        ({"values": {"A": "x" * 65_537}}, "too large"),
        ({"values": {f"A{number}": "x" * 60_000 for number in range(5)}}, "too large"),
    ],
)
async def test_what_cannot_be_one_is_refused_with_nothing_changed(
    fly: httpx.AsyncClient, body: dict[str, Any], said: str
) -> None:
    version = await put(fly, KEPT="1")
    reply = await fly.post(SECRETS, json=body)
    assert (reply.status_code, said in reply.text) == (400, True), reply.text
    assert [secret["name"] for secret in (await fly.get(SECRETS)).json()["secrets"]] == ["KEPT"]
    assert await put(fly) == version


async def test_a_machine_gets_the_newest_set_sealed_when_it_is_made_and_when_it_is_updated(
    api: Api, fly: httpx.AsyncClient, host: FakeHost, settings: ControlSettings
) -> None:
    box = Box(settings.secrets_key.get_secret_value())
    app_id = (await fly.get("/v1/apps/demo")).json()["id"]
    first = await put(fly, A="swordfish")
    machine = (await fly.post(MACHINES, json=CONFIG)).json()["id"]
    given = host.given[machine]
    assert given is not None
    assert given.version == first
    assert "swordfish" not in str(given)
    assert box.open_all(given.values, app_id=app_id) == {"A": "swordfish"}
    second = await put(fly, A="shark")
    assert host.given[machine] is given, "setting one changes no Machine"
    assert (await fly.post(f"{MACHINES}/{machine}", json=CONFIG)).status_code == 200
    renewed = host.given[machine]
    assert renewed is not None
    assert renewed.version == second
    skipping = (await fly.post(MACHINES, json={**CONFIG, "skip_secrets": True})).json()["id"]
    assert host.given[skipping] is None


async def test_a_set_that_is_not_there_is_waited_for_by_nobody(fly: httpx.AsyncClient, host: FakeHost) -> None:
    version = await put(fly, A="1")
    reply = await fly.post(MACHINES, json={**CONFIG, "min_secrets_version": version + 1})
    assert (reply.status_code, "are not there" in reply.json()["error"]) == (412, True)
    assert host.machines == {}
    assert (await fly.get(f"{SECRETS}?min_version={version + 1}")).status_code == 412
    assert (await fly.get(f"{SECRETS}?version={version}")).status_code == 200
    reply = await fly.post(MACHINES, json={**CONFIG, "min_secrets_version": version})
    assert reply.status_code == 200


async def test_they_go_with_their_app(fly: httpx.AsyncClient) -> None:
    await put(fly, A="swordfish")
    assert (await fly.delete("/v1/apps/demo")).status_code == 202
    assert (await fly.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})).status_code == 201
    assert (await fly.get(SECRETS)).json() == {"secrets": []}


async def test_another_tenant_reads_and_writes_none(fly: httpx.AsyncClient, theirs: httpx.AsyncClient) -> None:
    await put(fly, A="swordfish")
    for reply in (
        await theirs.get(f"{SECRETS}?show_secrets=true"),
        await theirs.post(SECRETS, json={"values": {"A": None}}),
        await theirs.delete(f"{SECRETS}/A"),
    ):
        assert (reply.status_code, reply.json()) == (403, UNAUTHORIZED)
    assert (await fly.get(f"{SECRETS}/A")).status_code == 200
