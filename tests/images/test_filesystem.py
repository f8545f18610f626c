"""The store's own file system: made once, mounted when it is not, honest about what it is."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.host.images import kernel
from caddisfly.host.images.filesystem import StoreFilesystem
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import Unavailable
from tests.images.conftest import OpenStore, loop_devices, quick


def test_mounting_is_idempotent_and_content_stays(tmp_path: Path) -> None:
    filesystem = StoreFilesystem(tmp_path / "s", quick())
    filesystem.ensure_mounted()
    filesystem.ensure_mounted()
    assert [kind for _, kind in kernel.mounts_below(tmp_path)] == ["xfs"]
    assert filesystem.reflink
    (filesystem.path / "x").write_text("stays")
    filesystem.unmount()
    filesystem.unmount()
    assert loop_devices(tmp_path, expected=0) == 0
    assert not (filesystem.path / "x").exists()
    filesystem.ensure_mounted()
    assert (filesystem.path / "x").read_text() == "stays"
    filesystem.unmount()


def test_the_file_is_sparse(tmp_path: Path) -> None:
    filesystem = StoreFilesystem(tmp_path / "s", quick(store_size_gb=2))
    filesystem.ensure_mounted()
    status = filesystem.image.stat()
    assert status.st_size == 2 << 30
    assert status.st_blocks * 512 < 200 << 20
    filesystem.unmount()


def test_a_larger_setting_makes_the_store_larger(tmp_path: Path) -> None:
    for size_gb in (1, 2):
        filesystem = StoreFilesystem(tmp_path / "s", quick(store_size_gb=size_gb))
        filesystem.ensure_mounted()
        assert filesystem.total_bytes() > (size_gb - 0.2) * (1 << 30)
        filesystem.unmount()


def test_without_xfs_a_plain_directory_is_used_and_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def impossible(*_: object, **__: object) -> None:
        raise OSError(19, "No such device")

    monkeypatch.setattr(kernel, "attach_loop", impossible)
    filesystem = StoreFilesystem(tmp_path / "s", quick())
    filesystem.ensure_mounted()
    assert not filesystem.reflink
    assert "No such device" in filesystem.reason
    assert not filesystem.image.exists()
    filesystem.ensure_mounted()
    assert len(kernel.mounts_below(tmp_path)) == 1, "bound to itself once, to be shared"
    filesystem.unmount()
    assert kernel.mounts_below(tmp_path) == []


def test_a_damaged_store_is_not_hidden_by_an_empty_one(tmp_path: Path) -> None:
    filesystem = StoreFilesystem(tmp_path / "s", quick())
    filesystem.root.mkdir()
    filesystem.image.write_bytes(b"not a file system" * 100_000)
    with pytest.raises(Unavailable, match="cannot be mounted") as caught:
        filesystem.ensure_mounted()
    assert "xfs_repair" in caught.value.next
    assert loop_devices(tmp_path, expected=0) == 0


async def test_one_process_at_a_time(store: ImageStore, tmp_path: Path) -> None:
    second = ImageStore(tmp_path / "store", settings=quick())
    with pytest.raises(Unavailable, match="in use"):
        await second.open()


async def test_closing_keeps_the_mounts_and_opening_finds_them(open_store: OpenStore, tmp_path: Path) -> None:
    first = await open_store()
    layer = first.filesystem.path / "layers" / ("0" * 64)
    layer.mkdir()
    root = await first.roots.mount("m1", (layer,), size_mb=32)
    (root / "x").write_text("running")
    await first.close()
    second = await open_store()
    assert second.roots.mounted() == {"m1"}
    assert (root / "x").read_text() == "running"
