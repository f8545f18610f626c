"""What stays, what goes, and what is noticed: references, limits, collection, damage."""

from __future__ import annotations

import asyncio
import os
import shutil
from pathlib import Path

import pytest
from pydantic import SecretStr

from caddisfly.host.images import eviction
from caddisfly.host.images.eviction import Candidate
from caddisfly.host.images.image import Image
from caddisfly.host.images.receipts import seal, stamp
from caddisfly.host.images.settings import Credentials
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable
from tests.conftest import eventually
from tests.images.conftest import OpenStore
from tests.images.factories import ImageParts, TarFactory, sha
from tests.images.registry_server import FakeRegistry
from tests.images.test_store import layout, stored

MIB = 1 << 20


def parts(*names: str, megabytes: int = 0) -> ImageParts:
    content = os.urandom(megabytes * MIB) if megabytes else b"content"
    tars = [TarFactory().directory("etc").directory("etc/conf").file(f"etc/conf/{n}", content).tar() for n in names]
    return ImageParts(*tars)


async def start(store: ImageStore, reference: str) -> Image:
    """What a Machine's start does with images."""
    return await store.fetch(await store.resolve(reference))


async def sealed(store: ImageStore) -> None:
    await eventually(lambda: store._layers.unsealed() == [])


# ---- references and collection


async def test_what_a_machine_has_is_never_collected(store: ImageStore, registry: FakeRegistry) -> None:
    old, new = parts("old"), parts("new")
    reference = registry.push("web:1", old)
    await start(store, reference)
    registry.push("web:1", new)
    await start(store, reference)
    store.referenced_by(lambda: {old.digest})
    collected = await store.collect()
    assert (collected.images, collected.layers) == (0, 0)
    registry.always = "500"
    # Not even a registry is needed: a stopped Machine starts from its digest.
    assert (await start(store, f"{reference}@{old.digest}")).resolved.digest == old.digest
    store.referenced_by(set)
    assert (await store.collect()).images == 1
    assert len(stored(store, "layers")) == 1


