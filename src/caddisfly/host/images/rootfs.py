"""One writable root per sandbox: the image's layers, read-only, under an upper layer that cannot grow past its size.

The limit is a file system of its own. A sparse ext4 image is made once per size; each sandbox gets a clone of it
(shared blocks, constant time), a loop device that frees itself, and an overlay on top. Measured against the
alternatives: project quotas are not in every kernel, a tmpfs counts as memory, and mkfs for each start costs more
than all of this together.

The ext4 is taken out of the name space as soon as the overlay holds it. One mount per Machine is left, taking that
one off takes everything down, and the upper layer has no path that somebody could write to behind the overlay's back.

`nodev` but not `nosuid`: device nodes that a process in a sandbox might make must be inert, while `su`, `sudo` and
`ping` belong to the images people run. That is safe because processes get into a sandbox only with no_new_privs
unless the Machine's own configuration says otherwise, and because no other path leads to these files (the store is
nosuid).

    fs/templates/<MiB>.ext4          made once, with the overlay's directories in it
    fs/roots/<key>/layers.json       what is in use, for the collector; written first
    fs/roots/<key>/upper.ext4        the clone
    fs/roots/<key>/quota             where it is mounted for an instant
    fs/roots/<key>/rootfs            the overlay
    fs/roots/<key>/foreign           a guest may have written to the clone: no kernel of this host may read it
    fs/drives/<layers>.erofs         an image as a disk, made once for all sandboxes with a kernel of their own

Such a sandbox mounts its root itself: it is given the image's disk and the clone. The host mounts only the layers, to
look things up in them, and never a file system that a guest has written to.
"""

from __future__ import annotations

import asyncio
import errno
import hashlib
import json
import os
import re
import subprocess
import tempfile
from collections.abc import Collection, Iterable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from weakref import WeakValueDictionary

from caddisfly.host.images import erofs, kernel
from caddisfly.host.images.blobs import disk_problem
from caddisfly.host.images.durable import remove_tree
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, Unavailable

MIN_SIZE_MB, MAX_SIZE_MB = 16, 1 << 20
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_PLAIN = re.compile(r"[A-Za-z0-9_./-]+")
_OPTIONS_LIMIT = 4095
_MKFS_TIMEOUT_S = 120
_UPPER_DIRS = ("upper", "work")
_FOREIGN = "foreign"
_BLOCK = 4096
_EXT4_BLOCKS_AT = 1024 + 4
"""Where its superblock says how many blocks it has."""
_BLOCK_DEVICES = Path("/sys/block")


@dataclass(frozen=True, slots=True)
class LaidOut:
    """A root as disks. `view` shows the image, read-only, on the host."""

    view: Path
    image: Path
    scratch: Path


