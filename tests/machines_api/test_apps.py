"""Apps on the wire (conformance cases 1 to 6 and 48)."""

from __future__ import annotations

import httpx
import pytest

from caddisfly.control.settings import ControlSettings
from caddisfly.model.errors import Unprocessable
from tests.conftest import eventually
from tests.control.api import UNAUTHORIZED, Api, wait
from tests.control.fake_host import FakeHost

CREATE = {"name": "demo", "org_slug": "personal", "network": "", "app_role_id": ""}


async def test_no_token_is_401(api: Api) -> None:
    reply = await api.client().get("/v1/apps/demo")
    assert reply.status_code == 401
    assert reply.json()["error"]


async def test_an_app_of_others_is_403_and_a_free_name_404(fly: httpx.AsyncClient, theirs: httpx.AsyncClient) -> None:
    reply = await fly.get("/v1/apps/theirs")
    assert (reply.status_code, reply.json()) == (403, UNAUTHORIZED)
    reply = await fly.get("/v1/apps/nope")
    assert reply.status_code == 404
    assert "app not found" in reply.json()["error"]


async def test_create_and_show(api: Api) -> None:
    _, token = await api.tenant("personal")
    client = api.client(token)
    reply = await client.post("/v1/apps?wait=true", json=CREATE)
    assert reply.status_code == 201
    body = reply.json()
    assert body["id"]
    assert body["name"] == "demo"
    assert isinstance(body["created_at"], int)
    assert body["organization"]["slug"] == "personal"
    assert body["network"] == "default"
    assert (await client.get("/v1/apps/demo")).status_code == 200
    again = await client.post("/v1/apps?wait=true", json=CREATE)
    assert again.status_code == 422
    assert again.json()["status"] == "name_taken"
    assert again.json()["error"] == "Validation failed: Name has already been taken"


async def test_the_older_spelling_of_the_name(fly: httpx.AsyncClient) -> None:
    reply = await fly.post("/v1/apps", json={"app_name": "demo2", "org_slug": "personal"})
    assert reply.status_code == 201
    assert reply.json()["name"] == "demo2"


async def test_a_name_is_made_up_when_none_is_given(fly: httpx.AsyncClient) -> None:
    reply = await fly.post("/v1/apps", json={"org_slug": "personal"})
    assert reply.status_code == 201
    assert reply.json()["name"]


@pytest.mark.parametrize("name", ["Big", "with_underscore", "a" * 64, "-a", "a.b", "logs.*", "ä"])
async def test_a_bad_name_is_422(fly: httpx.AsyncClient, name: str) -> None:
    reply = await fly.post("/v1/apps", json={"name": name, "org_slug": "personal"})
    assert reply.status_code == 422
    assert reply.json()["error"].startswith("Validation failed: Name under 63 chars")


async def test_names_are_global(fly: httpx.AsyncClient, theirs: httpx.AsyncClient) -> None:
    reply = await theirs.post("/v1/apps", json={"name": "demo", "org_slug": "rivals"})
    assert reply.json()["status"] == "name_taken"


async def test_an_organization_of_others_looks_like_none(fly: httpx.AsyncClient, theirs: httpx.AsyncClient) -> None:
    replies = [
        await fly.post("/v1/apps", json={"name": "x", "org_slug": slug}) for slug in ("rivals", "nobody", "a\x00b")
    ]
    assert [reply.status_code for reply in replies] == [404, 404, 404]
    replies = [await fly.get("/v1/apps", params={"org_slug": slug}) for slug in ("rivals", "nobody")]
    assert [reply.status_code for reply in replies] == [404, 404]


async def test_an_idempotency_key_makes_one_app(fly: httpx.AsyncClient) -> None:
    body = {"org_slug": "personal", "idempotency_key": "k1"}
    first = await fly.post("/v1/apps", json=body)
    second = await fly.post("/v1/apps", json=body)
    assert first.json()["id"] == second.json()["id"]
    other = await fly.post("/v1/apps", json={**body, "name": "another"})
    assert other.status_code == 422


async def test_list_by_organization_and_role(fly: httpx.AsyncClient, theirs: httpx.AsyncClient) -> None:
    await fly.post("/v1/apps", json={"name": "builder", "org_slug": "personal", "app_role_id": "remote-docker-builder"})
    reply = await fly.get("/v1/apps/?org_slug=personal")
    assert reply.json()["total_apps"] == 2
    assert [app["name"] for app in reply.json()["apps"]] == ["builder", "demo"]
    reply = await fly.get("/v1/apps?org_slug=personal&app_role=remote-docker-builder")
    assert [app["name"] for app in reply.json()["apps"]] == ["builder"]
    reply = await theirs.get("/v1/apps?org_slug=personal")
    assert [app["name"] for app in reply.json()["apps"]] == ["theirs"], "personal means one's own"
    assert (await fly.get("/v1/apps")).status_code == 400


