"""What a layer looked like when it was unpacked, so that damage is noticed.

Two measures, because a start must cost nothing and a check must miss nothing:

- the *stamp* covers the directories down to the second level: names, modes and times. It takes a tenth of a
  millisecond, is compared at every start, and sees what really happens to stores: a tree that was emptied, half deleted
  or moved to lost+found, a directory that the disk no longer gives.
- the *seal* covers everything: every name, owner, mode, link and capability, and a checksum of every file. It is made
  in the background after a layer was unpacked, by a process of its own at the lowest priority, and compared on demand.

Checksums against damage, not against attackers: who can write here is root. A receipt that is lost makes a layer
unsealed, not damaged, so none of this needs to be synced to disk.

    python -m caddisfly.host.images.receipts DIRECTORY    prints {"seal", "bytes"}
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import stat
import sys
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from caddisfly.host.images.compression import checksum

_PR_SET_PDEATHSIG, _SIGKILL = 1, 9
_CHUNK = 1 << 20
_STAMP_DEPTH = 2
_XATTRS = ("security.capability", "trusted.overlay.opaque")
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Receipt:
    """One layer. `seal` is empty until the layer was read in full."""

    bytes: int
    stamp: str
    seal: str = ""


class Receipts:
    """`receipts/<hex of diff_id>.json`. All calls block, for microseconds."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._known: dict[str, Receipt] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("*.json"):
            with suppress(ValueError, TypeError, OSError):
                self._known[path.stem] = Receipt(**json.loads(path.read_bytes()))

    def get(self, name: str) -> Receipt | None:
        return self._known.get(name)

    def set(self, name: str, receipt: Receipt) -> None:
        draft = self._path(name).with_suffix(".new")
        draft.write_text(json.dumps(asdict(receipt)))
        draft.replace(self._path(name))
        self._known[name] = receipt

    def drop(self, name: str) -> None:
        self._known.pop(name, None)
        self._path(name).unlink(missing_ok=True)

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def stamp(directory: Path) -> str:
    """The quick measure. Raises `OSError` where the disk does not give the directories any more."""
    digest = hashlib.sha256()
    level = [os.fspath(directory)]
    for _ in range(_STAMP_DEPTH + 1):
        below: list[str] = []
        for path in level:
            status = os.lstat(path)
            digest.update(f"{path[len(level[0]) :]!a} {status.st_mode:o} {status.st_mtime_ns}\n".encode())
            with os.scandir(path) as entries:
                below += sorted(entry.path for entry in entries if entry.is_dir(follow_symlinks=False))
        level = below
    return digest.hexdigest()


def seal(directory: Path) -> tuple[str, int]:
    """The full measure, and how many bytes the files have."""
    digest, total = hashlib.sha256(), 0
    for root, directories, files, descriptor in os.fwalk(directory, follow_symlinks=False, onerror=_give_up):
        directories.sort()
        here = os.fsencode(os.path.relpath(root, directory))
        digest.update(here + b"\0" + _described(os.fstat(descriptor)) + _attributes(descriptor))
        links = [name for name in directories if _is_link(name, descriptor)]
        for name in sorted((*files, *links)):
            status = os.stat(name, dir_fd=descriptor, follow_symlinks=False)
            digest.update(os.fsencode(name) + b"\0" + _described(status))
            if stat.S_ISLNK(status.st_mode):
                digest.update(os.fsencode(os.readlink(name, dir_fd=descriptor)))
            elif stat.S_ISREG(status.st_mode):
                total += status.st_size
                digest.update(_content(name, descriptor))
    return digest.hexdigest(), total


def _give_up(error: OSError) -> None:
    raise error


def _described(status: os.stat_result) -> bytes:
    size = status.st_size if stat.S_ISREG(status.st_mode) else 0
    fields = (status.st_mode, status.st_uid, status.st_gid, size, status.st_mtime_ns, status.st_rdev)
    return " ".join(map(str, fields)).encode() + b"\n"


def _attributes(descriptor: int) -> bytes:
    found = b""
    for name in _XATTRS:
        with suppress(OSError):
            found += name.encode() + os.getxattr(descriptor, name)
    return found


def _content(name: str, parent: int) -> bytes:
    descriptor = os.open(name, _OPEN, dir_fd=parent)
    try:
        value = 0
        while piece := os.read(descriptor, _CHUNK):
            value = checksum(piece, value)
        return value.to_bytes(4, "big") + _attributes(descriptor)
    finally:
        os.close(descriptor)


def _is_link(name: str, parent: int) -> bool:
    return stat.S_ISLNK(os.stat(name, dir_fd=parent, follow_symlinks=False).st_mode)


def main() -> int:
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    os.nice(19)
    try:
        found, total = seal(Path(sys.argv[1]))
    except OSError as error:
        print(json.dumps({"failed": f"{error.strerror} {error.filename or ''!a}"}))  # noqa: T201
        return 0
    print(json.dumps({"seal": found, "bytes": total}))  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
