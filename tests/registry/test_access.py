"""Whose is what: every endpoint says of others' repositories what it says of those that do not exist."""

from __future__ import annotations

from collections.abc import AsyncIterator

import httpx
import pytest
from pydantic import SecretStr

from caddisfly.host.images.manifest import OCI_MANIFEST
from caddisfly.host.registry.settings import RegistrySettings
from tests.registry.conftest import (
    APP,
    FOREIGN_APP,
    FOREIGN_TOKEN,
    OTHER_APP,
    TOKEN,
    Artifact,
    MadeUpControl,
    Served,
    push,
    push_blob,
    push_manifest,
    serving,
    sha,
)

IMAGE = Artifact()
BLOB = sha(IMAGE.layers[0])
UPLOAD = "0b0c0d0e-0000-4000-8000-000000000000"
ENDPOINTS = [
    ("GET", "tags/list"),
    ("GET", "manifests/v1"),
    ("HEAD", "manifests/v1"),
    ("GET", f"manifests/{IMAGE.digest}"),
    ("PUT", "manifests/v1"),
    ("PUT", f"manifests/{IMAGE.digest}"),
    ("DELETE", "manifests/v1"),
    ("DELETE", f"manifests/{IMAGE.digest}"),
    ("GET", f"referrers/{IMAGE.digest}"),
    ("GET", f"blobs/{BLOB}"),
    ("HEAD", f"blobs/{BLOB}"),
    ("DELETE", f"blobs/{BLOB}"),
    ("POST", "blobs/uploads/"),
    ("POST", f"blobs/uploads/?digest={BLOB}"),
    ("POST", f"blobs/uploads/?mount={BLOB}&from={OTHER_APP}"),
    ("GET", f"blobs/uploads/{UPLOAD}"),
    ("PATCH", f"blobs/uploads/{UPLOAD}"),
    ("PUT", f"blobs/uploads/{UPLOAD}?digest={BLOB}"),
    ("DELETE", f"blobs/uploads/{UPLOAD}"),
]


@pytest.fixture
async def stranger(served: Served) -> AsyncIterator[httpx.AsyncClient]:
    await push(served.http, IMAGE, "v1")
    await push(served.http, IMAGE, "v1", app=OTHER_APP)
    async with served.client(FOREIGN_TOKEN) as http:
        yield http


@pytest.mark.parametrize(("method", "path"), ENDPOINTS)
async def test_another_tenant_gets_what_it_would_get_if_there_were_nothing(
    served: Served, stranger: httpx.AsyncClient, method: str, path: str
) -> None:
    headers = {"Content-Type": OCI_MANIFEST}
    answer = await stranger.request(method, f"/v2/{APP}/{path}", content=IMAGE.manifest, headers=headers)
    nothing = await stranger.request(method, f"/v2/absent/{path}", content=IMAGE.manifest, headers=headers)
    assert answer.status_code == 404
    for name in ("status_code", "text"):
        assert getattr(answer, name).__repr__().replace(APP, "absent") == repr(getattr(nothing, name))
    assert dict(answer.headers) | {"date": "", "content-length": ""} == dict(nothing.headers) | {
        "date": "",
        "content-length": "",
    }
    assert (await served.http.get(f"/v2/{APP}/manifests/v1")).content == IMAGE.manifest
    assert (await served.http.get(f"/v2/{APP}/blobs/{BLOB}")).content == IMAGE.layers[0]


async def test_nothing_is_mounted_from_what_one_may_not_read(stranger: httpx.AsyncClient) -> None:
    query = {"mount": BLOB, "from": APP}
    assert (await stranger.post(f"/v2/{FOREIGN_APP}/blobs/uploads/", params=query)).status_code == 202
    assert (await stranger.get(f"/v2/{FOREIGN_APP}/blobs/{BLOB}")).status_code == 404
    answer = await push_manifest(stranger, IMAGE.manifest, "v1", app=FOREIGN_APP)
    assert answer.json()["errors"][0]["code"] == "MANIFEST_BLOB_UNKNOWN"


async def test_the_catalog_and_tags_of_a_tenant_are_its_own(served: Served, stranger: httpx.AsyncClient) -> None:
    assert (await stranger.get("/v2/_catalog")).json() == {"repositories": []}
    await push(stranger, IMAGE, "theirs", app=FOREIGN_APP)
    assert (await stranger.get("/v2/_catalog")).json() == {"repositories": [FOREIGN_APP]}
    assert (await served.http.get("/v2/_catalog")).json() == {"repositories": [APP, OTHER_APP]}


