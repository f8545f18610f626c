"""A mount namespace in which a hybrid host looks as if it had control groups of version 2 only, for crun.

It is made once and held by a descriptor, so that it goes with the agent, however that ends. Making it anew for each
call would be simpler and cost 20 ms a time: the kernel waits for its readers when mounts come and go. Mounts that the
host makes later show up inside where their parent is shared, as the image store and /run/netns are.
"""

from __future__ import annotations

import ctypes
import os
import threading
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition

_CLONE_NEWNS, _CLONE_FS = 0x20000, 0x200
_MS_REC, _MS_SLAVE, _MNT_DETACH = 0x4000, 1 << 19, 2
_GROUPS = b"/sys/fs/cgroup"
_libc = ctypes.CDLL(None, use_errno=True)


def groups_of_version_2() -> Path:
    """Make it. Returns a path that stands for it while this process lives. Raises `FailedPrecondition`."""
    made: list[int] = []
    failure: list[OSError] = []

    def run() -> None:
        try:
            _call(_libc.unshare, _CLONE_NEWNS | _CLONE_FS)  # of this thread, which nobody else sees
            _call(_libc.mount, b"none", b"/", None, _MS_REC | _MS_SLAVE, None)
            _call(_libc.umount2, _GROUPS, _MNT_DETACH)
            _call(_libc.mount, b"none", _GROUPS, b"cgroup2", 0, None)
            made.append(os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))
        except OSError as error:
            failure.append(error)

    thread = threading.Thread(target=run, name="runtime-view")
    thread.start()
    thread.join()
    if failure:
        raise FailedPrecondition(
            "crun cannot be shown the control groups that it needs",
            why=str(failure[0]),
            next="set host.runtime to runc",
        ) from failure[0]
    return Path(f"/proc/{os.getpid()}/fd/{made[0]}")


def _call(function: object, *arguments: object) -> None:
    if function(*arguments) != 0:  # type: ignore[operator]
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
