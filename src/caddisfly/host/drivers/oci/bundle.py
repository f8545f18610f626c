"""The bundle: a sandbox as an OCI runtime reads it.

Hardened by default and the same for everyone: there is no "privileged". No new privileges, so a setuid program gains
nothing. Fourteen capabilities become ten, those that a service needs to drop root by itself. What /proc and /sys tell
about the host is masked or read-only.
"""

from __future__ import annotations

from typing import Any

from caddisfly.host.drivers.driver import Sandbox
from caddisfly.host.drivers.oci import cgroups, seccomp
from caddisfly.host.drivers.oci.init import INIT

CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_NET_BIND_SERVICE",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
)

_MASKED = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/bus",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/kmsg",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
    "/sys/fs/cgroup",
    "/sys/fs/selinux",
)
_READ_ONLY = ("/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def specification(sandbox: Sandbox, *, cgroups_path: str | None, with_seccomp: bool = True) -> dict[str, Any]:
    """`config.json` of the bundle. Without `cgroups_path` the runtime is to leave control groups alone."""
    linux: dict[str, Any] = {
        "namespaces": [
            {"type": "pid"},
            {"type": "ipc"},
            {"type": "uts"},
            {"type": "mount"},
            {"type": "cgroup"},
            {"type": "network", "path": str(sandbox.netns)} if sandbox.netns else {"type": "network"},
        ],
        "maskedPaths": list(_MASKED),
        "readonlyPaths": list(_READ_ONLY),
        "rootfsPropagation": "private",
        # A service that is not root may still listen on port 80, and ping works without raw sockets.
        "sysctl": {"net.ipv4.ip_unprivileged_port_start": "0", "net.ipv4.ping_group_range": "0 2147483647"},
    }
    if cgroups_path is not None:
        linux["cgroupsPath"] = cgroups_path
        own = {} if "." in sandbox.id else cgroups.resources(sandbox.limits)  # else its group has the limits
        linux["resources"] = {"devices": _devices(), **own}
    else:
        linux["namespaces"] = [ns for ns in linux["namespaces"] if ns["type"] != "cgroup"]
    if with_seccomp:
        linux["seccomp"] = seccomp.profile()
    return {
        "ociVersion": "1.0.2",
        "hostname": sandbox.hostname,
        "root": {"path": str(sandbox.root), "readonly": False},
        "process": process(sandbox),
        "mounts": _mounts(sandbox),
        "linux": linux,
    }


def process(sandbox: Sandbox) -> dict[str, Any]:
    """The `process` member: who runs what, with which rights."""
    return {
        "terminal": sandbox.tty,
        "user": {"uid": sandbox.uid, "gid": sandbox.gid, "additionalGids": list(sandbox.gids)},
        "args": [INIT, "--", *sandbox.argv],
        "env": list(sandbox.env),
        "cwd": sandbox.cwd,
        "capabilities": {
            "bounding": list(CAPABILITIES),
            "effective": list(CAPABILITIES),
            "permitted": list(CAPABILITIES),
        },
        "noNewPrivileges": True,
    }


def _mounts(sandbox: Sandbox) -> list[dict[str, Any]]:
    strict = ["nosuid", "noexec", "nodev"]
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": strict},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            # Its pages count against the Machine's memory limit; half of it keeps a full one from being the end.
            "options": [*strict, "mode=1777", f"size={sandbox.limits.memory_mb // 2}m"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": strict},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*strict, "ro"]},
    ]
    mounts += [
        {
            "destination": bind.target,
            "type": "bind",
            "source": str(bind.source),
            "options": ["bind", "ro", "nosuid", "nodev"],
        }
        for bind in sandbox.binds
    ]
    return mounts


def _devices() -> list[dict[str, Any]]:
    allowed = [
        ("c", 1, 3),
        ("c", 1, 5),
        ("c", 1, 7),
        ("c", 1, 8),
        ("c", 1, 9),
        ("c", 5, 0),
        ("c", 5, 2),
        ("c", 136, -1),
    ]
    rules: list[dict[str, Any]] = [{"allow": False, "access": "rwm"}]
    for kind, major, minor in allowed:
        rule: dict[str, Any] = {"allow": True, "type": kind, "major": major, "access": "rw"}
        if minor >= 0:
            rule["minor"] = minor
        rules.append(rule)
    return rules
