"""Writes the entries of one layer below one directory, and nowhere else, whatever the layer says.

Fourteen advisories against one container runtime since 2017 are of one kind: a path was checked and then followed. So
no path is ever followed here. Each name is cut into components, each component is opened relative to the descriptor of
the one before, as a directory and never through a link, and the last one is created, never opened if it exists. What
the extractor's process does on top (its own root, limits) is `unpack`'s matter and not relied upon here.

Decisions, one per kind of entry:

- `..`, an absolute name, a parent that is a link or not a directory: the layer is refused. Real builders write none.
- A name that exists is replaced (a link by a file, a directory by a link, …); a directory keeps its contents.
- Symbolic links may say what they like: only the container resolves them, inside its own root.
- Hard links need an existing regular file or link of the same layer, found without following anything.
- Character and block devices are dropped: a sandbox gets its devices from the runtime, and a layer's `0:0` device would
  be taken for a whiteout. FIFOs stay: they are inert until both ends are opened from inside.
- `.wh.name` becomes the overlay's whiteout, `.wh..wh..opq` its opaque mark; other `.wh..wh.*` are AUFS's bookkeeping.
- Set-user-id bits stay, for images rely on them and sandboxes run with no_new_privs; the store is mounted nosuid.
- Of the extended attributes only file capabilities stay. `trusted.overlay.*` above all must not come from a layer.
- Parents that a layer does not list are root's, mode 0755: the layers below are unknown here, since a layer is unpacked
  once for all images that contain it.
- Names are bytes. Names that differ in case or in Unicode form are different names, as they are to the kernel.
"""

from __future__ import annotations

import errno
import os
import shutil
import stat
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace

from caddisfly.host.images.tar import (
    BLOCK_DEVICE,
    CHARACTER,
    DIRECTORY,
    FIFO,
    HARD_LINK,
    MAX_PATH_BYTES,
    SYMLINK,
    BadArchive,
    Entry,
)

MAX_DEPTH = 128
MAX_NAME_BYTES = 255
_OPAQUE = "trusted.overlay.opaque"
_CAPABILITY = b"security.capability"
_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Walker:
    """Opens directories component by component and keeps the present chain open: archives list siblings together."""

    def __init__(self, root: int, *, writer: TreeWriter | None = None) -> None:
        self._root = root
        self._writer = writer
        self._chain: list[tuple[bytes, int]] = []

    def open(self, parts: list[bytes], shown: str) -> int:
        """A descriptor of this directory, good until the next call."""
        common = 0
        while common < min(len(parts), len(self._chain)) and self._chain[common][0] == parts[common]:
            common += 1
        self.forget(below=common)
        for part in parts[common:]:
            self._chain.append((part, self._step(self._chain[-1][1] if self._chain else self._root, part, shown)))
        return self._chain[-1][1] if self._chain else self._root

    def forget(self, *, below: int = 0) -> None:
        """Close what is deeper than `below`."""
        while len(self._chain) > below:
            os.close(self._chain.pop()[1])

    def _step(self, parent: int, name: bytes, shown: str) -> int:
        try:
            return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        except FileNotFoundError:
            if self._writer is None:
                raise BadArchive(f"{shown} links to something that is not in the layer") from None
            self._writer.make_directory(parent, name, shown)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            if self._writer is None or not _is_whiteout(os.stat(name, dir_fd=parent, follow_symlinks=False)):
                raise BadArchive(f"{shown} has a parent that is a link or not a directory") from None
            self._writer.make_directory(parent, name, shown)
        return os.open(name, _OPEN_DIRECTORY, dir_fd=parent)