class RootFilesystems:
    """The writable roots of one host."""

    def __init__(self, directory: Path, *, reflink: bool) -> None:
        self._roots = directory / "roots"
        self._templates = directory / "templates"
        self._drives = directory / "drives"
        self._reflink = reflink
        # Weak: a lock lives as long as somebody holds it or waits for it.
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._template_lock = asyncio.Lock()
        for path in (self._roots, self._templates, self._drives):
            path.mkdir(parents=True, exist_ok=True)
            path.chmod(0o711)

    async def mount(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> Path:
        """The root of sandbox `key` over `layers` (lowest first). One that is mounted already is returned as it is.

        With `keep`, an upper layer that `unmount(keep=True)` left behind is used again; otherwise the root is fresh.
        """
        home = self._home(key)
        if not layers or not MIN_SIZE_MB <= size_mb <= MAX_SIZE_MB:
            raise InvalidArgument(
                f"cannot make a root of {size_mb} MiB over {len(layers)} layers",
                why=f"it needs at least one layer and {MIN_SIZE_MB} to {MAX_SIZE_MB} MiB",
            )
        async with self._lock(key):
            target = home / "rootfs"
            if kernel.is_mount_point(target):
                return target
            if self._reflink:
                await self._ensure_template(size_mb)
            try:
                await asyncio.to_thread(self._mount, home, layers, size_mb, keep)
            except OSError as error:
                raise disk_problem(error, doing=f"make the root of {key}", disk=self._roots) from error
            return target

    async def lay_out(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> LaidOut:
        """The root of sandbox `key` as disks, with `keep` as for `mount`. Making an image's disk takes some seconds."""
        home = self._home(key)
        async with self._lock(key):
            if self._reflink:
                await self._ensure_template(size_mb)
            image = self._drives / f"{_name_of(layers)}.erofs"
            try:
                # One that is there already may be in use: a new disk under its guest's memory would be the end of it.
                if not (kernel.is_mount_point(home / "rootfs") and (home / "upper.ext4").exists()):
                    await asyncio.to_thread(self._lay_out, home, layers, size_mb, keep)
                async with self._lock(image.name):  # of this image alone: making a large one takes minutes
                    if not image.exists():
                        await asyncio.to_thread(_make_drive, home / "rootfs", image, layers)
            except OSError as error:
                raise disk_problem(error, doing=f"make the disks of {key}", disk=self._roots) from error
            return LaidOut(home / "rootfs", image, home / "upper.ext4")

    def _lay_out(self, home: Path, layers: tuple[Path, ...], size_mb: int, keep: bool) -> None:
        if home.exists():
            _dismantle(home, keep=keep)
        upper, target = home / "upper.ext4", home / "rootfs"
        try:
            for path in (home, target):
                path.mkdir(mode=0o711, exist_ok=True)
            (home / "layers.json").write_text(json.dumps([layer.name for layer in layers]))
            if not upper.exists():
                self._make_upper(upper, size_mb)
            elif upper.stat().st_size < size_mb << 20:
                os.truncate(upper, size_mb << 20)  # its guest makes the file system larger
            (home / _FOREIGN).touch()
            _mount_view(target, layers)
        except BaseException:
            _dismantle(home, keep=keep)
            raise

    def drives(self) -> dict[frozenset[str], int]:
        """How many bytes the disks of images take, by the layers that each is made of."""
        found = {}
        for note in self._drives.glob("*.json"):
            drive = note.with_suffix(".erofs")
            if drive.exists():
                found[frozenset(json.loads(note.read_bytes()))] = drive.stat().st_blocks * 512
        return found

    def forget_drives(self, layers: Collection[str]) -> int:
        """Delete the disks of images of which a layer is not among these. Returns how many bytes that frees."""
        freed = 0
        for note in self._drives.glob("*.json"):
            drive = note.with_suffix(".erofs")
            if not set(json.loads(note.read_bytes())) <= set(layers):
                freed += drive.stat().st_blocks * 512 if drive.exists() else 0
                drive.unlink(missing_ok=True)
                note.unlink()
        return freed

    async def unmount(self, key: str, *, keep: bool = False) -> None:
        """Take a root down and, unless `keep`, forget what was written. Does nothing when there is none."""
        home = self._home(key)
        async with self._lock(key):
            if home.exists():
                await asyncio.to_thread(_dismantle, home, keep)

    async def mark(self, key: str) -> str:
        """Make one that is not mounted durable. Returns what tells it from any later state of it; empty: none."""
        return await asyncio.to_thread(_mark, self._home(key) / "upper.ext4")

    def mounted(self) -> set[str]:
        """The keys of all roots that are mounted, by the kernel's own table: also what a dead agent left."""
        found = kernel.mounts_below(self._roots)
        return {path.relative_to(self._roots).parts[0] for path, _ in found if path != self._roots}

    def known(self) -> set[str]:
        """The keys of all roots that have anything here, mounted or not."""
        return {path.name for path in self._roots.iterdir()}

    async def sweep(self, *, keep: Iterable[str]) -> set[str]:
        """Take down every root but these; the keys of what went. For the start of an agent."""
        stray = self.known() - set(keep)
        for key in sorted(stray):
            await self.unmount(key)
        return stray

    def layers_in_use(self) -> set[str]:
        """The directory names of all layers that some root stands on."""
        names: set[str] = set()
        for home in self._roots.iterdir():
            try:
                names.update(json.loads((home / "layers.json").read_bytes()))
            except (OSError, ValueError):
                continue  # not finished when the agent died: then it stands on nothing either
        return names

    def path(self, key: str) -> Path:
        """Where the root of `key` is, or would be, mounted."""
        return self._home(key) / "rootfs"

    def _lock(self, key: str) -> asyncio.Lock:
        return self._locks.setdefault(key, asyncio.Lock())

    def _home(self, key: str) -> Path:
        if not _KEY.fullmatch(key):
            raise InvalidArgument(f"`{key[:80]}` cannot name a root", why="use letters, digits, `_`, `.` and `-`")
        return self._roots / key

    async def _ensure_template(self, size_mb: int) -> None:
        template = self._template(size_mb)
        if not template.exists():
            async with self._template_lock:
                if not template.exists():
                    await asyncio.to_thread(self._make_template, template, size_mb)

    def _template(self, size_mb: int) -> Path:
        return self._templates / f"{size_mb}.ext4"

    def _make_template(self, template: Path, size_mb: int) -> None:
        draft = template.with_suffix(".new")
        draft.unlink(missing_ok=True)
        try:
            make_ext4(draft, size_mb=size_mb)
            draft.replace(template)
        except OSError as error:
            draft.unlink(missing_ok=True)
            raise disk_problem(error, doing="make a file system template", disk=self._templates) from error

    def _mount(self, home: Path, layers: tuple[Path, ...], size_mb: int, keep: bool) -> None:
        upper = home / "upper.ext4"
        if home.exists():
            _dismantle(home, keep=keep)
        if (home / _FOREIGN).exists():
            raise FailedPrecondition(
                "the root that this machine kept is a virtual machine's",
                why="a file system that a guest has written to may be made to harm the kernel that mounts it",
                next="run it as a virtual machine again, or create it anew",
            )
        quota, target = home / "quota", home / "rootfs"
        try:
            for path in (home, quota, target):
                path.mkdir(mode=0o711, exist_ok=True)
            (home / "layers.json").write_text(json.dumps([layer.name for layer in layers]))
            if upper.exists():
                _grow(upper, size_mb)
            else:
                self._make_upper(upper, size_mb)
            device, descriptor = kernel.attach_loop(upper, direct_io=False)
            try:
                # The inode tables of a new sparse file are zero already: no thread needs to write them. And what dies
                # with the host anyway need not wait for its disk: on a busy one, each flush was measured in tens of ms.
                options = "noinit_itable" if keep else "noinit_itable,barrier=0"
                flags = kernel.MS_NOATIME | kernel.MS_NODEV | kernel.MS_NOSUID
                kernel.mount(device, quota, kind="ext4", flags=flags, options=options)
            finally:
                os.close(descriptor)
            _mount_overlay(target, layers, upper=quota / "upper", work=quota / "work")
            kernel.detach(quota)
        except BaseException:
            _dismantle(home, keep=keep)
            raise

    def _make_upper(self, upper: Path, size_mb: int) -> None:
        """Whole or not at all: what is kept is used again after a crash."""
        draft = upper.with_suffix(".new")
        draft.unlink(missing_ok=True)
        if self._reflink:
            kernel.clone_file(self._template(size_mb), draft)
        else:
            make_ext4(draft, size_mb=size_mb)
        draft.replace(upper)


def _grow(upper: Path, size_mb: int) -> None:
    """Make a layer that was kept as large as it may be now. It never shrinks.

    Raises `Unavailable` while the layer is still in use. Two devices over one file would ruin what is in it.
    """
    in_use = {_backing(file) for file in _BLOCK_DEVICES.glob("loop*/loop/backing_file")}
    if str(upper) in in_use:
        raise Unavailable("the root that this machine kept is still in use", next="try again in a moment")
    with upper.open("rb") as file:
        file.seek(_EXT4_BLOCKS_AT)
        blocks = int.from_bytes(file.read(4), "little")
    # What the file system says of itself: the file may be larger, after a crash between growing the one and the other.
    if blocks * _BLOCK < size_mb << 20:
        os.truncate(upper, size_mb << 20)
        # Not while it is mounted: that takes a right, CAP_SYS_RESOURCE, which an agent in a container may not have.
        _run(["e2fsck", "-f", "-y", str(upper)], fine=(0, 1))
        _run(["resize2fs", str(upper)])


def _mark(upper: Path) -> str:
    try:
        with upper.open("rb") as file:
            os.fsync(file.fileno())
            found = os.fstat(file.fileno())
    except FileNotFoundError:
        return ""
    return f"{found.st_ino}-{found.st_size}-{found.st_mtime_ns}"


def _backing(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:  # the device was freed in this moment
        return ""


def make_ext4(path: Path, *, size_mb: int) -> None:
    """A new sparse ext4 image. With a journal: without one, ext4 was measured slow at creating after deleting."""
    with path.open("xb") as file:
        file.truncate(size_mb << 20)
    journal = 4 if size_mb < 512 else 16
    extended = "lazy_itable_init=1,lazy_journal_init=1,nodiscard"
    command = [
        "mkfs.ext4",
        "-q",
        "-F",
        "-b",
        str(_BLOCK),
        "-i",
        "8192",
        "-m",
        "0",
        "-J",
        f"size={journal}",
        "-E",
        extended,
    ]
    with tempfile.TemporaryDirectory() as content:
        # The overlay's two directories come with the image: making them after mounting costs reads and allocations
        # through the loop device, milliseconds on a busy host.
        for name in _UPPER_DIRS:
            Path(content, name).mkdir(mode=0o755)
        _run([*command, "-d", content, str(path)])


def _run(command: list[str], *, fine: tuple[int, ...] = (0,)) -> None:
    done = subprocess.run(command, capture_output=True, check=False, timeout=_MKFS_TIMEOUT_S)
    if done.returncode not in fine:
        text = done.stderr.decode(errors="replace")[-300:]
        raise OSError(errno.ENOSPC if "space" in text else errno.EIO, f"{command[0]}: {text}", command[-1])


def _mount_overlay(target: Path, layers: tuple[Path, ...], *, upper: Path, work: Path) -> None:
    with ExitStack() as stack:

        def by_descriptor(path: Path) -> str:
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            return f"/proc/self/fd/{descriptor}"

        missing = [layer for layer in layers if not layer.is_dir()]
        if missing:
            raise FailedPrecondition(
                "a layer of the image is not on this host", why=f"{missing[0]} is gone", next="fetch the image again"
            )
        # The same layer twice is legal in an image and not in an overlay. Only the topmost counts: it covers the other.
        top_first = list(dict.fromkeys(reversed(layers)))
        options = _overlay_options([str(path) for path in top_first], str(upper), str(work))
        if len(options) > _OPTIONS_LIMIT or not all(_PLAIN.fullmatch(str(p)) for p in (*layers, upper, work)):
            # A page is all that mount(2) takes. Descriptors are short, and have no commas and colons in them.
            options = _overlay_options(
                [by_descriptor(path) for path in top_first], by_descriptor(upper), by_descriptor(work)
            )
        kernel.mount("overlay", target, kind="overlay", flags=kernel.MS_NODEV, options=options)


def _mount_view(target: Path, layers: tuple[Path, ...]) -> None:
    """The layers alone. An overlay wants two: the mount point, which is empty, is below a single one."""
    empty = target.parent / "empty"
    empty.mkdir(mode=0o755, exist_ok=True)
    with ExitStack() as stack:
        below = []
        for path in (*dict.fromkeys(reversed(layers)), empty):
            if not path.is_dir():
                raise FailedPrecondition(
                    "a layer of the image is not on this host", why=f"{path} is gone", next="fetch the image again"
                )
            descriptor = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            below.append(f"/proc/self/fd/{descriptor}")
        flags = kernel.MS_NODEV | kernel.MS_NOSUID | kernel.MS_RDONLY
        kernel.mount("overlay", target, kind="overlay", flags=flags, options=f"lowerdir={':'.join(below)}")


def _make_drive(view: Path, image: Path, layers: tuple[Path, ...]) -> None:
    """The note first, so that there is never a disk of which nobody knows what it is of."""
    image.with_suffix(".json").write_text(json.dumps([layer.name for layer in layers]))
    erofs.build(view, image)


def _name_of(layers: tuple[Path, ...]) -> str:
    return hashlib.sha256("\n".join(layer.name for layer in layers).encode()).hexdigest()


def _overlay_options(lowers_top_first: list[str], upper: str, work: str) -> str:
    # redirect_dir: a directory of the image can be renamed, as on any file system. It is safe to follow because no
    # layer can bring the attribute (extract drops it) and nobody inside can set it. The others: layers are shared.
    fixed = "index=off,metacopy=off,redirect_dir=on"
    return f"{fixed},lowerdir={':'.join(lowers_top_first)},upperdir={upper},workdir={work}"


def _dismantle(home: Path, keep: bool) -> None:
    for name in ("rootfs", "quota"):
        while kernel.is_mount_point(home / name):
            kernel.unmount(home / name)
    if not keep:
        remove_tree(home)
