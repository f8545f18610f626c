"""The store as its users see it: names, outages, concurrency, crashes, full disks, deleting."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest

from caddisfly.host.images import kernel
from caddisfly.host.images.build import tar_of, write_oci_layout
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound, Problem, Unavailable
from tests.images.conftest import OpenStore
from tests.images.factories import ImageParts, TarFactory, sha
from tests.images.registry_server import FakeRegistry
from tests.small_disk import mount_tmpfs


def parts(*contents: str) -> ImageParts:
    return ImageParts(*(tar_of({content: content}) for content in contents))


def layout(directory: Path, *contents: str) -> Path:
    path = directory / f"layout-{'-'.join(contents)}"
    write_oci_layout(path, layers=[tar_of({content: content}) for content in contents])
    return path


def stored(store: ImageStore, part: str) -> set[str]:
    return {path.name for path in (store.filesystem.path / part).iterdir()}


# ---- names


async def test_a_digest_that_is_here_is_never_asked_for(store: ImageStore, registry: FakeRegistry) -> None:
    image = parts("a")
    reference = registry.push("web:1", image)
    await store.fetch(await store.resolve(reference))
    before = len(registry.requests)
    for name in (f"{registry.host}/web@{image.digest}", f"{reference}@{image.digest}"):
        resolved = await store.resolve(name)
        assert (resolved.digest, resolved.stale) == (image.digest, False)
        await store.fetch(resolved)
    assert len(registry.requests) == before


async def test_the_config_is_given_as_it_came_without_any_layer(store: ImageStore, registry: FakeRegistry) -> None:
    image = parts("a")
    resolved = await store.resolve(registry.push("web:1", image))
    config = await store.config_of(resolved)
    assert sha(config) == json.loads(image.manifest_bytes)["config"]["digest"]
    assert stored(store, "layers") == set()
    store.referenced_by(lambda: {image.digest})
    await store.collect(all_unused=True)
    before = len(registry.requests)
    again = await store.resolve(f"{registry.host}/web:1@{image.digest}")
    assert await store.config_of(again) == config
    assert len(registry.requests) == before


async def test_a_config_that_the_disk_does_not_give_is_told(store: ImageStore, registry: FakeRegistry) -> None:
    resolved = await store.resolve(registry.push("web:1", parts("a")))
    for path in (store.filesystem.path / "blobs").rglob(resolved.config_digest.removeprefix("sha256:")):
        path.unlink()
    with pytest.raises(Problem, match="read the config of"):
        await store.config_of(resolved)


async def test_content_of_one_repository_is_not_had_by_naming_another(
    store: ImageStore, registry: FakeRegistry
) -> None:
    image = parts("a")
    await store.resolve(registry.push("private/web:1", image))
    with pytest.raises(InvalidArgument, match="manifest unknown"):
        await store.resolve(f"{registry.host}/other/web@{image.digest}")


async def test_a_tag_that_has_not_moved_costs_no_pull(store: ImageStore, registry: FakeRegistry) -> None:
    reference = registry.push("web:1", parts("a"))
    await store.resolve(reference)
    before = len(registry.requests)
    await store.resolve(reference)
    assert [method for method, _, _ in registry.requests[before:]] == ["HEAD"]


async def test_a_tag_that_moved_is_followed(store: ImageStore, registry: FakeRegistry) -> None:
    old, new = parts("old"), parts("new")
    await store.resolve(registry.push("web:1", old))
    reference = registry.push("web:1", new)
    assert (await store.resolve(reference)).digest == new.digest
    assert (await store.resolve(f"{registry.host}/web@{old.digest}")).digest == old.digest


async def test_with_the_registry_down_a_name_means_what_it_last_meant(
    open_store: OpenStore, registry: FakeRegistry
) -> None:
    store = await open_store()
    image = parts("a")
    reference = registry.push("web:1", image)
    await store.fetch(await store.resolve(reference))
    for failure in ("500", "429"):
        registry.always = failure
        resolved = await store.resolve(reference)
        assert (resolved.digest, resolved.stale) == (image.digest, True)
        await store.fetch(resolved)
    registry.close()
    await store.close()
    again = await open_store()
    assert (await again.resolve(reference)).stale


async def test_a_deleted_tag_is_not_an_outage(store: ImageStore, registry: FakeRegistry) -> None:
    reference = registry.push("web:1", parts("a"))
    await store.resolve(reference)
    registry.manifests.clear()
    with pytest.raises(InvalidArgument, match="manifest unknown"):
        await store.resolve(reference)


async def test_an_imported_name_never_touches_the_network(
    open_store: OpenStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    store = await open_store()
    name = f"{registry.host}/mine:1"
    imported = await store.import_archive(layout(tmp_path, "a"), name=name)
    await store.fetch(await store.resolve(name))
    await store.close()
    again = await open_store()
    assert (await again.resolve(name)).digest == imported.digest
    assert (await again.resolve(str(imported.reference))).digest == imported.digest
    assert registry.requests == []


async def test_a_listing(store: ImageStore, registry: FakeRegistry, tmp_path: Path) -> None:
    image = parts("b")
    await store.import_archive(layout(tmp_path, "a"), name="mine")
    reference = registry.push("web:1", image)
    await store.fetch(await store.resolve(reference))
    listed = {line.name: line for line in store.list()}
    assert set(listed) == {"registry-1.docker.io/library/mine:latest", reference}
    assert (listed[reference].digest, listed[reference].unpacked, listed[reference].imported) == (
        image.digest,
        True,
        False,
    )
    assert listed[reference].size_bytes == len(image.layers[0])
    assert not listed["registry-1.docker.io/library/mine:latest"].unpacked


# ---- layers


async def test_a_layer_is_stored_once_for_all_images(store: ImageStore, tmp_path: Path) -> None:
    one = await store.fetch(await store.import_archive(layout(tmp_path, "base", "one"), name="one"))
    two = await store.fetch(await store.import_archive(layout(tmp_path, "base", "two"), name="two"))
    assert one.layer_dirs[0] == two.layer_dirs[0]
    assert len(stored(store, "layers")) == 3


async def test_fetching_what_is_here_is_cheap(store: ImageStore, tmp_path: Path) -> None:
    contents = [f"layer-{number}" for number in range(20)]
    resolved = await store.import_archive(layout(tmp_path, *contents), name="x")
    await store.fetch(resolved)
    best = min([await timed(store, "x") for _ in range(20)])
    assert best < 0.005  # a twentieth of this when nothing else runs


async def timed(store: ImageStore, name: str) -> float:
    before = time.perf_counter()
    await store.fetch(await store.resolve(name))
    return time.perf_counter() - before


async def test_many_fetches_of_one_image_unpack_it_once(store: ImageStore, tmp_path: Path) -> None:
    resolved = await store.import_archive(layout(tmp_path, "a", "b"), name="x")
    images = await asyncio.gather(*(store.fetch(resolved) for _ in range(20)))
    assert len({image.layer_dirs for image in images}) == 1
    assert stored(store, "tmp") == set()


async def test_who_stops_waiting_does_not_stop_the_others(store: ImageStore, tmp_path: Path) -> None:
    resolved = await store.import_archive(layout(tmp_path, "a"), name="x")
    impatient = asyncio.create_task(store.fetch(resolved))
    patient = asyncio.create_task(store.fetch(resolved))
    await asyncio.sleep(0)
    impatient.cancel()
    assert (await patient).layer_dirs[0].is_dir()


async def test_another_images_failure_is_not_ones_own(store: ImageStore, registry: FakeRegistry) -> None:
    good = await store.resolve(registry.push("good:1", parts("shared")))
    other = FakeRegistry()
    # What only it has fails for sure; the layer that both have may come from the one or the other.
    bad = await store.resolve(other.push("bad:1", parts("shared", "own")))
    other.always = "500"
    results = await asyncio.gather(store.fetch(bad), store.fetch(good), return_exceptions=True)
    other.close()
    assert isinstance(results[0], Unavailable)
    assert not isinstance(results[1], BaseException)


async def test_a_hostile_layer_leaves_nothing(store: ImageStore, registry: FakeRegistry) -> None:
    tar = TarFactory().file("good").symlink("d", "/etc").file("d/passwd", b"evil").tar()
    resolved = await store.resolve(registry.push("evil:1", ImageParts(tar)))
    with pytest.raises(InvalidArgument, match=r"refused: .*parent that is a link"):
        await store.fetch(resolved)
    assert stored(store, "layers") == stored(store, "tmp") == set()


# ---- crashes


async def test_what_a_crash_left_half_done_is_swept(open_store: OpenStore, tmp_path: Path) -> None:
    store = await open_store()
    await store.fetch(await store.import_archive(layout(tmp_path, "a"), name="x"))
    half = store.filesystem.path / "tmp" / "layer-half"
    (half / "deep").mkdir(parents=True)
    (half / "deep/file").write_text("x")
    (store.filesystem.path / "tmp/blob-half").write_text("x")
    (store.filesystem.path / "names/torn.json").write_text('{"name": "y')
    await store.close()
    again = await open_store()
    assert stored(again, "tmp") == set()
    assert [line.name for line in again.list()] == ["registry-1.docker.io/library/x:latest"]


AGENT = """
import asyncio, sys
from pathlib import Path
from caddisfly.host.images.store import ImageStore
from tests.images.conftest import quick