async def test_delete_takes_the_machines_along_and_frees_the_name(fly: httpx.AsyncClient, host: FakeHost) -> None:
    made = (await fly.post("/v1/apps/demo/machines", json={"config": {"image": "nginx"}})).json()
    await wait(fly, "demo", made["id"], "started")
    assert (await fly.get("/v1/apps/demo")).json()["machine_count"] == 1
    reply = await fly.delete("/v1/apps/demo")
    assert (reply.status_code, reply.content) == (202, b"")
    await eventually(lambda: host.machines[made["id"]].state == "destroyed")
    assert (await fly.get("/v1/apps/demo")).status_code == 404
    assert (await fly.delete("/v1/apps/demo")).status_code == 404
    assert (await fly.post("/v1/apps", json=CREATE)).status_code == 201
    assert (await fly.get("/v1/apps/demo/machines")).json() == []


async def test_what_is_not_there_yet_says_so(fly: httpx.AsyncClient) -> None:
    reply = await fly.get("/v1/apps/demo/volumes")
    assert reply.status_code == 501
    assert set(reply.json()) == {"error", "why", "next"}


async def test_certificates_have_no_bare_collection(fly: httpx.AsyncClient) -> None:
    assert (await fly.put("/v1/apps/demo/certificates")).status_code in (404, 405)
    assert (await fly.post("/v1/apps/demo/certificates")).status_code in (404, 405)


async def test_an_unknown_route_is_plain_text(fly: httpx.AsyncClient) -> None:
    reply = await fly.get("/v2/apps")
    assert (reply.status_code, reply.text) == (404, "404 page not found")
    assert reply.headers["fly-request-id"]


@pytest.mark.parametrize(
    "body", [b"{", b"[]", b'"x"', b"NaN", b'{"name": NaN}', b'{"name": "\\ud800"}', b"[" * 100_000, b"\xff\xfe", b"1"]
)
async def test_a_bad_body_is_400(fly: httpx.AsyncClient, body: bytes) -> None:
    for path in ("/v1/apps", "/v1/apps/demo/machines"):
        reply = await fly.post(path, content=body)
        assert reply.status_code == 400, reply.text


async def test_a_wrong_type_is_400(fly: httpx.AsyncClient) -> None:
    reply = await fly.post("/v1/apps", json={"name": ["a"], "org_slug": "personal"})
    assert reply.status_code == 400
    assert "invalid name" in reply.json()["error"]


async def test_a_huge_body_is_413_and_is_not_read(api: Api, fly: httpx.AsyncClient) -> None:
    size = api.settings.max_body_bytes + 1

    async def endless() -> object:
        for _ in range(size // 1024 + 2):
            yield b" " * 1024

    assert (await fly.post("/v1/apps", content=b" " * size)).status_code == 413
    assert (await fly.post("/v1/apps", content=endless())).status_code == 413


async def test_an_app_says_where_people_open_it(settings: ControlSettings) -> None:
    for template, url in (("http://<app>.localhost:8080", "http://demo.localhost:8080"), ("", "")):
        api = Api(settings.model_copy(update={"apps_public_url": template}))
        await api.start()
        _, token = await api.tenant(f"org{len(url)}")
        made = await api.client(token).post(
            "/v1/apps", json={"name": "demo" if url else "other", "org_slug": "personal"}
        )
        assert made.json()["url"] == url
        await api.stop()


async def test_an_image_is_resolved_as_a_create_would(api: Api, fly: httpx.AsyncClient, host: FakeHost) -> None:
    found = await fly.get("/v1/apps/demo/image?ref=nginx")
    assert found.status_code == 200
    assert (found.json()["digest"], found.json()["reference"]) == ("sha256:1", "docker.io/nginx@sha256:1")
    assert host.calls[-1][1].org_id == (await api.control.apps.find("demo")).app.organization.id
    assert (await fly.get("/v1/apps/demo/image")).status_code == 400
    host.failing["image.resolve"] = Unprocessable("failed to get manifest nope: MANIFEST_UNKNOWN")
    assert (await fly.get("/v1/apps/demo/image?ref=nope")).status_code == 422
    await host.stop()
    await eventually(lambda: not api.control.hosts.up)
    assert (await fly.get("/v1/apps/demo/image?ref=nginx")).status_code == 503


async def test_an_image_of_another_tenants_app_is_resolved_to_nothing(
    settings: ControlSettings, host: FakeHost
) -> None:
    api = Api(settings.model_copy(update={"domain": "example.test"}))
    await api.start()
    await api.ready(hosts=1)
    said = []
    for slug, app in (("rivals", "theirs"), ("personal", "demo")):
        _, token = await api.tenant(slug)
        client = api.client(token)
        assert (await client.post("/v1/apps", json={"name": app, "org_slug": slug})).status_code == 201
    for image in ("theirs", "absent"):
        reply = await client.get(f"/v1/apps/demo/image?ref=registry.example.test/{image}:v1")
        said.append((reply.status_code, reply.text.replace(image, "it")))
    assert said[0] == said[1]
    assert said[0][0] == 400
    assert host.calls == []
    assert (await client.get("/v1/apps/demo/image?ref=registry.example.test/demo:v1")).status_code == 200
    await api.stop()
