"""Pulling from a registry, and from one that fails in every way (fault 17)."""

from __future__ import annotations

import asyncio
import os
import socket
from typing import Any

import pytest

from caddisfly.host.images.image import Image
from caddisfly.host.images.manifest import machine_architecture
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import Exhausted, InvalidArgument, Unavailable
from tests.images.conftest import OpenStore
from tests.images.factories import ImageParts, TarFactory, index_entry, index_of, sha
from tests.images.registry_server import DOCKER_MANIFEST, FakeRegistry


def image(*, megabytes: int = 0, **config: Any) -> ImageParts:
    content = os.urandom(megabytes << 20) if megabytes else b"content"
    return ImageParts(TarFactory().file("f", content).tar(), TarFactory().file("g").tar(), config=config)


async def pull(store: ImageStore, reference: str) -> Image:
    return await store.fetch(await store.resolve(reference))


def nothing_stored(store: ImageStore) -> bool:
    base = store.filesystem.path
    return not any(list((base / part).iterdir()) for part in ("tmp", "layers"))


async def test_an_image_is_pulled_by_tag_and_by_digest(store: ImageStore, registry: FakeRegistry) -> None:
    parts = image(Cmd=["/x"])
    reference = registry.push("acme/web:1", parts)
    pulled = await pull(store, reference)
    assert pulled.resolved.digest == parts.digest
    assert pulled.resolved.reference.tag == "1"
    assert pulled.resolved.config.cmd == ("/x",)
    assert [sorted(path.name for path in layer.iterdir()) for layer in pulled.layer_dirs] == [["f"], ["g"]]
    by_digest = await store.resolve(f"{registry.host}/acme/web@{parts.digest}")
    assert by_digest.digest == parts.digest


async def test_an_index_is_followed_to_this_machines_image(store: ImageStore, registry: FakeRegistry) -> None:
    parts = image()
    registry.push("multi:none", parts)
    inner = index_of(index_entry(parts.manifest_bytes, machine_architecture(), media_type=DOCKER_MANIFEST))
    outer = index_of(
        index_entry(b"other", "s390x"),
        index_entry(inner, machine_architecture(), media_type="application/vnd.oci.image.index.v1+json"),
    )
    for data in (inner, outer):
        registry.manifests[f"multi/{sha(data)}"] = (data, "application/vnd.oci.image.index.v1+json")
    registry.manifests["multi/1"] = registry.manifests[f"multi/{sha(outer)}"]
    resolved = await store.resolve(f"{registry.host}/multi:1")
    assert (resolved.digest, resolved.manifest_digest) == (sha(outer), parts.digest)
    await store.fetch(resolved)
    before = len(registry.requests)
    assert (await store.resolve(f"{registry.host}/multi@{sha(outer)}")).manifest_digest == parts.digest
    assert len(registry.requests) == before


async def test_indexes_that_lead_to_each_other_forever_end(store: ImageStore, registry: FakeRegistry) -> None:
    data = image().manifest_bytes
    for _ in range(10):
        data = index_of(index_entry(data, machine_architecture(), media_type="application/vnd.oci.image.index.v1+json"))
        registry.manifests[f"deep/{sha(data)}"] = (data, "application/vnd.oci.image.index.v1+json")
    registry.manifests["deep/1"] = (data, "application/vnd.oci.image.index.v1+json")
    with pytest.raises(InvalidArgument, match="nested more than"):
        await store.resolve(f"{registry.host}/deep:1")


@pytest.mark.parametrize("failure", ["500", "503", "429", "truncate", "corrupt"])
async def test_what_passes_is_tried_again(store: ImageStore, registry: FakeRegistry, failure: str) -> None:
    reference = registry.push("web:1", image(megabytes=2))
    resolved = await store.resolve(reference)
    registry.failures.append(failure)
    if failure == "corrupt":
        with pytest.raises(InvalidArgument, match="not what its digest says"):
            await store.fetch(resolved)
    pulled = await store.fetch(resolved)
    assert (pulled.layer_dirs[0] / "f").stat().st_size == 2 << 20


