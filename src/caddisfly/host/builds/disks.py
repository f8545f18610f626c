"""Where builds work: for each app a file system in a file, which is its cache.

A build works on a clone of the app's file (shared blocks, constant time), and what it leaves becomes the cache by
rename: so one that filled its disk, was killed or went down with the host leaves nothing behind, whatever state it was
in, and the cache is always what the last build left that came to its end. The file's size is the build's limit. All of
them lie on a file system of their own, so the image store, on which Machines write, cannot be filled from here.

    <data>/builds/fs/caches/<org>/<app>.ext4    the cache; its time is that of its last use
    <data>/builds/fs/work/<build>.ext4          the clone
    <data>/builds/fs/empty-<GiB>.ext4           what a first build clones
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from pathlib import Path

from caddisfly.host.builds.build import Build
from caddisfly.host.builds.buildah import CONTEXT, DISK, KNOWN, STORAGE, TEMPORARY
from caddisfly.host.builds.bundle import FIRST_ID
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.images import kernel
from caddisfly.host.images.filesystem import StoreFilesystem
from caddisfly.host.images.rootfs import make_ext4
from caddisfly.host.images.settings import GIB, ImageSettings

_BLOCK = 512
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_DIRECTORIES = (STORAGE, f"{STORAGE}/overlay-containers", TEMPORARY, KNOWN, CONTEXT)


class Disks:
    """All calls block."""

    def __init__(self, directory: Path, settings: BuildSettings) -> None:
        self._settings = settings
        self._filesystem = StoreFilesystem(directory, ImageSettings(store_size_gb=settings.caches_gb))
        self._top = self._filesystem.path
        self._caches, self._work = self._top / "caches", self._top / "work"

    def open(self) -> None:
        """Mount the file system, and remove what builds left that never ended."""
        self._filesystem.ensure_mounted()
        self._top.chmod(0o700)
        shutil.rmtree(self._work, ignore_errors=True)
        for directory in (self._caches, self._work):
            directory.mkdir(exist_ok=True)

    def mount(self, build: Build, target: Path) -> None:
        """Clone the app's file and mount it, with buildah's directories and an empty one for the context."""
        clone, cache = self._clone(build), self._cache(build)
        clone.unlink(missing_ok=True)
        if cache.exists() and cache.stat().st_size != self._settings.disk_gb * GIB:
            cache.unlink()  # the setting has changed
        if not self._filesystem.reflink:
            # Without cheap clones it works on the cache itself, and a build that is killed costs it.
            if cache.exists():
                cache.rename(clone)
            else:
                make_ext4(clone, size_mb=self._settings.disk_gb << 10)
        else:
            kernel.clone_file(cache if cache.exists() else self._empty(), clone)
        target.mkdir(exist_ok=True)
        device, descriptor = kernel.attach_loop(clone, direct_io=False)
        try:
            # Nothing here must survive a power cut: a clone that was not finished is thrown away.
            options = "noinit_itable,barrier=0,discard"
            kernel.mount(device, target, kind="ext4", flags=kernel.MS_NOATIME, options=options)
        finally:
            os.close(descriptor)
        _furnish(target)

    def unmount(self, build: Build, target: Path, *, keep: bool) -> None:
        """Take it off. With `keep`, what is on it is the app's cache from now on; else the cache stays what it was."""
        mounted = kernel.is_mount_point(target)
        if mounted and keep:
            shutil.rmtree(target / CONTEXT.removeprefix(DISK).lstrip("/"), ignore_errors=True)
        while kernel.is_mount_point(target):
            kernel.unmount(target)
        clone = self._clone(build)
        if keep and mounted and clone.exists():
            cache = self._cache(build)
            cache.parent.mkdir(parents=True, exist_ok=True)
            os.utime(clone)
            clone.replace(cache)
        clone.unlink(missing_ok=True)

    def free_mb(self) -> int:
        """What can still be written, here and on the disk below."""
        return self._filesystem.free_bytes() >> 20

    def evict(self) -> list[str]:
        """Remove the caches of the longest unused apps until all together are small enough. Returns their names."""
        found = sorted(self._caches.glob("*/*.ext4"), key=lambda path: path.stat().st_mtime)
        sizes = {path: path.stat().st_blocks * _BLOCK for path in found}
        # Blocks that a cache shares with a clone at work count once; some room is for the builds themselves.
        limit = min(self._settings.caches_gb * GIB, self._filesystem.total_bytes()) * 3 // 4
        gone = []
        while found and sum(sizes[path] for path in found) > limit:
            oldest = found.pop(0)
            oldest.unlink()
            gone.append(f"{oldest.parent.name}/{oldest.stem}")
        return gone

    def forget(self, org_id: str, app_id: str) -> None:
        """Remove an app's cache."""
        (self._caches / _name(org_id) / f"{_name(app_id)}.ext4").unlink(missing_ok=True)

    def _empty(self) -> Path:
        template = self._top / f"empty-{self._settings.disk_gb}.ext4"
        if not template.exists():
            draft = template.with_suffix(".new")
            draft.unlink(missing_ok=True)
            make_ext4(draft, size_mb=self._settings.disk_gb << 10)
            draft.rename(template)
        return template

    def _cache(self, build: Build) -> Path:
        return self._caches / _name(build.org_id) / f"{_name(build.app_id)}.ext4"

    def _clone(self, build: Build) -> Path:
        return self._work / f"{_name(build.id)}.ext4"


def _furnish(target: Path) -> None:
    """Make sure of the directories, and empty the context's.

    Former builds wrote here, as root of their sandbox: what has such a name may be a link to anywhere on the host. So
    each is opened from the one above it, and never followed.
    """
    top = os.open(target, _DIRECTORY)
    try:
        os.fchown(top, FIRST_ID, FIRST_ID)
        _remove(CONTEXT.rpartition("/")[2], top)
        for path in _DIRECTORIES:
            at = os.dup(top)
            for name in path.removeprefix(f"{DISK}/").split("/"):
                below = _enter(name, at)
                os.close(at)
                at = below
            os.close(at)
    finally:
        os.close(top)


def _enter(name: str, parent: int) -> int:
    try:
        os.mkdir(name, 0o755, dir_fd=parent)
    except FileExistsError:
        if not stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
    descriptor = os.open(name, _DIRECTORY, dir_fd=parent)
    os.fchown(descriptor, FIRST_ID, FIRST_ID)
    return descriptor


def _remove(name: str, parent: int) -> None:
    try:
        if stat.S_ISDIR(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode):
            shutil.rmtree(name, dir_fd=parent)
        else:
            os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return


def _name(id: str) -> str:
    if not id or "/" in id or id.startswith("."):
        raise OSError(errno.EINVAL, "this cannot name a file", id)
    return id
