"""Network namespaces with names, as `ip netns` knows them, made without starting a process.

A thread leaves the host's namespace for a new one, pins it by a bind mount and ends; the rest of the process stays
where it was. It takes 1 ms where `ip netns add` takes 5.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from caddisfly.host.apart import apart
from caddisfly.model.errors import Internal

T = TypeVar("T")

DIRECTORY = Path("/run/netns")
_CLONE_NEWNET = 0x40000000
_MS_BIND, _MS_REC, _MS_SHARED = 0x1000, 0x4000, 1 << 20
_MNT_DETACH = 2
_libc = ctypes.CDLL(None, use_errno=True)


def ensure_directory() -> None:
    """Make the directory a shared mount, as `ip netns` does, so that names vanish everywhere when they are removed."""
    DIRECTORY.mkdir(parents=True, exist_ok=True)
    if not _is_mounted():
        _call(_libc.mount, bytes(DIRECTORY), bytes(DIRECTORY), b"none", _MS_BIND | _MS_REC, None)
        _call(_libc.mount, b"", bytes(DIRECTORY), b"none", _MS_SHARED | _MS_REC, None)


def _is_mounted() -> bool:
    # `os.path.ismount` does not see a directory that is bound to itself, and binding a shared mount to itself doubles
    # the number of mounts each time.
    return any(line.split()[4] == str(DIRECTORY) for line in Path("/proc/self/mountinfo").read_text().splitlines())


def create(name: str, inside: Callable[[], None]) -> Path:
    """Make a namespace and run `inside` in it, on a thread of its own. Raises what `inside` raised."""
    path = DIRECTORY / name

    def run() -> None:
        path.touch(exist_ok=False)
        _call(_libc.unshare, _CLONE_NEWNET)
        source = f"/proc/self/task/{threading.get_native_id()}/ns/net".encode()
        _call(_libc.mount, source, bytes(path), b"none", _MS_BIND, None)
        inside()

    try:
        apart(run, name=f"netns-{name}")
    except BaseException:
        remove(name)
        raise
    return path


def inside(path: Path, work: Callable[[], T]) -> T:
    """What `work` returns when it is done in the namespace at `path`, on a thread of its own. Raises what it raised."""

    def run() -> T:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _call(_libc.setns, descriptor, _CLONE_NEWNET)
        finally:
            os.close(descriptor)
        return work()

    return apart(run, name=f"inside-{path.name}")


def remove(name: str) -> None:
    """Remove a namespace's name. The kernel takes it apart a little later, with everything in it."""
    path = DIRECTORY / name
    if os.path.ismount(path):
        _call(_libc.umount2, bytes(path), _MNT_DETACH)
    path.unlink(missing_ok=True)


def _call(function: Callable[..., int], *arguments: object) -> None:
    if function(*arguments) != 0:
        number = ctypes.get_errno()
        raise Internal("a network namespace cannot be made", why=os.strerror(number), next="caddis doctor")
