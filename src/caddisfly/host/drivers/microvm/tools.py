"""The tools drive: programs that busybox lacks, with the libraries of this host. Read-only and the same for all guests.

`sshd` lets the agent in; `env`, `unshare` and `setpriv` become the image's user in its surroundings; `resize2fs` grows
a writable layer that was kept; `socat` lets host and guest meet where a VMM has only vsock. All are the distribution's,
of the versions that the host is kept up to date with.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterable
from pathlib import Path

from caddisfly.host.drivers.microvm.kernel import GUEST
from caddisfly.host.images import erofs
from caddisfly.model.errors import FailedPrecondition

PROGRAMS = {
    "sshd": "openssh-server",
    "unshare": "util-linux",
    "setpriv": "util-linux",
    "resize2fs": "e2fsprogs",
    "env": "coreutils",
    "socat": "socat",
}
"""With the package that each comes in."""
_PLACES = ("usr/sbin", "usr/bin", "sbin", "bin")
_LIBRARY = re.compile(r"^\s*(?:\S+ => )?(/\S+) \(0x", re.MULTILINE)
_ABSENT = re.compile(r"^\s*(\S+) => not found", re.MULTILINE)


def find(guest: Path = GUEST) -> dict[str, Path]:
    """Each program, from what only guests have or from this host. Raises `FailedPrecondition` naming a package."""
    found = {}
    for name, package in PROGRAMS.items():
        places = (root / place / name for root in (guest, Path("/")) for place in _PLACES)
        path = next((place for place in places if place.exists()), None)
        if path is None:
            raise FailedPrecondition(f"microVMs need {name}", why=f"it comes in {package}", next="scripts/setup")
        found[name] = path
    return found


def libraries(programs: Iterable[Path], guest: Path = GUEST) -> dict[str, Path]:
    """By the path under which each is looked for inside. Raises `FailedPrecondition` naming one that is not here."""
    own = sorted({path.parent for path in (guest / "usr" / "lib").glob("*/lib*.so*")} | set(guest.glob("lib/*-gnu")))
    found: dict[str, Path] = {}
    for program in programs:
        done = subprocess.run(
            ["ldd", program],
            capture_output=True,
            check=False,
            text=True,
            timeout=30,
            env={"PATH": "/usr/bin:/bin", "LD_LIBRARY_PATH": ":".join(map(str, own))},
        )
        if absent := _ABSENT.search(done.stdout):
            raise FailedPrecondition(
                f"microVMs cannot have {program.name}", why=f"{absent[1]} is not on this host", next="scripts/setup"
            )
        for text in _LIBRARY.findall(done.stdout):
            path = Path(text)
            inside = f"/{path.relative_to(guest)}" if path.is_relative_to(guest) else text
            found[inside] = path
    return found


def build(target: Path, guest: Path = GUEST) -> None:
    """Write the drive."""
    programs = find(guest)
    with tempfile.TemporaryDirectory(prefix="tools-", dir=target.parent) as directory:
        tree = Path(directory)
        wanted = {f"/bin/{name}": path for name, path in programs.items()} | libraries(programs.values(), guest)
        for inside, path in wanted.items():
            place = tree / inside.lstrip("/")
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(path, place)
        # Where the library's directories are one, as in all newer distributions, they are one here.
        (tree / "usr").mkdir(exist_ok=True)
        if not (tree / "usr" / "lib").exists():
            (tree / "usr" / "lib").symlink_to("../lib")
        erofs.build(tree, target)
