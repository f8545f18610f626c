"""Roots as disks, for sandboxes with a kernel of their own."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from caddisfly.host.images import kernel
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import FailedPrecondition
from tests.images.test_rootfs import layers

_ENTRY = re.compile(r"^\s*\d+\s+\d+\s+(\S+)$", re.MULTILINE)


def names_in(image: Path) -> set[str]:
    """What is at the top of a read-only disk."""
    listed = subprocess.run(
        ["dump.erofs", "--ls", "--path=/", image], capture_output=True, check=True, text=True, timeout=30
    ).stdout
    return set(_ENTRY.findall(listed)) - {".", ".."}


async def test_the_host_shows_the_image_and_nobody_can_change_it_there(store: ImageStore) -> None:
    made = await store.roots.lay_out("m1", layers(store, 3), size_mb=32)
    assert (made.view / "all").read_text() == "2"
    with pytest.raises(OSError, match="Read-only"):
        (made.view / "all").write_text("changed")
    assert made.scratch.stat().st_size == 32 << 20
    assert names_in(made.image) == {"all", "only-0", "only-1", "only-2"}


async def test_an_images_disk_is_made_once_and_goes_with_its_layers(store: ImageStore) -> None:
    lower = layers(store, 2)
    first = await store.roots.lay_out("m1", lower, size_mb=32)
    made_at = first.image.stat().st_mtime_ns
    second = await store.roots.lay_out("m2", lower, size_mb=32)
    other = await store.roots.lay_out("m3", lower[:1], size_mb=32)
    assert second.image == first.image != other.image
    assert second.scratch != first.scratch
    assert first.image.stat().st_mtime_ns == made_at
    assert store.roots.forget_drives([layer.name for layer in lower]) == 0
    assert store.roots.forget_drives([lower[0].name]) > 0
    assert (first.image.exists(), other.image.exists()) == (False, True)


async def test_what_is_laid_out_stays_as_it_is(store: ImageStore) -> None:
    lower = layers(store, 1)
    first = await store.roots.lay_out("m1", lower, size_mb=32)
    number = first.scratch.stat().st_ino
    again = await store.roots.lay_out("m1", lower, size_mb=32)
    assert again.scratch.stat().st_ino == number, "a guest may be running on it"
    await store.roots.unmount("m1")
    assert not first.scratch.exists()


async def test_what_is_kept_comes_back_and_may_have_grown(store: ImageStore) -> None:
    lower = layers(store, 1)
    first = await store.roots.lay_out("m1", lower, size_mb=32, keep=True)
    with first.scratch.open("r+b") as file:
        file.seek(8 << 20)
        file.write(b"kept")
    await store.roots.unmount("m1", keep=True)
    assert store.roots.mounted() == set()
    again = await store.roots.lay_out("m1", lower, size_mb=64, keep=True)
    assert again.scratch.stat().st_size == 64 << 20
    with again.scratch.open("rb") as file:
        file.seek(8 << 20)
        assert file.read(4) == b"kept"


async def test_no_kernel_of_the_host_reads_what_a_guest_has_written(store: ImageStore) -> None:
    lower = layers(store, 1)
    await store.roots.lay_out("m1", lower, size_mb=32, keep=True)
    await store.roots.unmount("m1", keep=True)
    with pytest.raises(FailedPrecondition, match="virtual machine"):
        await store.roots.mount("m1", lower, size_mb=32, keep=True)
    assert store.roots.mounted() == set()
    assert not kernel.is_mount_point(store.roots.path("m1"))
    root = await store.roots.mount("m1", lower, size_mb=32)
    (root / "fresh").write_text("a root that is not kept is another one")


async def test_a_layer_that_is_gone_is_said_and_nothing_stays(store: ImageStore) -> None:
    lower = layers(store, 1)
    with pytest.raises(FailedPrecondition, match="not on this host"):
        await store.roots.lay_out("m1", (*lower, lower[0].with_name("f" * 64)), size_mb=32)
    assert store.roots.mounted() == set()
