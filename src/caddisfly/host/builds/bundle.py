"""The build sandbox as an OCI runtime reads it: buildah in a container, in which it makes containers.

buildah needs to mount, so it needs to be root. Root of a user namespace then, whose ids mean nothing on the host: a
step that breaks out of buildah's container stands in this one, as nobody, with no file of the host but /usr to read, no
device, no way to its control group's limits and none to the network's addresses, which belong to the host.

/proc is not masked here, unlike in a Machine: the kernel lets an inner container mount its own only where the outer one
is whole. What it shows is that of this user namespace, and what it lets one write is nothing. Steps see it masked.
/sys is the host's, bound read-only, because the network namespace is the host's too and sysfs goes with that.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caddisfly.host.builds.buildah import DISK, KNOWN, MOUNTS, PRIVATE, STORAGE, TEMPORARY
from caddisfly.host.drivers.driver import Limits
from caddisfly.host.drivers.oci import cgroups

FIRST_ID, IDS = 1_000_000_000, 1_000_000
"""The host's ids of the sandbox's 0 and up. The same for all builds: their files are never in one place."""

_CAPABILITIES = tuple(
    f"CAP_{name}"
    for name in (
        "CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL MKNOD NET_BIND_SERVICE SETFCAP SETGID SETPCAP SETUID "
        "SYS_ADMIN SYS_CHROOT"
    ).split()
)
_TOP = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_CERTIFICATES = ("/etc/ssl/certs", "/etc/pki")
_DIRECTORIES = (
    "proc",
    "sys",
    "dev",
    "tmp",
    "run",
    "etc",
    "usr",
    "root",
    "var/tmp",
    "var/cache",
    "var/lib/containers/cache",
    DISK[1:],
    PRIVATE[1:],
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the parts of one sandbox are on the host."""

    home: Path
    netns: Path

    @property
    def root(self) -> Path:
        return self.home / "root"

    @property
    def etc(self) -> Path:
        return self.home / "etc"

    @property
    def disk(self) -> Path:
        """The file system of the app's cache, on which the build works."""
        return self.home / "disk"

    @property
    def private(self) -> Path:
        """In memory: secrets, the token, and what buildah reports."""
        return self.home / "private"


def make_root(place: Place, files: dict[str, str], mounts: Iterable[Path]) -> None:
    """The mount points, and `/etc`."""
    for directory in _DIRECTORIES:
        (place.root / directory).mkdir(parents=True, exist_ok=True)
    for name in _TOP:
        if Path("/", name).is_symlink():
            (place.root / name).symlink_to(os.readlink(Path("/", name)))
        elif Path("/", name).is_dir():
            (place.root / name).mkdir()
    for name, text in files.items():
        path = place.etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    (place.etc / "caddisfly/runtime").chmod(0o755)
    for directory in _CERTIFICATES:
        (place.etc / directory.removeprefix("/etc/")).mkdir(parents=True, exist_ok=True)
    for number, source in enumerate(mounts):
        inside = place.root / MOUNTS[1:] / str(number)
        inside.parent.mkdir(exist_ok=True)
        if source.is_dir():
            inside.mkdir()
        else:
            inside.touch()


def specification(
    place: Place, *, group: str, arguments: list[str], env: dict[str, str], limits: Limits, mounts: Iterable[Path]
) -> dict[str, Any]:
    """`config.json`."""
    ids = [{"containerID": 0, "hostID": FIRST_ID, "size": IDS}]
    return {
        "ociVersion": "1.0.2",
        "hostname": "build",
        "root": {"path": str(place.root), "readonly": True},
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": arguments,
            "env": [f"{name}={value}" for name, value in env.items()],
            "cwd": "/",
            "capabilities": {kind: list(_CAPABILITIES) for kind in ("bounding", "effective", "permitted")},
            "rlimits": [{"type": "RLIMIT_CORE", "soft": 0, "hard": 0}],
        },
        "mounts": _mounts(place, mounts, memory_mb=limits.memory_mb),
        "linux": {
            "namespaces": [
                *({"type": kind} for kind in ("pid", "ipc", "uts", "mount", "cgroup", "user")),
                {"type": "network", "path": str(place.netns)},
            ],
            "uidMappings": ids,
            "gidMappings": ids,
            "cgroupsPath": group,
            "resources": {"devices": [{"allow": False, "access": "rwm"}], **cgroups.resources(limits)},
            "maskedPaths": ["/sys/firmware", "/sys/devices/virtual/powercap"],
            "rootfsPropagation": "private",
        },
    }


def _mounts(place: Place, mounts: Iterable[Path], *, memory_mb: int) -> list[dict[str, Any]]:
    strict = ["nosuid", "noexec", "nodev"]

    def memory(target: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "nodev", *options]}

    def bind(source: Path | str, target: str, *options: str) -> dict[str, Any]:
        return {"destination": target, "type": "bind", "source": str(source), "options": ["rbind", *options]}

    half = f"size={memory_mb // 2}m"
    tops = [bind(f"/{name}", f"/{name}", "ro") for name in _TOP if (place.root / name).is_dir() and not _link(name)]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": strict},
        memory("/dev", "mode=755", "size=64k"),
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"],
        },
        memory("/dev/shm", "mode=1777", half),
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": strict},
        bind("/sys", "/sys", *strict, "ro"),
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*strict, "relatime", "ro"]},
        memory("/tmp", "mode=1777", half),
        memory("/run", "mode=755", half),
        memory("/var/cache", "mode=755", "size=16m"),
        bind("/usr", "/usr", "ro"),
        *tops,
        bind(place.etc, "/etc", "ro"),
        *(bind(directory, directory, "ro") for directory in _CERTIFICATES if Path(directory).is_dir()),
        *(bind(source, f"{MOUNTS}/{number}", "ro") for number, source in enumerate(mounts)),
        # Neither nosuid nor nodev: flags of the outer mount are locked in the inner one, where they would make it
        # impossible to show a step a file of this file system. No device can be made in a user namespace.
        bind(place.disk, DISK),
        # What buildah writes beside a step's container, its secrets above all, is in memory as well.
        memory(f"{STORAGE}/overlay-containers", "mode=700", half),
        bind(f"{place.disk}/{TEMPORARY.removeprefix(DISK + '/')}", "/var/tmp"),
        bind(f"{place.disk}/{KNOWN.removeprefix(DISK + '/')}", "/var/lib/containers/cache"),
        bind(place.private, PRIVATE),
    ]


def _link(name: str) -> bool:
    return Path("/", name).is_symlink()
