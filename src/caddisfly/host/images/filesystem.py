"""The store's own file system: XFS inside one sparse file.

Two reasons. Files can be cloned in constant time (reflink), which makes a quota-limited writable root cost
milliseconds. And the operator's disk may be anything: on an ext4 without a journal, unpacking after deleting was
measured ten times slower than on XFS in a file on that same disk. Where XFS or loop devices are not to be had, the
store lives in a plain directory, more slowly, and `reflink` says so.

Mounted `nosuid,nodev`: a set-user-id program or device that came with an image is inert on its path in the store and
only gains meaning through a sandbox's overlay. Mounted shared, so that a mount name space made by somebody else on this
host, with slave propagation as runtimes do, lets go of a Machine's root when we do.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.images import kernel
from caddisfly.host.images.settings import GIB, ImageSettings
from caddisfly.model.errors import Unavailable

log = logging.getLogger(__name__)

_MIN_BYTES = GIB
_SHARE_OF_FREE = 0.8
_SETUP_TIMEOUT_S = 120


@dataclass(slots=True)
class StoreFilesystem:
    """Owns `<root>/store.xfs` and its mount point `<root>/fs`. All calls block."""

    root: Path
    settings: ImageSettings
    reflink: bool = False
    reason: str = ""
    """Why there is no own file system, when there is none."""
    _new: bool = False

    @property
    def path(self) -> Path:
        return self.root / "fs"

    @property
    def image(self) -> Path:
        return self.root / "store.xfs"

    def ensure_mounted(self) -> None:
        """Make sure that `path` can be used. Does nothing when it is mounted already."""
        self.path.mkdir(parents=True, exist_ok=True)
        self.root.chmod(0o711)
        self.reason = ""
        if not self._is_mounted():
            self._make_and_mount()
        self.path.chmod(0o711)
        self.reflink = _can_clone(self.path)

    def unmount(self) -> None:
        """Take the file system off; nothing in it may be mounted any more."""
        while self._is_mounted():
            kernel.unmount(self.path)

    def _is_mounted(self) -> bool:
        return any(point == self.path for point, _ in kernel.mounts_below(self.path))

    def _make_and_mount(self) -> None:
        if self.settings.store_filesystem != "directory":
            try:
                self._make()
                self._mount()
            except (OSError, subprocess.SubprocessError) as error:
                self._give_up(error)
        if not self._is_mounted():
            kernel.mount(str(self.path), self.path, flags=kernel.MS_BIND)
        kernel.mount("none", self.path, flags=kernel.MS_SHARED)

    def total_bytes(self) -> int:
        return shutil.disk_usage(self.path).total

    def free_bytes(self) -> int:
        """What can really still be written: in the store, and on the disk that its sparse file lies on."""
        return min(shutil.disk_usage(self.path).free, shutil.disk_usage(self.root).free)

    def _make(self) -> None:
        wanted = self.settings.store_size_gb * GIB
        self._new = not self.image.exists()
        if self._new:
            size = max(_MIN_BYTES, min(wanted, int(shutil.disk_usage(self.root).free * _SHARE_OF_FREE)))
            draft = self.image.with_suffix(".new")
            draft.unlink(missing_ok=True)
            with draft.open("xb") as file:
                file.truncate(size)
            draft.chmod(0o600)
            _run("mkfs.xfs", "-q", "-K", "-m", "reflink=1", "-s", "size=4096", str(draft))
            draft.replace(self.image)
        elif self.image.stat().st_size < wanted and shutil.disk_usage(self.root).free > wanted:
            os.truncate(self.image, wanted)

    def _mount(self) -> None:
        device, descriptor = kernel.attach_loop(self.image, direct_io=True)
        try:
            # discard: what is deleted inside becomes free on the disk outside.
            flags = kernel.MS_NOSUID | kernel.MS_NODEV | kernel.MS_NOATIME
            kernel.mount(device, self.path, kind="xfs", flags=flags, options="discard")
        finally:
            os.close(descriptor)
        if self.image.stat().st_size - self.total_bytes() > GIB // 2:
            _run("xfs_growfs", "-d", str(self.path))

    def _give_up(self, error: Exception) -> None:
        self.reason = f"no XFS in a loop file here ({error})"
        # An image that exists may hold the only copy of imported images: using a directory instead would hide them.
        if self.settings.store_filesystem == "loop" or not self._new:
            raise Unavailable(
                f"the image store {self.image} cannot be mounted",
                why=str(error),
                next="look at the kernel's log; xfs_repair may help; or delete the file to begin with an empty store",
            ) from error
        self.image.unlink(missing_ok=True)
        log.warning("image_store_without_reflink", extra={"path": str(self.path), "reason": self.reason})


def _can_clone(directory: Path) -> bool:
    source, target = directory / ".clone-source", directory / ".clone-target"
    try:
        source.write_bytes(b"x" * 4096)
        target.unlink(missing_ok=True)
        kernel.clone_file(source, target)
    except OSError:
        return False
    finally:
        source.unlink(missing_ok=True)
        target.unlink(missing_ok=True)
    return True


def _run(*command: str) -> None:
    result = subprocess.run(command, capture_output=True, timeout=_SETUP_TIMEOUT_S, check=False)
    if result.returncode != 0:
        text = result.stderr.decode(errors="replace").strip()
        raise OSError(result.returncode, f"{command[0]}: {text[-300:]}")
