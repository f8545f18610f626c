"""The system calls that the standard library lacks: mount, loop devices, file clones, the mount table.

Called directly, because a `mount(8)` costs ten milliseconds and a direct call a tenth of one, and a start budget is
made of such pieces. Loop devices are always configured with AUTOCLEAR: the kernel frees them with the last user, so
that no crash of ours, at any point, can leak one.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from pathlib import Path

MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_NOATIME, MS_BIND, MS_REC = 0x1, 0x2, 0x4, 0x8, 0x400, 0x1000, 0x4000
MS_SLAVE, MS_SHARED = 1 << 19, 1 << 20
MNT_DETACH, UMOUNT_NOFOLLOW = 0x2, 0x8

_CLONE_NEWNS, _CLONE_FS = 0x20000, 0x200
_FICLONE = 0x40049409
_LOOP_CTL_GET_FREE, _LOOP_CONFIGURE = 0x4C82, 0x4C0A
_LO_AUTOCLEAR, _LO_DIRECT_IO = 4, 16
_LOOP_MAJOR = 7
_LOOP_TRIES = 64

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mount.argtypes = (ctypes.c_char_p, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_ulong, ctypes.c_char_p)
_libc.umount2.argtypes = (ctypes.c_char_p, ctypes.c_int)


def mount(source: str, target: Path, *, kind: str = "", flags: int = 0, options: str = "") -> None:
    """mount(2)."""
    result = _libc.mount(source.encode(), os.fsencode(target), kind.encode(), flags, options.encode())
    if result != 0:
        raise _error(target)


def unshare_mounts() -> None:
    """Give the calling thread mounts of its own. It can no longer share a working directory with the others."""
    if _libc.unshare(_CLONE_NEWNS | _CLONE_FS) != 0:
        raise _error(Path("/"))


def unmount(target: Path) -> bool:
    """Take the topmost mount off `target`; whether there was one.

    A mount that is still in use is detached instead: it leaves the name space now, and the file system and its loop
    device go when the last user does.
    """
    for flags in (UMOUNT_NOFOLLOW, UMOUNT_NOFOLLOW | MNT_DETACH):
        if _libc.umount2(os.fsencode(target), flags) == 0:
            return True
        code = ctypes.get_errno()
        if code in (errno.EINVAL, errno.ENOENT):
            return False
        if code != errno.EBUSY:
            raise _error(target)
    raise _error(target)


def detach(target: Path) -> None:
    """Take a mount out of the name space while others, such as an overlay, keep its file system alive."""
    if _libc.umount2(os.fsencode(target), UMOUNT_NOFOLLOW | MNT_DETACH) != 0:
        raise _error(target)


def is_mount_point(path: Path) -> bool:
    """Two stats, not a scan of the mount table: this is asked on every start."""
    try:
        return path.lstat().st_dev != path.parent.lstat().st_dev
    except FileNotFoundError:
        return False


def mounts_below(directory: Path) -> list[tuple[Path, str]]:
    """(mount point, file system type) of everything mounted at or below `directory`, in mount order."""
    found = []
    for line in Path("/proc/self/mountinfo").read_bytes().splitlines():
        fields = line.split(b" ")
        point = Path(os.fsdecode(_unescape(fields[4])))
        if point.is_relative_to(directory):
            found.append((point, fields[fields.index(b"-") + 1].decode()))
    return found


def clone_file(source: Path, target: Path) -> None:
    """Make `target` share all blocks of `source` (FICLONE): constant time, copy on write."""
    with source.open("rb") as old, target.open("xb") as new:
        fcntl.ioctl(new.fileno(), _FICLONE, old.fileno())


def attach_loop(image: Path, *, direct_io: bool) -> tuple[str, int]:
    """A loop device over `image`: its path and a descriptor that must stay open until it is mounted."""
    flags = _LO_AUTOCLEAR | (_LO_DIRECT_IO if direct_io else 0)
    backing = os.open(image, os.O_RDWR | os.O_CLOEXEC)
    control = os.open("/dev/loop-control", os.O_RDWR | os.O_CLOEXEC)
    try:
        for _ in range(_LOOP_TRIES):
            number = fcntl.ioctl(control, _LOOP_CTL_GET_FREE)
            device = _open_loop(number)
            if device is None:
                continue
            # struct loop_config: fd, block size, loop_info64 (flags at 52, file name at 56), reserved.
            info = struct.pack("<52xI64s112x", flags, os.fsencode(image)[-63:])
            try:
                fcntl.ioctl(device, _LOOP_CONFIGURE, struct.pack("<II232s64x", backing, 0, info))
            except OSError as error:
                os.close(device)
                if error.errno != errno.EBUSY:
                    raise
                continue  # somebody else took this number between the two calls
            return f"/dev/loop{number}", device
        raise OSError(errno.EBUSY, "no free loop device", str(image))
    finally:
        os.close(control)
        os.close(backing)


def _open_loop(number: int) -> int | None:
    path = f"/dev/loop{number}"
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        # Inside a container /dev is often a plain tmpfs that knows nothing of new devices.
        try:
            os.mknod(path, 0o060660, os.makedev(_LOOP_MAJOR, number))
        except FileExistsError:
            return None
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except OSError as error:
        if error.errno in (errno.EBUSY, errno.ENXIO):
            return None
        raise


def _unescape(text: bytes) -> bytes:
    if b"\\" not in text:
        return text
    head, *rest = text.split(b"\\")
    return head + b"".join(bytes([int(part[:3], 8)]) + part[3:] for part in rest)


def _error(path: Path) -> OSError:
    code = ctypes.get_errno()
    return OSError(code, os.strerror(code), str(path))