async def test_an_app_that_changes_hands_or_is_made_again_shows_nothing_of_before(served: Served) -> None:
    await push(served.http, IMAGE, "v1")
    served.control.apps[APP] = ("org2", "app9")
    async with served.client(FOREIGN_TOKEN) as heir:
        assert (await heir.get(f"/v2/{APP}/manifests/v1")).status_code == 404
        assert (await heir.get(f"/v2/{APP}/tags/list")).status_code == 404
        await push_blob(heir, b"a first one")
        assert (await heir.get(f"/v2/{APP}/tags/list")).json()["tags"] == []
    assert (await served.http.get(f"/v2/{APP}/manifests/v1")).status_code == 404
    served.control.apps[APP] = ("org1", "app10")  # deleted, and made again by whom it was before
    assert (await served.http.get(f"/v2/{APP}/manifests/v1")).status_code == 404
    assert (await served.http.get(f"/v2/{APP}/blobs/{BLOB}")).status_code == 404


async def test_a_yes_is_remembered_and_a_no_is_not(settings: RegistrySettings, control: MadeUpControl) -> None:
    async with serving(settings.model_copy(update={"access_cache_s": 60}), control) as served:
        for _ in range(5):
            assert (await served.http.get("/v2/")).status_code == 200
            assert (await served.http.get(f"/v2/{APP}/manifests/v1")).status_code == 404
        assert control.asked == 2
        assert (await served.http.post("/v2/new/blobs/uploads/")).status_code == 404
        control.apps["new"] = ("org1", "app4")
        assert (await served.http.post("/v2/new/blobs/uploads/")).status_code == 202
        async with served.client("fo1_later") as later:
            assert (await later.get("/v2/")).status_code == 401
            control.tokens["fo1_later"] = "org1"
            assert (await later.get("/v2/")).status_code == 200


async def test_without_control_nobody_gets_in_and_is_told_to_come_back(served: Served) -> None:
    served.control.away = True
    answer = await served.http.get(f"/v2/{APP}/tags/list")
    assert (answer.status_code, answer.json()["errors"][0]["code"]) == (503, "UNAVAILABLE")
    assert answer.headers["retry-after"]


@pytest.mark.parametrize(
    "header", ["", "Basic", "Basic !!!", "Basic eDo=", "Basic /w==", "Digest abc", "Bearer", "Basic " + "A" * 20_000]
)
async def test_what_is_no_token_is_401(served: Served, header: str) -> None:
    served.http.auth = None
    answer = await served.http.get("/v2/", headers={"Authorization": header})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")


async def test_a_host_pulls_everything_by_organization_and_changes_nothing(
    settings: RegistrySettings, control: MadeUpControl
) -> None:
    secret = SecretStr("known to hosts")
    async with serving(settings.model_copy(update={"registry_secret": secret}), control) as served:
        await push(served.http, IMAGE, "v1")
        async with served.client("known to hosts") as host:
            assert (await host.get(f"/v2/org1/{APP}/manifests/v1")).content == IMAGE.manifest
            assert (await host.get(f"/v2/org1/{APP}/blobs/{BLOB}")).content == IMAGE.layers[0]
            for name in (f"org2/{APP}", APP, "org1", f"org1/{APP}/blobs", "org1/absent"):
                assert (await host.get(f"/v2/{name}/manifests/v1")).status_code == 404
            assert (await host.delete(f"/v2/org1/{APP}/manifests/v1")).status_code in (401, 404)
        async with served.client(TOKEN) as tenant:
            assert (await tenant.get(f"/v2/org1/{APP}/manifests/v1")).status_code == 404
    async with serving(settings, control) as served, served.client("") as nobody:
        assert (await nobody.get(f"/v2/org1/{APP}/manifests/v1")).status_code == 401


async def test_no_token_is_logged(
    settings: RegistrySettings, control: MadeUpControl, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("DEBUG"):
        async with serving(settings, control) as served:
            await push(served.http, IMAGE, "v1")
            control.away = True
            await served.http.get("/v2/")
    assert caplog.records
    assert TOKEN not in caplog.text
    assert not [record for record in caplog.records if TOKEN in str(record.__dict__)]