class TreeWriter:
    """Apply entries in the order of the archive, then `finish()`."""

    def __init__(self, root: int, *, max_entries: int, whiteouts: bool = True, owner: int | None = None) -> None:
        """Without `whiteouts`, `.wh.` is the beginning of a name like any other. `owner` gets everything instead."""
        self._root = root
        self._max_entries = max_entries
        self._whiteouts, self._owner = whiteouts, owner
        self._walker = Walker(root, writer=self)
        self._sources = Walker(root)
        self._times: dict[tuple[bytes, ...], int] = {}
        self.entries = 0
        self.dropped = 0

    def add(self, entry: Entry, data: Iterable[bytes]) -> None:
        """Create what the entry describes."""
        parts = split(entry.name, entry.shown)
        self._count()
        if not parts:
            if entry.kind != DIRECTORY:
                raise BadArchive(f"{entry.shown} would replace the root")
            return
        name, shown = parts[-1], entry.shown
        parent = self._walker.open(parts[:-1], shown)
        if self._owner is not None:
            entry = replace(entry, uid=self._owner, gid=self._owner)
        if self._whiteouts and name.startswith(b".wh."):
            self._whiteout(parent, name, shown)
        elif entry.kind in (CHARACTER, BLOCK_DEVICE):
            self.dropped += 1
        elif entry.kind == DIRECTORY:
            self.make_directory(parent, name, shown, counted=True)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, entry.mode, dir_fd=parent)
            self._times[tuple(parts)] = entry.mtime_ns
        elif entry.kind == HARD_LINK:
            self._hard_link(parent, name, entry)
        elif entry.kind == SYMLINK:
            if not 0 < len(entry.target) < MAX_PATH_BYTES:
                raise BadArchive(f"{shown} is a link with an empty or too long target")
            self._clear(parent, name)
            os.symlink(entry.target, name, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.utime(name, ns=(entry.mtime_ns, entry.mtime_ns), dir_fd=parent, follow_symlinks=False)
        elif entry.kind == FIFO:
            self._clear(parent, name)
            os.mkfifo(name, 0o600, dir_fd=parent)
            os.chown(name, entry.uid, entry.gid, dir_fd=parent, follow_symlinks=False)
            os.chmod(name, entry.mode, dir_fd=parent)
        else:
            self._file(parent, name, entry, data)

    def finish(self) -> None:
        """Set the times of directories, which writing into them has changed."""
        for parts, mtime_ns in self._times.items():
            with suppress(BadArchive):  # replaced by something else later in the layer
                os.utime(self._sources.open(list(parts), ""), ns=(mtime_ns, mtime_ns))
        self.close()

    def close(self) -> None:
        """Let go of all directories."""
        self._walker.forget()
        self._sources.forget()

    def make_directory(self, parent: int, name: bytes, shown: str, *, counted: bool = False) -> None:
        """Make sure of a directory; one that was whited out comes back opaque, hiding what is below it."""
        if not counted:
            self._count()
        opaque = False
        try:
            os.mkdir(name, 0o755, dir_fd=parent)
        except FileExistsError:
            existing = os.stat(name, dir_fd=parent, follow_symlinks=False)
            if stat.S_ISDIR(existing.st_mode):
                return
            opaque = _is_whiteout(existing)
            os.unlink(name, dir_fd=parent)
            os.mkdir(name, 0o755, dir_fd=parent)
        if self._owner is not None:
            os.chown(name, self._owner, self._owner, dir_fd=parent, follow_symlinks=False)
        if opaque:
            self._mark_opaque(parent, name)

    def _file(self, parent: int, name: bytes, entry: Entry, data: Iterable[bytes]) -> None:
        try:
            descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
        except FileExistsError:
            self._clear(parent, name)
            descriptor = os.open(name, _CREATE, 0o600, dir_fd=parent)
        try:
            for piece in data:
                view = memoryview(piece)
                while view:
                    view = view[os.write(descriptor, view) :]
            # The owner first: chown clears the set-user-id bit and file capabilities.
            os.fchown(descriptor, entry.uid, entry.gid)
            os.fchmod(descriptor, entry.mode)
            if capability := entry.xattrs.get(_CAPABILITY):
                try:
                    os.setxattr(descriptor, _CAPABILITY, capability)
                except OSError as error:
                    if error.errno != errno.EINVAL:
                        raise
                    raise BadArchive(f"{entry.shown} has file capabilities that the kernel does not know") from None
            os.utime(descriptor, ns=(entry.mtime_ns, entry.mtime_ns))
        finally:
            os.close(descriptor)

    def _hard_link(self, parent: int, name: bytes, entry: Entry) -> None:
        source = split(entry.target, entry.shown)
        if not source:
            raise BadArchive(f"{entry.shown} is a hard link to the root")
        directory = self._sources.open(source[:-1], entry.shown)
        try:
            target = os.stat(source[-1], dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            raise BadArchive(f"{entry.shown} links to something that is not in the layer") from None
        if not (stat.S_ISREG(target.st_mode) or stat.S_ISLNK(target.st_mode)):
            raise BadArchive(f"{entry.shown} is a hard link to something that is not a file")
        if self._same(parent, name, target):
            return
        self._clear(parent, name)
        # Clearing may have removed the directory of the source, as in a hard link a -> a/b.
        directory = self._sources.open(source[:-1], entry.shown)
        os.link(source[-1], name, src_dir_fd=directory, dst_dir_fd=parent, follow_symlinks=False)

    def _whiteout(self, parent: int, name: bytes, shown: str) -> None:
        if name == b".wh..wh..opq":
            os.setxattr(parent, _OPAQUE, b"y")
            return
        hidden = name[len(b".wh.") :]
        if hidden.startswith(b".wh."):
            self.dropped += 1
            return
        if hidden in (b"", b".", b".."):
            raise BadArchive(f"{shown} is a whiteout of nothing")
        # A whiteout speaks of the layers below only. What this layer itself has there stays, and stays alone.
        try:
            existing = os.stat(hidden, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            os.mknod(hidden, stat.S_IFCHR, os.makedev(0, 0), dir_fd=parent)
            return
        if stat.S_ISDIR(existing.st_mode):
            self._mark_opaque(parent, hidden)

    def _mark_opaque(self, parent: int, name: bytes) -> None:
        descriptor = os.open(name, _OPEN_DIRECTORY, dir_fd=parent)
        try:
            os.setxattr(descriptor, _OPAQUE, b"y")
        finally:
            os.close(descriptor)

    def _clear(self, parent: int, name: bytes) -> None:
        try:
            os.unlink(name, dir_fd=parent)
        except FileNotFoundError:
            return
        except IsADirectoryError:
            self._sources.forget()  # it may be standing inside
            shutil.rmtree(name, dir_fd=parent)

    @staticmethod
    def _same(parent: int, name: bytes, target: os.stat_result) -> bool:
        try:
            existing = os.stat(name, dir_fd=parent, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return existing.st_ino == target.st_ino

    def _count(self) -> None:
        self.entries += 1
        if self.entries > self._max_entries:
            raise BadArchive(f"it has more than {self._max_entries} entries")


def split(name: bytes, shown: str) -> list[bytes]:
    """The components of a name; refuses what could leave the root or hurt the file system."""
    parts = [part for part in name.split(b"/") if part not in (b"", b".")]
    if name.startswith(b"/") and parts:
        raise BadArchive(f"{shown} is an absolute name")
    if b".." in parts:
        raise BadArchive(f"{shown} contains `..`")
    if len(name) > MAX_PATH_BYTES or len(parts) > MAX_DEPTH or any(len(part) > MAX_NAME_BYTES for part in parts):
        raise BadArchive(f"{shown} is longer or deeper than a path may be")
    return parts


def _is_whiteout(status: os.stat_result) -> bool:
    return stat.S_ISCHR(status.st_mode) and status.st_rdev == 0
