"""What the collection removes, and above all what it does not."""

from __future__ import annotations

import asyncio
import os
import random
from pathlib import Path

import pytest

from caddisfly.host.images.manifest import OCI_INDEX, OCI_MANIFEST
from caddisfly.host.registry.collection import Collected
from tests.registry.conftest import (
    APP,
    OTHER_APP,
    Artifact,
    Served,
    index_of,
    push,
    push_blob,
    push_manifest,
    sha,
)

BASE = f"/v2/{APP}"


def age(served: Served) -> None:
    """Let everything that lies there be older than the grace."""
    for directory, _, names in os.walk(served.settings.store):
        for name in names:
            os.utime(Path(directory) / name, (0, 0))


async def collect(served: Served) -> Collected:
    return await served.registry.collection.collect()


def content(served: Served) -> set[str]:
    """The digests of all that takes up room."""
    return {f"sha256:{path.name}" for path in (served.settings.store / "registry/blobs/sha256").iterdir()}


def all_of(artifact: Artifact) -> set[str]:
    return {sha(data) for data in (artifact.config, *artifact.layers, artifact.manifest)}


async def test_what_is_tagged_stays_and_what_is_not_goes_after_the_grace(served: Served) -> None:
    kept, moved = Artifact(), Artifact(layers=(b"moved", b"layer two"))
    await push(served.http, moved, "latest")
    await push(served.http, kept, "latest")
    await push_blob(served.http, b"left over")
    assert not await collect(served)
    age(served)
    done = await collect(served)
    assert (done.manifests, done.blobs) == (1, 2)
    assert content(served) == all_of(kept)
    assert (await served.http.get(f"{BASE}/manifests/latest")).content == kept.manifest
    assert (await served.http.get(f"{BASE}/manifests/{moved.digest}")).status_code == 404
    age(served)
    assert not await collect(served)


async def test_an_index_keeps_its_manifests_and_a_manifest_what_is_about_it(served: Served) -> None:
    image = Artifact()
    await push(served.http, image, image.digest)
    subject = {"mediaType": OCI_MANIFEST, "digest": image.digest, "size": len(image.manifest)}
    signature = Artifact(layers=(b"signature",), more={"subject": subject})
    await push(served.http, signature, signature.digest)
    orphan = Artifact(layers=(b"orphan",), more={"subject": {**subject, "digest": sha(b"gone")}})
    await push(served.http, orphan, orphan.digest)
    index = index_of(image.manifest)
    assert (await push_manifest(served.http, index, "v1", kind=OCI_INDEX)).status_code == 201
    age(served)
    assert (await collect(served)).manifests == 1
    assert content(served) == all_of(image) | all_of(signature) | {sha(index)}
    await served.http.delete(f"{BASE}/manifests/v1")
    age(served)
    assert (await collect(served)).manifests == 3
    assert content(served) == set()


async def test_what_a_machine_runs_stays_though_its_tag_moved(served: Served) -> None:
    running, newer = Artifact(), Artifact(layers=(b"newer",))
    await push(served.http, running, "latest")
    await push(served.http, newer, "latest")
    served.control.used = (running.digest,)
    age(served)
    assert not await collect(served)
    assert (await served.http.get(f"{BASE}/manifests/{running.digest}")).status_code == 200


async def test_what_a_host_has_taken_in_stays_its_own(served: Served, tmp_path: Path) -> None:
    image = Artifact()
    await push(served.http, image, "v1")
    layer = sha(image.layers[0])
    mine = served.settings.store / "taken-in"
    os.link(next(served.settings.store.glob(f"registry/repositories/*/{APP}/blobs/{layer[7:]}")), mine)
    await served.http.delete(f"{BASE}/manifests/{image.digest}")
    age(served)
    await collect(served)
    assert mine.read_bytes() == image.layers[0]
    mine.unlink()
    age(served)
    await collect(served)
    assert content(served) == set()


@pytest.mark.parametrize("how", ["uploaded", "asked for", "mounted", "pushed again"])
async def test_what_a_push_under_way_was_told_to_be_there_stays(served: Served, how: str) -> None:
    image = Artifact()
    if how == "mounted":
        await push(served.http, image, "v1", app=OTHER_APP)
    elif how != "uploaded":
        for data in (image.config, *image.layers):
            await push_blob(served.http, data)
    age(served)
    for data in (image.config, *image.layers):
        if how in ("uploaded", "pushed again"):
            await push_blob(served.http, data)
        elif how == "asked for":
            assert (await served.http.head(f"{BASE}/blobs/{sha(data)}")).status_code == 200
        else:
            query = {"mount": sha(data), "from": OTHER_APP}
            assert (await served.http.post(f"{BASE}/blobs/uploads/", params=query)).status_code == 201
    assert not await collect(served)
    assert (await push_manifest(served.http, image.manifest, "v1")).status_code == 201
    assert not await collect(served)


async def test_collecting_all_the_time_breaks_no_push(served: Served) -> None:
    stop = asyncio.Event()

    async def collecting() -> int:
        rounds = 0
        while not stop.is_set():
            await collect(served)
            rounds += 1
        return rounds

    async def pushing(number: int) -> None:
        source = random.Random(number)
        for turn in range(8):
            image = Artifact(layers=(source.randbytes(50_000), b"shared by all"))
            await push(served.http, image, f"v{number}-{turn % 2}")
            for layer in image.layers:
                assert (await served.http.get(f"{BASE}/blobs/{sha(layer)}")).content == layer

    task = asyncio.create_task(collecting())
    await asyncio.gather(*(pushing(number) for number in range(4)))
    stop.set()
    assert await task > 3
    age(served)
    assert (await collect(served)).manifests == 4 * 6
    for tag in (await served.http.get(f"{BASE}/tags/list")).json()["tags"]:
        manifest = (await served.http.get(f"{BASE}/manifests/{tag}")).json()
        for layer in manifest["layers"]:
            assert (await served.http.head(f"{BASE}/blobs/{layer['digest']}")).status_code == 200


async def test_the_repository_of_an_app_that_is_gone_goes_at_once(served: Served) -> None:
    await push(served.http, Artifact(), "v1")
    await push(served.http, Artifact(), "v1", app=OTHER_APP)
    del served.control.apps[APP]
    assert (await collect(served)).repositories == 1
    assert not list(served.settings.store.glob(f"registry/repositories/*/{APP}"))
    assert (await served.http.get(f"/v2/{OTHER_APP}/manifests/v1")).status_code == 200


async def test_nothing_is_removed_while_control_is_away(served: Served) -> None:
    image = Artifact()
    await push(served.http, image, "v1")
    del served.control.apps[APP]
    age(served)
    served.control.away = True
    assert not await collect(served)
    assert content(served) == all_of(image)