@pytest.mark.parametrize("failure", ["500", "429", "truncate"])
async def test_retries_are_bounded(store: ImageStore, registry: FakeRegistry, failure: str) -> None:
    reference = registry.push("web:1", image())
    resolved = await store.resolve(reference)
    registry.always = failure
    registry.ranges = False
    before = len(registry.requests)
    with pytest.raises(Exhausted if failure == "429" else Unavailable) as caught:
        await store.fetch(resolved)
    await store.close()
    assert registry.host in caught.value.what
    assert caught.value.next
    assert "secret page" not in str(caught.value.to_record())
    assert len(registry.requests) - before <= 2 * 3
    assert nothing_stored(store)


@pytest.mark.parametrize("failure", ["corrupt", "longer"])
async def test_wrong_content_is_always_refused(store: ImageStore, registry: FakeRegistry, failure: str) -> None:
    reference = registry.push("web:1", image())
    resolved = await store.resolve(reference)
    registry.always = failure
    with pytest.raises(InvalidArgument):
        await store.fetch(resolved)
    await store.close()
    assert nothing_stored(store)


async def test_a_wrong_manifest_is_refused(store: ImageStore, registry: FakeRegistry) -> None:
    parts = image()
    registry.push("web:1", parts)
    registry.always = "corrupt"
    for name in ("web:1", f"web@{parts.digest}"):
        with pytest.raises(InvalidArgument, match="not what its digest says"):
            await store.resolve(f"{registry.host}/{name}")
    assert store.list() == []


async def test_a_broken_download_goes_on_where_it_stopped(store: ImageStore, registry: FakeRegistry) -> None:
    parts = image(megabytes=4)
    reference = registry.push("web:1", parts)
    resolved = await store.resolve(reference)
    registry.failures.append("truncate")
    await store.fetch(resolved)
    ranges = [headers["Range"] for _, _, headers in registry.requests if "Range" in headers]
    assert ranges == [f"bytes={len(parts.layers[0]) // 2}-"]


async def test_a_registry_without_ranges_is_started_over(store: ImageStore, registry: FakeRegistry) -> None:
    reference = registry.push("web:1", image(megabytes=4))
    registry.ranges = False
    resolved = await store.resolve(reference)
    registry.failures.append("truncate")
    pulled = await store.fetch(resolved)
    assert (pulled.layer_dirs[0] / "f").stat().st_size == 4 << 20


async def test_silence_ends(open_store: OpenStore, registry: FakeRegistry) -> None:
    store = await open_store(stall_timeout_s=0.3)
    resolved = await store.resolve(registry.push("web:1", image()))
    registry.always = "stall"
    with pytest.raises(Unavailable, match="stopped sending"):
        await store.fetch(resolved)


async def test_a_trickle_ends(open_store: OpenStore, registry: FakeRegistry) -> None:
    store = await open_store(stall_timeout_s=0.5, min_rate_bytes_s=1 << 30, retry_attempts=1)
    resolved = await store.resolve(registry.push("web:1", image(megabytes=1)))
    registry.always = "trickle"
    with pytest.raises(Unavailable, match="less than 1073741824 bytes per second"):
        await store.fetch(resolved)


async def test_a_registry_that_is_not_there(store: ImageStore) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        host = f"127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(Unavailable, match=host) as caught:
            await store.resolve(f"{host}/web:1")
    assert caught.value.why


async def test_an_unknown_manifest(store: ImageStore, registry: FakeRegistry) -> None:
    with pytest.raises(InvalidArgument, match="MANIFEST_UNKNOWN: manifest unknown") as caught:
        await store.resolve(f"{registry.host}/web:nope")
    assert "manifest unknown" in caught.value.text
    assert caught.value.status == "manifest_unknown"


async def test_a_missing_layer(store: ImageStore, registry: FakeRegistry) -> None:
    parts = image()
    reference = registry.push("web:1", parts)
    del registry.blobs[sha(parts.layers[1])]
    with pytest.raises(InvalidArgument, match="404 BLOB_UNKNOWN"):
        await pull(store, reference)


async def test_an_anonymous_token_is_fetched_once(store: ImageStore, registry: FakeRegistry) -> None:
    registry.token = "t0k3n"
    await pull(store, registry.push("acme/web:1", image()))
    assert registry.asked_for("/token") == [
        f"/token?scope=repository%3Aacme%2Fweb%3Apull&service={registry.host.replace(':', '%3A')}"
    ]


