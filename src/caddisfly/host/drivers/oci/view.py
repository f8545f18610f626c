"""A mount namespace in which a hybrid host looks as if it had control groups of version 2 only, for crun.

It is made once and held by a descriptor, so that it goes with the agent, however that ends. Making it anew for each
call would be simpler and cost 20 ms a time: the kernel waits for its readers when mounts come and go. Mounts that the
host makes later show up inside where their parent is shared, as the image store and /run/netns are.
"""

from __future__ import annotations

import os
from pathlib import Path

from caddisfly.host.apart import apart
from caddisfly.host.drivers.oci.cgroups import ROOT
from caddisfly.host.images import kernel
from caddisfly.model.errors import FailedPrecondition


def groups_of_version_2() -> Path:
    """Make it. Returns a path that stands for it while this process lives. Raises `FailedPrecondition`."""

    def run() -> int:
        kernel.unshare_mounts()  # of this thread, which nobody else sees
        kernel.mount("none", Path("/"), flags=kernel.MS_REC | kernel.MS_SLAVE)
        kernel.detach(ROOT)
        kernel.mount("none", ROOT, kind="cgroup2")
        return os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    try:
        descriptor = apart(run, name="runtime-view")
    except OSError as error:
        raise FailedPrecondition(
            "crun cannot be shown the control groups that it needs", why=str(error), next="set host.runtime to runc"
        ) from error
    return Path(f"/proc/{os.getpid()}/fd/{descriptor}")