async def test_collecting_everything_unused_spares_what_cannot_be_had_again(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    await store.fetch(await store.import_archive(layout(tmp_path, "a"), name="mine"))
    await store.pull(registry.push("wanted:1", parts("wanted")))
    await start(store, registry.push("web:1", parts("web")))
    assert (await store.collect(all_unused=True)).images == 1
    assert sorted(line.name.rpartition("/")[2] for line in store.list()) == ["mine:latest", "wanted:1"]


async def test_a_removed_name_leaves_what_machines_have(store: ImageStore, registry: FakeRegistry) -> None:
    image = parts("a")
    reference = registry.push("web:1", image)
    await start(store, reference)
    store.referenced_by(lambda: {image.digest})
    await store.remove(reference)
    registry.always = "500"
    assert (await start(store, f"{reference}@{image.digest}")).resolved.digest == image.digest


async def test_what_was_resolved_a_moment_ago_is_held(open_store: OpenStore, registry: FakeRegistry) -> None:
    """Between the answer to a create and its Machine in the journal nobody else knows that it is needed."""
    store = await open_store(collect_grace_s=60)
    old = parts("old")
    reference = registry.push("web:1", old)
    await start(store, reference)
    registry.push("web:1", parts("new"))
    await start(store, reference)
    assert (await store.collect()).images == 0


async def test_collections_and_starts_side_by_side(store: ImageStore, registry: FakeRegistry) -> None:
    """Whoever is between fetching and mounting finds every layer."""
    images = [parts("base", f"own-{number}") for number in range(4)]
    names = [registry.push(f"web{number}:1", image) for number, image in enumerate(images)]

    async def starts(name: str) -> None:
        for number in range(6):
            image = await store.fetch(await store.resolve(name))
            key = f"m{names.index(name)}-{number}"
            await store.roots.mount(key, image.layer_dirs, size_mb=32)
            await store.roots.unmount(key)

    async def collects() -> None:
        while True:
            await store.collect(all_unused=True)
            await asyncio.sleep(0)

    store.referenced_by(lambda: {image.digest for image in images})
    collecting = asyncio.create_task(collects())
    await asyncio.gather(*(starts(name) for name in names))
    collecting.cancel()
    await asyncio.gather(collecting, return_exceptions=True)


# ---- limits


def candidate(name: str, used_at: float, *, kept: bool = False, **layers: int) -> Candidate:
    return Candidate(name, used_at, layers, kept)


def test_the_longest_unused_goes_first_and_no_more_than_needed() -> None:
    images = [candidate("new", 3, a=10), candidate("old", 1, b=10), candidate("middle", 2, c=10)]
    assert [image.digest for image in eviction.choose(images, excess=5)] == ["old"]
    assert [image.digest for image in eviction.choose(images, excess=11)] == ["old", "middle"]


def test_shared_layers_free_nothing_until_the_last_user_goes() -> None:
    images = [candidate("a", 1, base=100, a=1), candidate("b", 2, base=100, b=1), candidate("c", 3, c=50)]
    assert eviction.size_of(images) == 152
    assert [image.digest for image in eviction.choose(images, excess=102)] == ["a", "b"]
    assert [image.digest for image in eviction.choose(images, excess=103)] == ["a", "b", "c"]


def test_what_is_kept_stays_however_large_the_excess() -> None:
    images = [candidate("running", 1, kept=True, a=100), candidate("idle", 2, b=1)]
    assert [image.digest for image in eviction.choose(images, excess=1000)] == ["idle"]


async def test_a_store_over_its_limit_lets_the_longest_unused_go(open_store: OpenStore, registry: FakeRegistry) -> None:
    store = await open_store(max_images_gb=9 / 1024)
    images = {name: parts(name, megabytes=3) for name in ("one", "two", "three", "four")}
    used = {images["one"].digest}
    store.referenced_by(lambda: used)
    for number, name in enumerate(images):
        reference = registry.push(f"{name}:1", images[name])
        await start(store, reference)
        for path in (store.filesystem.path / "names").iterdir():  # as if each were from another hour
            if path.stat().st_mtime > 1e9:
                os.utime(path, (number * 3600, number * 3600))
    there = {line.name.rpartition("/")[2] for line in store.list()}
    assert "one:1" in there, "a Machine has it, though it is the oldest"
    assert "four:1" in there
    assert "two:1" not in there
    assert len(stored(store, "layers")) == len(there)


@pytest.mark.parametrize("as_disk", [False, True])
async def test_an_images_disk_counts_as_part_of_it(
    open_store: OpenStore, registry: FakeRegistry, *, as_disk: bool
) -> None:
    store = await open_store(max_images_gb=7 / 1024)
    image = await start(store, registry.push("one:1", parts("one", megabytes=3)))
    if as_disk:
        await store.roots.lay_out("m1", image.layer_dirs, size_mb=32)
        await store.roots.unmount("m1")
    await start(store, registry.push("two:1", parts("two", megabytes=3)))
    there = {line.name.rpartition("/")[2] for line in store.list()}
    assert there == ({"two:1"} if as_disk else {"one:1", "two:1"})


async def test_a_full_disk_lets_unused_images_go_before_it_refuses(
    open_store: OpenStore, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = await open_store()
    await start(store, registry.push("old:1", parts("old", megabytes=2)))
    floor = 16 * MIB

    def free() -> int:
        return floor + (0 if len(stored(store, "layers")) else 10 * MIB)

    monkeypatch.setattr(type(store.filesystem), "free_bytes", lambda self: free())
    await start(store, registry.push("new:1", parts("new", megabytes=2)))
    assert [line.name.rpartition("/")[2] for line in store.list()] == ["new:1"]
    used = {line.digest for line in store.list()}
    store.referenced_by(lambda: used)
    with pytest.raises(Unavailable, match="must stay free"):
        await start(store, registry.push("third:1", parts("third", megabytes=2)))


# ---- damage


async def test_a_layer_that_lost_a_directory_is_fetched_again_at_the_next_start(
    store: ImageStore, registry: FakeRegistry
) -> None:
    reference = registry.push("web:1", parts("a"))
    first = await start(store, reference)
    shutil.rmtree(first.layer_dirs[0] / "etc/conf")
    again = await start(store, reference)
    assert (again.layer_dirs[0] / "etc/conf/a").read_bytes() == b"content"


async def test_a_layer_that_is_gone_is_fetched_again(store: ImageStore, registry: FakeRegistry) -> None:
    reference = registry.push("web:1", parts("a"))
    shutil.rmtree((await start(store, reference)).layer_dirs[0])
    assert ((await start(store, reference)).layer_dirs[0] / "etc/conf/a").exists()


@pytest.mark.parametrize("damage", ["content", "mode", "removed", "added", "link", "owner"])
async def test_verify_sees_any_damage_and_repairs_it(store: ImageStore, registry: FakeRegistry, damage: str) -> None:
    reference = registry.push("web:1", parts("a", "b"))
    image = await start(store, reference)
    await sealed(store)
    assert (await store.verify()).damaged == ()
    file = image.layer_dirs[0] / "etc/conf/a"
    times = file.stat().st_atime_ns, file.stat().st_mtime_ns
    if damage == "content":  # a bit that flipped on the disk: nothing but the content differs
        file.write_bytes(b"contenT")
        os.utime(file, ns=times)
    elif damage == "mode":
        file.chmod(0o600)
    elif damage == "owner":
        os.chown(file, 4, 4)
    elif damage == "added":
        (file.parent / "z").write_text("z")
    else:
        file.unlink()
        if damage == "link":
            file.symlink_to("/etc/shadow")
    found = await store.verify()
    bad = f"sha256:{image.layer_dirs[0].name}"
    assert (found.layers, found.damaged, found.repaired, found.problems) == (2, (bad,), (bad,), ())
    assert file.read_bytes() == b"content"
    await sealed(store)
    assert (await store.verify(reference)).damaged == ()


async def test_damage_that_cannot_be_repaired_is_said(
    store: ImageStore, registry: FakeRegistry, tmp_path: Path
) -> None:
    mine = await store.fetch(await store.import_archive(layout(tmp_path, "a"), name="mine"))
    image = await start(store, registry.push("web:1", parts("b")))
    await sealed(store)
    (mine.layer_dirs[0] / "a").write_text("damaged")
    (image.layer_dirs[0] / "etc/conf/b").unlink()
    registry.always = "500"
    found = await store.verify()
    assert len(found.damaged) == 2
    assert found.repaired == ()
    assert any("import it again" in problem or "imported from a file" in problem for problem in found.problems)
    assert any("does not deliver" in problem for problem in found.problems)
    with pytest.raises(FailedPrecondition, match="imported from a file"):
        await start(store, "mine")


async def test_a_machine_keeps_running_on_a_layer_that_is_replaced(store: ImageStore, registry: FakeRegistry) -> None:
    reference = registry.push("web:1", parts("a"))
    image = await start(store, reference)
    root = await store.roots.mount("m1", image.layer_dirs, size_mb=32)
    await sealed(store)
    os.chown(image.layer_dirs[0] / "etc/conf/a", 4, 4)
    assert len((await store.verify()).repaired) == 1
    await store.collect()
    assert (root / "etc/conf/a").read_bytes() == b"content"
    await store.roots.unmount("m1")
    await store.collect()
    assert stored(store, "damaged") == set()


async def test_a_damaged_manifest_is_fetched_again(store: ImageStore, registry: FakeRegistry) -> None:
    image = parts("a")
    reference = registry.push("web:1", image)
    await start(store, reference)
    (store.filesystem.path / "blobs/sha256" / image.digest[7:]).write_bytes(b"{}")
    found = await store.verify()
    assert found.problems == ()
    assert (store.filesystem.path / "blobs/sha256" / image.digest[7:]).read_bytes() == image.manifest_bytes


async def test_a_lost_receipt_is_no_damage(open_store: OpenStore, registry: FakeRegistry) -> None:
    """Layers of an older version have none."""
    store = await open_store()
    reference = registry.push("web:1", parts("a"))
    await start(store, reference)
    await sealed(store)
    await store.close()
    for path in (store.filesystem.path / "receipts").iterdir():
        path.write_text("")
    again = await open_store()
    await start(again, reference)
    await sealed(again)
    assert (await again.verify()).damaged == ()
    assert len(registry.asked_for("blobs")) == 2


def test_stamp_and_seal_say_the_same_of_the_same(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "d/e/f").mkdir(parents=True)
        (tmp_path / name / "d/e/f/g").write_bytes(b"x" * 3_000_000)
        (tmp_path / name / "d/l").symlink_to("e")
        (tmp_path / name / b"\xff\n".decode(errors="surrogateescape")).touch()
        os.mkfifo(tmp_path / name / "fifo")
        for path in [*(tmp_path / name).rglob("*"), tmp_path / name]:
            os.utime(path, (1, 1), follow_symlinks=False)
    assert stamp(tmp_path / "a") == stamp(tmp_path / "b")
    assert seal(tmp_path / "a") == seal(tmp_path / "b")
    assert seal(tmp_path / "a")[1] == 3_000_000


# ---- pulls by the operator


async def test_progress_is_seen(store: ImageStore, registry: FakeRegistry) -> None:
    image = parts("a", megabytes=4)
    reference = registry.push("web:1", image)
    assert store.status(reference) == ()
    registry.failures.extend(["", "", "stall"])
    pulling = asyncio.create_task(store.pull(reference))
    half = len(image.layers[0]) // 2
    await eventually(lambda: [(one.state, one.done > 0) for one in store.status(reference)] == [("downloading", True)])
    assert store.status(reference)[0].done <= half
    registry.released.set()
    await pulling
    assert [(one.state, one.done, one.size) for one in store.status(reference)] == [
        ("ready", len(image.layers[0]), len(image.layers[0]))
    ]


async def test_a_pull_that_failed_goes_on_where_it_ended(open_store: OpenStore, registry: FakeRegistry) -> None:
    """Also in another process: an agent that was killed in the middle."""
    image = parts("a", megabytes=4)
    reference = registry.push("web:1", image)
    store = await open_store(retry_attempts=1)
    resolved = await store.resolve(reference)
    registry.failures.append("truncate")
    registry.always = ""
    registry.failures.extend(["500", "500", "500"])
    with pytest.raises(Unavailable):
        await store.fetch(resolved)
    await store.close()
    registry.failures.clear()
    half = len(image.layers[0]) // 2
    assert [path.stat().st_size for path in (store.filesystem.path / "blobs/partial").iterdir()] == [half]
    again = await open_store()
    await start(again, reference)
    ranges = [headers["Range"] for _, _, headers in registry.requests if "Range" in headers]
    assert ranges[-1] == f"bytes={half}-"
    assert stored(again, "blobs/partial") == set()


async def test_a_damaged_beginning_is_not_blamed_on_the_registry(store: ImageStore, registry: FakeRegistry) -> None:
    image = parts("a", megabytes=1)
    reference = registry.push("web:1", image)
    await store.resolve(reference)
    (store.filesystem.path / "blobs/partial" / sha(image.layers[0])[7:]).write_bytes(os.urandom(1000))
    assert ((await start(store, reference)).layer_dirs[0] / "etc/conf/a").stat().st_size == MIB


async def test_what_the_operator_pulled_with_credentials_serves_who_has_none(
    open_store: OpenStore, registry: FakeRegistry
) -> None:
    registry.user = ("ann", "s3cret")
    reference = registry.push("acme/web:1", parts("a"))
    store = await open_store()
    with pytest.raises(InvalidArgument, match="UNAUTHORIZED"):
        await store.resolve(reference)
    await store.pull(reference, credentials=Credentials(username="ann", password=SecretStr("s3cret")))
    assert (await start(store, reference)).resolved.stale
    with pytest.raises(InvalidArgument, match="UNAUTHORIZED"):
        await store.resolve(registry.push("acme/other:1", parts("b")))


async def test_a_wrong_password_gains_nothing_from_anothers_access(
    open_store: OpenStore, registry: FakeRegistry
) -> None:
    registry.user, registry.token = ("ann", "s3cret"), "t0k3n"
    reference = registry.push("acme/web:1", parts("a"))
    store = await open_store()
    await store.resolve(reference, credentials=Credentials(username="ann", password=SecretStr("s3cret")))
    with pytest.raises(InvalidArgument, match="UNAUTHORIZED"):
        await store.resolve(reference, credentials=Credentials(username="ann", password=SecretStr("guess")))


async def test_an_identity_token_is_traded(open_store: OpenStore, registry: FakeRegistry) -> None:
    registry.token, registry.refresh_token = "t0k3n", "identity"
    reference = registry.push("acme/web:1", parts("a"))
    store = await open_store()
    await store.resolve(reference, credentials=Credentials(username="<token>", password=SecretStr("identity")))
    assert [command for command, path, _ in registry.requests if path.startswith("/token")] == ["POST"]


async def test_showing_what_is_not_here(store: ImageStore) -> None:
    with pytest.raises(NotFound, match="not on this host"):
        store.show("nginx")
