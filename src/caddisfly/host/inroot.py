"""Opening files inside a Machine's root, as the Machine itself would see them.

An image may hold any symbolic link, such as `/etc/passwd -> /etc/shadow`. `openat2` with RESOLVE_IN_ROOT makes the
kernel resolve every component inside the root, atomically, so neither a link nor a race leads out of it.
"""

from __future__ import annotations

import ctypes
import os
import stat
from pathlib import Path

from caddisfly.model.errors import InvalidArgument

_OPENAT2 = 437  # the same number on every architecture
_RESOLVE_IN_ROOT, _RESOLVE_NO_MAGICLINKS = 0x10, 0x02
_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


def open_in_root(root: Path, path: str, flags: int, mode: int = 0) -> int:
    """A descriptor of `path` inside `root`. Raises `OSError` as `open` does."""
    how = _How(flags | os.O_CLOEXEC, mode, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    anchor = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        descriptor = _libc.syscall(_OPENAT2, anchor, path.encode(), ctypes.byref(how), ctypes.sizeof(how))
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), path)
        return int(descriptor)
    finally:
        os.close(anchor)


def read_text(root: Path, path: str, *, limit: int = 1 << 20) -> str:
    """The beginning of a file, empty when there is none. Pipes, devices and directories are not files."""
    try:
        descriptor = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            return ""
        return _read(descriptor, limit).decode(errors="replace")
    finally:
        os.close(descriptor)


def _read(descriptor: int, limit: int) -> bytes:
    found = bytearray()
    while len(found) < limit and (data := os.read(descriptor, limit - len(found))):
        found += data
    return bytes(found)


def write_file(root: Path, path: str, content: bytes, *, mode: int) -> None:
    """Write a file and the directories above it. Raises `InvalidArgument` naming the path when the image forbids it."""
    try:
        parts = [part for part in path.split("/") if part]
        for end in range(1, len(parts)):
            _make_directory(root, "/".join(parts[:end]))
        descriptor = open_in_root(root, path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NONBLOCK, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(descriptor, mode)
            file.write(content)
    except OSError as error:
        raise InvalidArgument(f"cannot write config.files {path}", why=os.strerror(error.errno or 0)) from error


def _make_directory(root: Path, path: str) -> None:
    try:
        os.close(open_in_root(root, path, os.O_PATH | os.O_DIRECTORY))
    except FileNotFoundError:
        above, _, name = path.rpartition("/")
        anchor = open_in_root(root, above or "/", os.O_PATH | os.O_DIRECTORY)
        try:
            os.mkdir(name, 0o755, dir_fd=anchor)
        finally:
            os.close(anchor)


def is_executable(root: Path, path: str) -> bool:
    """Whether a program could be started from here: a regular file with any execute bit."""
    try:
        descriptor = open_in_root(root, path, os.O_PATH)
    except OSError:
        return False
    try:
        status = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    return stat.S_ISREG(status.st_mode) and bool(status.st_mode & 0o111)
