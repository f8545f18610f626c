"""Stores on real file systems. Every test must leave no mount, no loop device and no extractor behind."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from caddisfly.host.images import kernel
from caddisfly.host.images.build import busybox_layer
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.images.store import ImageStore
from tests.images.registry_server import FakeRegistry

OpenStore = Callable[..., Awaitable[ImageStore]]

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="mounting needs root")


def loop_devices_below(directory: Path) -> list[str]:
    """Backing files of loop devices in a directory."""
    found = []
    for path in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            backing = path.read_text().strip()
        except OSError:
            continue
        if backing.startswith(str(directory)):
            found.append(backing)
    return found


def loop_devices(directory: Path, *, expected: int) -> int:
    """How many there are, once it is what is expected, or after five seconds.

    Not at once: anybody on this machine who starts a mount name space of their own holds a copy of ours for a moment.
    """
    deadline = time.monotonic() + 5
    while (found := len(loop_devices_below(directory))) != expected and time.monotonic() < deadline:
        time.sleep(0.01)
    return found


def quick(**changes: object) -> ImageSettings:
    """Settings for tests: a small store, and retries that do not wait."""
    values: dict[str, object] = {
        "store_size_gb": 1,
        "min_free_mb": 16,
        "retry_base_s": 0.001,
        "retry_attempts": 3,
        "max_layer_bytes": 64 << 20,
        "max_entries": 1_000,
        "local_registries": True,
        "collect_grace_s": 0,
    }
    return ImageSettings.model_validate(values | changes)


@pytest.fixture(autouse=True)
def nothing_left(tmp_path: Path) -> Iterator[None]:
    yield
    left = [str(point) for point, _ in kernel.mounts_below(tmp_path)]
    for point in reversed(left):  # so that one failure does not become many
        kernel.unmount(Path(point))
    assert left == []
    assert loop_devices(tmp_path, expected=0) == 0, loop_devices_below(tmp_path)


@pytest.fixture
async def open_store(tmp_path: Path) -> AsyncIterator[OpenStore]:
    """Open stores; all are closed and unmounted afterwards."""
    stores: list[ImageStore] = []

    async def open_(root: Path = tmp_path / "store", **changes: object) -> ImageStore:
        store = ImageStore(root, settings=quick(**changes))
        await store.open()
        stores.append(store)
        return store

    yield open_
    for store in stores:
        await store.close(unmount=True)
    for store in stores:
        store.filesystem.unmount()  # for stores that the test itself has closed


@pytest.fixture
async def store(open_store: OpenStore) -> ImageStore:
    return await open_store()


@pytest.fixture(scope="session")
def busybox() -> bytes:
    """The busybox layer, an uncompressed tar."""
    return busybox_layer()


@pytest.fixture
def registry() -> Iterator[FakeRegistry]:
    server = FakeRegistry()
    yield server
    server.close()
