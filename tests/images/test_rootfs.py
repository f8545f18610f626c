"""Writable roots: limited, private, shared underneath, and gone without a trace."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from caddisfly.host.images import kernel
from caddisfly.host.images.rootfs import RootFilesystems
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, Unavailable
from tests.images.conftest import OpenStore, loop_devices


def layers(store: ImageStore, count: int) -> tuple[Path, ...]:
    """Directories that each have a file of their own, and one that all have."""
    found = []
    for number in range(count):
        layer = store.filesystem.path / "layers" / f"{number:064x}"
        layer.mkdir()
        (layer / f"only-{number}").write_text(str(number))
        (layer / "all").write_text(str(number))
        found.append(layer)
    return tuple(found)


async def test_the_upper_layer_wins_and_the_lower_ones_stay_as_they_are(store: ImageStore) -> None:
    lower = layers(store, 3)
    root = await store.roots.mount("m1", lower, size_mb=32)
    assert (root / "all").read_text() == "2"
    assert sorted(path.name for path in root.iterdir()) == ["all", "only-0", "only-1", "only-2"]
    (root / "all").write_text("changed")
    (root / "only-0").unlink()
    assert [(layer / "all").read_text() for layer in lower] == ["0", "1", "2"]
    assert (lower[0] / "only-0").exists()


async def test_a_root_cannot_grow_past_its_size(store: ImageStore) -> None:
    root = await store.roots.mount("m1", layers(store, 1), size_mb=32)
    other = await store.roots.mount("m2", layers_again(store), size_mb=32)
    with pytest.raises(OSError, match="No space left") as caught:
        (root / "big").write_bytes(os.urandom(64 << 20))
    assert caught.value.errno == errno.ENOSPC
    assert 16 << 20 < shutil.disk_usage(root).total <= 32 << 20
    (other / "fine").write_bytes(bytes(1 << 20))


def layers_again(store: ImageStore) -> tuple[Path, ...]:
    return tuple(sorted((store.filesystem.path / "layers").iterdir()))


async def test_mounting_again_gives_the_same_root(store: ImageStore) -> None:
    lower = layers(store, 1)
    root = await store.roots.mount("m1", lower, size_mb=32)
    (root / "mine").write_text("kept")
    again = await asyncio.gather(*(store.roots.mount("m1", lower, size_mb=32) for _ in range(5)))
    assert set(again) == {root}
    assert (root / "mine").read_text() == "kept"
    assert store.roots.mounted() == {"m1"}


async def test_a_new_root_is_fresh_and_a_kept_one_is_not(store: ImageStore) -> None:
    lower = layers(store, 1)
    for keep, expected in ((True, True), (False, False)):
        root = await store.roots.mount("m1", lower, size_mb=32, keep=keep)
        (root / "mine").write_text("written")
        await store.roots.unmount("m1", keep=keep)
        root = await store.roots.mount("m1", lower, size_mb=32, keep=keep)
        assert (root / "mine").exists() is expected
        await store.roots.unmount("m1")


async def test_a_kept_root_grows_holds_its_limit_and_never_shrinks(store: ImageStore) -> None:
    lower = layers(store, 1)
    for size_mb, room_mb in ((32, 32), (64, 64), (32, 64)):
        root = await store.roots.mount("m1", lower, size_mb=size_mb, keep=True)
        (root / f"of-{size_mb}").write_text("written")
        found = os.statvfs(root)
        assert room_mb * 0.5 < found.f_blocks * found.f_frsize / (1 << 20) <= room_mb
        await store.roots.unmount("m1", keep=True)
    assert (await store.roots.mount("m1", lower, size_mb=32, keep=True) / "of-64").exists()


async def test_a_kept_root_that_is_still_in_use_is_not_opened_twice(store: ImageStore) -> None:
    lower = layers(store, 1)
    root = await store.roots.mount("m1", lower, size_mb=32, keep=True)
    with (root / "all").open():
        await store.roots.unmount("m1", keep=True)
        with pytest.raises(Unavailable, match="still in use"):
            await store.roots.mount("m1", lower, size_mb=32, keep=True)
    await store.roots.mount("m1", lower, size_mb=32, keep=True)


async def test_a_kept_root_that_a_crash_left_half_made_is_made_again(store: ImageStore) -> None:
    home = store.roots.path("m1").parent
    home.mkdir(parents=True)
    (home / "upper.new").write_text("half")
    root = await store.roots.mount("m1", layers(store, 1), size_mb=32, keep=True)
    (root / "mine").write_text("written")


async def test_unmounting_frees_everything_and_may_be_repeated(store: ImageStore, tmp_path: Path) -> None:
    await store.roots.mount("m1", layers(store, 1), size_mb=32)
    assert loop_devices(tmp_path, expected=2) == 2
    await store.roots.unmount("m1")
    await store.roots.unmount("m1")
    await store.roots.unmount("never-there")
    assert store.roots.mounted() == store.roots.known() == set()
    assert loop_devices(tmp_path, expected=1) == 1  # the store's own


async def test_a_root_in_use_leaves_the_name_space_at_once(store: ImageStore, tmp_path: Path) -> None:
    root = await store.roots.mount("m1", layers(store, 1), size_mb=32)
    with (root / "all").open():
        await store.roots.unmount("m1")
        assert store.roots.mounted() == set()
    assert loop_devices(tmp_path, expected=1) == 1


async def test_a_hundred_layers(store: ImageStore) -> None:
    lower = layers(store, 100)
    root = await store.roots.mount("m1", lower, size_mb=32)
    assert (root / "all").read_text() == "99"
    assert all((root / f"only-{number}").exists() for number in range(100))


async def test_the_same_layer_twice_counts_as_the_upper_one(store: ImageStore) -> None:
    first, second = layers(store, 2)
    root = await store.roots.mount("m1", (first, second, first), size_mb=32)
    assert (root / "all").read_text() == "0"


async def test_a_store_path_that_overlay_options_cannot_spell(open_store: OpenStore, tmp_path: Path) -> None:
    store = await open_store(tmp_path / "a,b:c\\d e")
    root = await store.roots.mount("m1", layers(store, 2), size_mb=32)
    assert (root / "all").read_text() == "1"
    assert store.roots.mounted() == {"m1"}


async def test_a_directory_of_the_image_can_be_renamed(store: ImageStore) -> None:
    (layer,) = layers(store, 1)
    (layer / "old").mkdir()
    (layer / "old/file").write_text("x")
    root = await store.roots.mount("m1", (layer,), size_mb=32)
    os.rename(root / "old", root / "new")
    assert (root / "new/file").read_text() == "x"


async def test_set_user_id_works_inside_and_devices_do_not(store: ImageStore, tmp_path: Path) -> None:
    (layer,) = layers(store, 1)
    shutil.copy("/usr/bin/id", layer / "id")
    os.chmod(layer / "id", 0o4755)
    root = await store.roots.mount("m1", (layer,), size_mb=32)
    (store.filesystem.path / "layers").chmod(0o711)
    for part in tmp_path.parents[:-1]:
        os.chmod(part, os.stat(part).st_mode | 0o011)
    os.chmod(tmp_path, 0o711)

    def effective_user(program: Path) -> str:
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", str(program), "-u"]
        return subprocess.run(command, capture_output=True, text=True, check=True, cwd="/").stdout.strip()

    assert effective_user(root / "id") == "0"
    assert effective_user(layer / "id") == "65534"
    os.mknod(root / "null", 0o020666, os.makedev(1, 3))
    with pytest.raises(PermissionError):
        (root / "null").read_bytes()


async def test_an_agent_that_died_half_way_leaves_nothing_for_long(store: ImageStore, tmp_path: Path) -> None:
    lower = layers(store, 1)
    await store.roots.mount("keep", lower, size_mb=32)
    await store.roots.mount("stray", lower, size_mb=32)
    unfinished = store.filesystem.path / "roots" / "unfinished"
    (unfinished / "quota").mkdir(parents=True)
    kernel.clone_file(store.filesystem.path / "templates" / "32.ext4", unfinished / "upper.ext4")
    device, descriptor = kernel.attach_loop(unfinished / "upper.ext4", direct_io=False)
    kernel.mount(device, unfinished / "quota", kind="ext4")
    os.close(descriptor)
    found = RootFilesystems(store.filesystem.path, reflink=True)
    assert found.mounted() == {"keep", "stray", "unfinished"}
    assert await found.sweep(keep={"keep"}) == {"stray", "unfinished"}
    assert found.mounted() == {"keep"}
    assert loop_devices(tmp_path, expected=2) == 2


async def test_an_unfinished_root_is_started_over(store: ImageStore) -> None:
    home = store.filesystem.path / "roots" / "m1"
    home.mkdir()
    (home / "upper.ext4").write_bytes(b"not a file system")
    root = await store.roots.mount("m1", layers(store, 1), size_mb=32)
    assert (root / "all").exists()


async def test_a_failed_mount_leaves_nothing(store: ImageStore, tmp_path: Path) -> None:
    with pytest.raises(FailedPrecondition, match="gone"):
        await store.roots.mount("m1", (tmp_path / "no-such-layer",), size_mb=32)
    assert store.roots.known() == set()
    assert loop_devices(tmp_path, expected=1) == 1


@pytest.mark.parametrize("key", ["", "../x", "a/b", ".", "..", "a b", "x" * 200])
async def test_a_key_cannot_lead_elsewhere(store: ImageStore, key: str) -> None:
    with pytest.raises(InvalidArgument):
        await store.roots.mount(key, layers(store, 1), size_mb=32)


@pytest.mark.parametrize("size_mb", [0, -1, 15, 1 << 30])
async def test_a_size_that_cannot_be_is_refused(store: ImageStore, size_mb: int) -> None:
    with pytest.raises(InvalidArgument):
        await store.roots.mount("m1", layers(store, 1), size_mb=size_mb)


async def test_many_at_once(store: ImageStore, tmp_path: Path) -> None:
    lower = layers(store, 2)
    keys = [f"m{number}" for number in range(24)]
    await asyncio.gather(*(store.roots.mount(key, lower, size_mb=32) for key in keys))
    assert store.roots.mounted() == set(keys)
    await asyncio.gather(*(store.roots.unmount(key) for key in keys))
    assert store.roots.mounted() == set()
    assert loop_devices(tmp_path, expected=1) == 1


async def test_roots_without_reflinks(open_store: OpenStore, tmp_path: Path) -> None:
    store = await open_store(store_filesystem="directory")
    assert not store.filesystem.reflink
    root = await store.roots.mount("m1", layers(store, 1), size_mb=32)
    assert (root / "all").read_text() == "0"
    assert shutil.disk_usage(root).total <= 32 << 20
