"""Images of the platform's own registry: by hard links where it is on this host, over HTTP where it is not."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from caddisfly.host.images.build import tar_of
from caddisfly.host.images.store import ImageStore
from caddisfly.host.registry.settings import RegistrySettings
from caddisfly.model.errors import FailedPrecondition, InvalidArgument
from tests.conftest import free_port
from tests.images.conftest import OpenStore
from tests.images.factories import ImageParts, sha
from tests.images.registry_server import DOCKER_MANIFEST
from tests.registry.conftest import (
    APP,
    FOREIGN_APP,
    FOREIGN_TOKEN,
    MadeUpControl,
    Served,
    push_blob,
    push_manifest,
    serving,
)

IMAGE, NEWER = ImageParts(tar_of({"a": "a"}), tar_of({"b": "b"})), ImageParts(tar_of({"c": "c"}))
NAME = f"registry.localhost/{APP}"


@pytest.fixture
async def store(open_store: OpenStore) -> ImageStore:
    return await open_store(domain="localhost")


@pytest.fixture
async def served(store: ImageStore) -> AsyncIterator[Served]:
    settings = RegistrySettings(
        store=store.filesystem.path,
        port=free_port(),
        min_free_mb=0,
        access_cache_s=0,
        registry_secret=SecretStr("known to hosts"),
    )
    async with serving(settings, MadeUpControl()) as instance:
        yield instance


async def push(served: Served, image: ImageParts, tag: str) -> None:
    for data in image.blobs.values():
        await push_blob(served.http, data)
    answer = await push_manifest(served.http, image.manifest_bytes, tag, kind=DOCKER_MANIFEST)
    assert answer.status_code == 201, answer.text


async def collect_everything(served: Served) -> None:
    for directory, _, names in os.walk(served.settings.store / "registry"):
        for name in names:
            os.utime(Path(directory) / name, (0, 0))
    await served.registry.collection.collect()


@pytest.mark.parametrize(
    "registry", ["registry.localhost", "registry.localhost:8080", "registry.fly.io", "REGISTRY.localhost"]
)
async def test_an_image_is_taken_in_under_all_names_of_the_registry(
    store: ImageStore, served: Served, registry: str
) -> None:
    await push(served, IMAGE, "v1")
    for name in (f"{registry}/{APP}:v1", f"{registry}/{APP}@{IMAGE.digest}", f"{registry}/{APP}:v1@{IMAGE.digest}"):
        resolved = await store.resolve(name, organization="org1")
        assert (resolved.reference.registry, resolved.reference.repository) == (registry, APP)
        assert resolved.digest == resolved.reference.digest == IMAGE.digest
        assert resolved.reference.tag == ("v1" if ":v1" in name else "")
    image = await store.fetch(resolved)
    assert [(image.layer_dirs[0] / "a").read_text(), (image.layer_dirs[1] / "b").read_text()] == ["a", "b"]


async def test_many_may_ask_for_a_new_image_at_once(store: ImageStore, served: Served) -> None:
    for number in range(5):
        await push(served, IMAGE, f"v{number}")
        asked = [store.resolve(f"{NAME}:v{number}", organization="org1") for _ in range(16)]
        assert {image.digest for image in await asyncio.gather(*asked)} == {IMAGE.digest}


async def test_nothing_is_copied(store: ImageStore, served: Served) -> None:
    await push(served, IMAGE, "v1")
    await store.resolve(f"{NAME}:v1", organization="org1")
    hexadecimal = sha(IMAGE.config_bytes).removeprefix("sha256:")
    mine = store.filesystem.path / "blobs" / "sha256" / hexadecimal
    theirs = store.filesystem.path / "registry" / "blobs" / "sha256" / hexadecimal
    assert mine.samefile(theirs)


async def test_a_tag_that_moved_is_seen_and_one_that_is_gone_is_not_there(store: ImageStore, served: Served) -> None:
    await push(served, IMAGE, "latest")
    assert (await store.resolve(NAME, organization="org1")).digest == IMAGE.digest
    await push(served, NEWER, "latest")
    assert (await store.resolve(NAME, organization="org1")).digest == NEWER.digest
    await served.http.delete(f"/v2/{APP}/manifests/latest")
    with pytest.raises(InvalidArgument, match="manifest unknown"):
        await store.resolve(NAME, organization="org1")


async def test_others_and_nobody_get_what_is_not_there(store: ImageStore, served: Served) -> None:
    await push(served, IMAGE, "v1")
    await store.fetch(await store.resolve(f"{NAME}:v1", organization="org1"))
    absent = f"registry.localhost/absent@{IMAGE.digest}"
    with pytest.raises(InvalidArgument) as nothing:
        await store.resolve(absent, organization="org2")
    for name, organization in (
        (f"{NAME}:v1", "org2"),
        (f"{NAME}@{IMAGE.digest}", "org2"),
        (f"{NAME}:v1", ""),
        (f"registry.localhost/org1/{APP}:v1", "org2"),
        (f"registry.fly.io/org1/{APP}@{IMAGE.digest}", "org1"),
        (f"registry.localhost/{FOREIGN_APP}@{IMAGE.digest}", "org2"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await store.resolve(name, organization=organization)
        assert caught.value.status == nothing.value.status == "manifest_unknown"


async def test_what_a_machine_has_stays_over_the_registrys_collection_and_the_end_of_its_tag(
    store: ImageStore, served: Served
) -> None:
    await push(served, IMAGE, "v1")
    resolved = await store.resolve(f"{NAME}:v1", organization="org1")
    await served.http.delete(f"/v2/{APP}/manifests/{IMAGE.digest}")
    await collect_everything(served)
    again = await store.resolve(f"{NAME}:v1@{resolved.digest}", organization="org1")
    assert again.config == resolved.config
    with pytest.raises(FailedPrecondition, match="is not complete"):
        await store.fetch(again)  # its layers were never fetched, and are gone now
    await push(served, IMAGE, "v1")
    image = await store.fetch(again)
    await served.http.delete(f"/v2/{APP}/manifests/{IMAGE.digest}")
    await collect_everything(served)
    assert (await store.fetch(await store.resolve(f"{NAME}@{IMAGE.digest}", organization="org1"))) is not None
    assert (image.layer_dirs[0] / "a").read_text() == "a"


async def test_nothing_is_imported_under_its_names(store: ImageStore, tmp_path: Path) -> None:
    for name in (NAME, f"registry.fly.io/{APP}:v1"):
        with pytest.raises(InvalidArgument, match="cannot be imported"):
            await store.import_archive(tmp_path, name=name)


async def test_another_host_pulls_over_http_and_shows_that_it_is_one(
    open_store: OpenStore, served: Served, tmp_path: Path
) -> None:
    await push(served, IMAGE, "v1")
    url = f"http://{served.host}"
    other = await open_store(
        tmp_path / "other", domain="localhost", registry_url=url, registry_secret=SecretStr("known to hosts")
    )
    resolved = await other.resolve(f"registry.fly.io/{APP}:v1", organization="org1")
    assert str(resolved.reference) == f"registry.fly.io/{APP}:v1@{IMAGE.digest}"
    image = await other.fetch(resolved)
    assert (image.layer_dirs[1] / "b").read_text() == "b"
    with pytest.raises(InvalidArgument, match="MANIFEST_UNKNOWN"):
        await other.resolve(f"registry.fly.io/{APP}:v1", organization="org2")


async def test_without_a_registry_the_names_are_those_of_any_other(open_store: OpenStore, tmp_path: Path) -> None:
    plain = await open_store(tmp_path / "plain", mirrors={"registry.fly.io": "http://127.0.0.1:1"}, retry_attempts=1)
    with pytest.raises(Exception, match="does not deliver"):
        await plain.resolve(f"registry.fly.io/{APP}:v1")


async def test_a_token_of_others_does_not_make_it_theirs(store: ImageStore, served: Served) -> None:
    await push(served, IMAGE, "v1")
    async with served.client(FOREIGN_TOKEN) as http:
        for data in IMAGE.blobs.values():
            await push_blob(http, data, app=FOREIGN_APP)
        await push_manifest(http, IMAGE.manifest_bytes, "v1", app=FOREIGN_APP, kind=DOCKER_MANIFEST)
    assert (await store.resolve(f"registry.localhost/{FOREIGN_APP}:v1", organization="org2")).digest == IMAGE.digest
    with pytest.raises(InvalidArgument, match="manifest unknown"):
        await store.resolve(f"registry.localhost/{FOREIGN_APP}:v1", organization="org1")