@pytest.mark.parametrize("token", ["", "t0k3n"])
async def test_credentials(open_store: OpenStore, registry: FakeRegistry, token: str) -> None:
    registry.user, registry.token = ("ann", "s3cret"), token
    reference = registry.push("acme/web:1", image())
    known = {registry.host: {"username": "ann", "password": "s3cret"}}
    store = await open_store(credentials=known)
    await pull(store, reference)


@pytest.mark.parametrize("token", ["", "t0k3n"])
async def test_wrong_credentials(open_store: OpenStore, registry: FakeRegistry, token: str) -> None:
    registry.user, registry.token = ("ann", "s3cret"), token
    reference = registry.push("acme/web:1", image())
    store = await open_store(credentials={registry.host: {"username": "ann", "password": "guess"}})
    with pytest.raises(InvalidArgument, match="UNAUTHORIZED") as caught:
        await store.resolve(reference)
    assert "guess" not in str(caught.value.to_record())


async def test_no_credentials(store: ImageStore, registry: FakeRegistry) -> None:
    registry.user = ("ann", "s3cret")
    with pytest.raises(InvalidArgument, match="wants credentials"):
        await store.resolve(registry.push("acme/web:1", image()))


async def test_a_redirect_does_not_get_the_authorisation(store: ImageStore, registry: FakeRegistry) -> None:
    other = FakeRegistry()
    try:
        registry.token = "t0k3n"
        parts = image()
        reference = registry.push("acme/web:1", parts)
        other.blobs = parts.blobs
        registry.redirect_to = f"http://{other.host}"
        await pull(store, reference)
        assert len(other.requests) == 3
        assert all("authorization" not in {key.lower() for key in headers} for _, _, headers in other.requests)
    finally:
        other.close()


async def test_redirects_end(store: ImageStore, registry: FakeRegistry) -> None:
    registry.redirect_to = f"http://{registry.host}"
    with pytest.raises(Unavailable, match="redirects more than"):
        await store.resolve(registry.push("acme/web:1", image()))


async def test_a_layer_over_the_limit_is_refused_before_it_is_downloaded(
    open_store: OpenStore, registry: FakeRegistry
) -> None:
    store = await open_store(max_layer_bytes=1 << 20)
    parts = image(megabytes=2)
    with pytest.raises(InvalidArgument, match="more than 1048576"):
        await store.resolve(registry.push("web:1", parts))
    assert registry.asked_for(sha(parts.layers[0])) == []


async def test_a_mirror_is_asked_instead(open_store: OpenStore, registry: FakeRegistry) -> None:
    registry.push("my-app:deployment-1", image())
    store = await open_store(mirrors={"registry.fly.io": f"http://{registry.host}"})
    pulled = await pull(store, "registry.fly.io/my-app:deployment-1")
    assert pulled.resolved.reference.registry == "registry.fly.io"


async def test_a_mirror_of_docker_hub_is_named_as_builds_name_it(open_store: OpenStore, registry: FakeRegistry) -> None:
    registry.push("library/web:1", image())
    store = await open_store(mirrors={"docker.io": f"http://{registry.host}"})
    assert (await pull(store, "web:1")).resolved.reference.registry == "registry-1.docker.io"


async def test_the_same_layer_is_downloaded_in_parallel_once(store: ImageStore, registry: FakeRegistry) -> None:
    parts = image(megabytes=1)
    reference = registry.push("web:1", parts)
    resolved = await store.resolve(reference)
    await asyncio.gather(*(store.fetch(resolved) for _ in range(8)))
    assert len(registry.asked_for(f"blobs/{sha(parts.layers[0])}")) == 1


@pytest.mark.parametrize("registry", ["localhost:4280", "127.0.0.1:8222", "[::1]:80", "169.254.169.254", "0.0.0.0:80"])
async def test_the_hosts_own_addresses_are_no_registries_unless_the_operator_says_so(
    open_store: OpenStore, registry: str
) -> None:
    store = await open_store(local_registries=False)
    with pytest.raises(InvalidArgument, match="an address of the host itself"):
        await store.resolve(f"{registry}/x:1")