async def main():
    store = ImageStore(Path(sys.argv[1]), settings=quick(max_entries=10_000))
    await store.open()
    resolved = await store.import_archive(Path(sys.argv[2]), name="big")
    task = asyncio.create_task(store.fetch(resolved))
    while not list((store.filesystem.path / "tmp").glob("layer-*/f*")):
        await asyncio.sleep(0.001)
    print("unpacking", flush=True)
    await task
    print("done", flush=True)

asyncio.run(main())
"""


async def test_kill_9_in_the_middle_of_unpacking(open_store: OpenStore, tmp_path: Path) -> None:
    files = {f"f{number}": os.urandom(4096) for number in range(4000)}
    write_oci_layout(tmp_path / "layout", layers=[tar_of(files)], compression="none")
    agent = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", AGENT, str(tmp_path / "store"), str(tmp_path / "layout")),
        stdout=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert agent.stdout is not None
    assert await agent.stdout.readline() == b"unpacking\n"
    agent.send_signal(signal.SIGKILL)
    await agent.wait()
    store = await open_store(max_entries=10_000)
    assert stored(store, "layers") == stored(store, "tmp") == set()
    image = await store.fetch(await store.resolve("big"))
    assert len(list(image.layer_dirs[0].iterdir())) == 4000


# ---- disks


async def test_a_full_disk_is_named_and_nothing_partial_stays(open_store: OpenStore, tmp_path: Path) -> None:
    store = await open_store(store_filesystem="directory")
    small = store.filesystem.path
    resolved = await store.import_archive(layout(tmp_path, "a"), name="small")
    await store.close()
    mount_tmpfs(small, megabytes=20)
    try:
        store = await open_store(store_filesystem="directory", min_free_mb=0)
        tar = TarFactory().file("f", bytes(40 << 20)).tar()
        write_oci_layout(tmp_path / "big", layers=[tar])
        resolved = await store.import_archive(tmp_path / "big", name="big")
        with pytest.raises(Unavailable, match="no disk space") as caught:
            await store.fetch(resolved)
        assert str(small) in caught.value.why
        assert stored(store, "layers") == stored(store, "tmp") == set()
        small_image = await store.import_archive(layout(tmp_path, "a"), name="small")
        await store.fetch(small_image)  # it recovers alone
        await store.close()
    finally:
        kernel.unmount(small)


async def test_work_is_refused_before_the_disk_is_full(open_store: OpenStore, tmp_path: Path) -> None:
    store = await open_store(min_free_mb=1 << 30)
    with pytest.raises(Unavailable, match="must stay free") as caught:
        await store.import_archive(layout(tmp_path, "a"), name="x")
    assert str(tmp_path / "store") in caught.value.why


# ---- deleting


async def test_removing_deletes_what_nothing_else_needs(store: ImageStore, tmp_path: Path) -> None:
    for name, contents in {"one": ("base", "one"), "two": ("base", "two")}.items():
        await store.fetch(await store.import_archive(layout(tmp_path, *contents), name=name))
    await store.remove("one")
    assert len(stored(store, "layers")) == 2
    assert [line.name for line in store.list()] == ["registry-1.docker.io/library/two:latest"]
    await store.fetch(await store.resolve("two"))
    await store.remove("two")
    assert stored(store, "layers") == stored(store, "blobs/sha256") == stored(store, "names") == set()
    with pytest.raises(NotFound):
        await store.remove("two")


async def test_removing_does_not_pull_the_floor_from_under_a_root(store: ImageStore, tmp_path: Path) -> None:
    image = await store.fetch(await store.import_archive(layout(tmp_path, "a"), name="x"))
    root = await store.roots.mount("m1", image.layer_dirs, size_mb=32)
    await store.remove("x")
    assert (root / "a").read_text() == "a"
    await store.roots.unmount("m1")
    await store.collect(keep=())
    assert stored(store, "layers") == set()


async def test_content_whose_tag_moved_on_stays_until_it_is_collected(
    store: ImageStore, registry: FakeRegistry
) -> None:
    old, older = parts("old"), parts("older")
    for image in (older, old, parts("new")):
        reference = registry.push("web:1", image)
        await store.fetch(await store.resolve(reference))
    assert len(stored(store, "layers")) == 3
    await store.collect(keep={old.digest})
    assert len(stored(store, "layers")) == 2
    assert (await store.resolve(f"{registry.host}/web@{old.digest}")).digest == old.digest


async def test_an_imported_layer_that_is_gone_is_a_named_error(store: ImageStore, tmp_path: Path) -> None:
    resolved = await store.import_archive(layout(tmp_path, "a"), name="x")
    (store.filesystem.path / "blobs/sha256" / resolved.layers[0].blob.digest[7:]).unlink()
    with pytest.raises(FailedPrecondition, match="imported from a file") as caught:
        await store.fetch(resolved)
    assert caught.value.next == "import it again"


async def test_a_damaged_blob_is_noticed(store: ImageStore, tmp_path: Path) -> None:
    resolved = await store.import_archive(layout(tmp_path, "a"), name="x")
    path = store.filesystem.path / "blobs/sha256" / resolved.layers[0].blob.digest[7:]
    data = path.read_bytes()
    path.write_bytes(data[:20] + bytes([data[20] ^ 1]) + data[21:])
    with pytest.raises(InvalidArgument, match=r"digest|decompressed"):
        await store.fetch(resolved)
    assert sha(b"") not in stored(store, "layers")
