"""The folder that a build may see: what is in it, and how it travels.

Files travel in packs of about a mebibyte, so that a changed line sends one pack again and not the folder. Which pack a
file belongs to follows from its path alone: the bits of the path's hash lead down a tree that branches where there is
too much for one pack. A file that grows, comes or goes changes the pack it is in, or splits it; no other pack learns of
it. Packs hold nothing of the computer they were made on, neither times nor owners, so equal files make equal packs.

Links are kept as links and never followed, so nothing outside the folder can come in.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import os
import stat
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import zstandard

from caddisfly.launch.build.ignore import Rules, Verdict
from caddisfly.model.errors import Aborted, FailedPrecondition, InvalidArgument

PACK_BYTES = 1 << 20
WARN_BYTES = 100_000_000
MOST_PACKS = 1000
"""Where packs become larger instead of more, about: a manifest has a size limit, and each pack costs three requests."""
_LEVEL = 3
_PIECE = 1 << 20
_HEADER = 1024
"""What a file costs in a tar besides its content, roughly."""
_NAMED = 5
"""How many of the files that are in the way are named."""


@dataclass(frozen=True, slots=True)
class Entry:
    """`path` is relative to the folder, with slashes; `target` where a link points; `mtime_s` since 1970."""

    path: str
    mode: int
    size: int
    mtime_s: int
    target: str = ""

    @property
    def is_directory(self) -> bool:
        return stat.S_ISDIR(self.mode)

    @property
    def is_link(self) -> bool:
        return stat.S_ISLNK(self.mode)


@dataclass(frozen=True, slots=True)
class Folder:
    """`entries` are sorted by path; a directory comes before what is in it."""

    root: Path
    rules: Rules
    entries: tuple[Entry, ...]

    @property
    def size(self) -> int:
        return sum(entry.size for entry in self.entries)

    @property
    def file_count(self) -> int:
        return sum(not entry.is_directory for entry in self.entries)

    def biggest(self, count: int) -> list[Entry]:
        files = (entry for entry in self.entries if not entry.is_directory)
        return heapq.nlargest(count, files, key=lambda entry: entry.size)

    def packs(self) -> list[Pack]:
        """Directories in the first, if there are any; all else by path."""
        directories = tuple(entry for entry in self.entries if entry.is_directory)
        files = [(_hash(entry.path), entry) for entry in self.entries if not entry.is_directory]
        first = [Pack(self.root, directories)] if directories else []
        limit = PACK_BYTES
        while limit * MOST_PACKS < self.size:
            limit *= 2
        return first + [Pack(self.root, part) for part in _parts(files, 0, limit)]

    def index(self) -> bytes:
        """Of `model.context.INDEX`: the times that packs do not hold."""
        mtimes = {entry.path: entry.mtime_s for entry in self.entries}
        return zstandard.compress(json.dumps({"mtimes": mtimes}, separators=(",", ":")).encode(), _LEVEL)


@dataclass(frozen=True, slots=True)
class Pack:
    root: Path
    entries: tuple[Entry, ...]

    def write(self, out: IO[bytes]) -> None:
        """Raises `Aborted` when a file is no longer what it was during the walk."""
        with zstandard.ZstdCompressor(level=_LEVEL).stream_writer(out, closefd=False) as squeezed:
            for entry in self.entries:
                for piece in _tar(self.root, entry):
                    squeezed.write(piece)
            squeezed.write(bytes(2 * tarfile.BLOCKSIZE))


def walk(root: Path, rules: Rules) -> Folder:
    """All of the folder that the rules do not ignore.

    Raises `InvalidArgument` when there is no such folder, `FailedPrecondition` for what cannot be read or sent.
    """
    root = root.resolve()
    if not root.is_dir():
        raise InvalidArgument(
            f"'{root}' is not a directory" if root.exists() else f"directory '{root}' not found",
            next="name the folder to build: caddis build DIR",
        )
    found = _Walk(root, rules)
    found.enter("", rules.top)
    if found.refused:
        raise found.refusal()
    kept = found.kept
    for path in list(kept):  # directories that the rules ignore, but not all that is in them
        while (path := path.rpartition("/")[0]) and path not in kept:
            kept[path] = found.ignored_directories[path]
    ordered = sorted(kept.values(), key=lambda entry: entry.path.split("/"))
    return Folder(root, rules, tuple(ordered))


class _Walk:
    def __init__(self, root: Path, rules: Rules) -> None:
        self._root = root
        self._rules = rules
        self.kept: dict[str, Entry] = {}
        self.ignored_directories: dict[str, Entry] = {}
        self.refused: list[tuple[str, str]] = []

    def enter(self, path: str, verdict: Verdict) -> None:
        waiting = [(path, verdict)]
        while waiting:
            path, verdict = waiting.pop()
            try:
                with os.scandir(self._root / path) as found:
                    children = list(found)
            except OSError as error:
                self.refused.append((path or ".", error.strerror or str(error)))
                continue
            for child in children:
                below = f"{path}/{child.name}" if path else child.name
                judged = self._rules.judge(below, verdict)
                directory = child.is_dir(follow_symlinks=False)
                if judged.ignored and not (directory and self._rules.may_keep_below(below)):
                    continue
                if directory:
                    waiting.append((below, judged))
                self._take(child, below, ignored=judged.ignored)

    def _take(self, child: os.DirEntry[str], path: str, *, ignored: bool) -> None:
        try:
            facts = child.stat(follow_symlinks=False)
            target = os.readlink(child.path) if stat.S_ISLNK(facts.st_mode) else ""
        except OSError as error:
            self.refused.append((path, error.strerror or str(error)))
            return
        kind = _UNSENDABLE.get(stat.S_IFMT(facts.st_mode))
        if kind:
            self.refused.append((path, f"it is {kind}"))
            return
        regular = stat.S_ISREG(facts.st_mode)
        if regular and not os.access(child.path, os.R_OK):
            self.refused.append((path, "you may not read it"))
            return
        size = facts.st_size if regular else 0
        entry = Entry(path, facts.st_mode, size, int(facts.st_mtime), target)
        (self.ignored_directories if ignored else self.kept)[path] = entry

    def refusal(self) -> FailedPrecondition:
        first, why = self.refused[0]
        named = "\n".join(f"{path}: {reason}" for path, reason in self.refused[:_NAMED])
        more = len(self.refused) - _NAMED
        return FailedPrecondition(
            f"'{first}' cannot be part of a build" if len(self.refused) == 1 else "not all of the folder can be read",
            why=why if len(self.refused) == 1 else named + (f"\nand {more} more" if more > 0 else ""),
            next="remove it, or name it in .dockerignore",
        )


_UNSENDABLE = {
    stat.S_IFSOCK: "a socket",
    stat.S_IFIFO: "a pipe",
    stat.S_IFBLK: "a device",
    stat.S_IFCHR: "a device",
}


def _hash(path: str) -> int:
    return int.from_bytes(hashlib.sha256(os.fsencode(path)).digest()[:8])


def _parts(files: list[tuple[int, Entry]], depth: int, limit: int) -> Iterator[tuple[Entry, ...]]:
    yield from ((entry,) for _, entry in files if entry.size > limit)
    rest = [(hash, entry) for hash, entry in files if entry.size <= limit]
    if not rest:
        return
    if len(rest) == 1 or depth == 64 or sum(entry.size + _HEADER for _, entry in rest) <= limit:
        yield tuple(entry for _, entry in rest)
        return
    for side in (0, 1):
        yield from _parts([one for one in rest if one[0] >> (63 - depth) & 1 == side], depth + 1, limit)


def _tar(root: Path, entry: Entry) -> Iterator[bytes]:
    info = tarfile.TarInfo(entry.path)
    info.mode = stat.S_IMODE(entry.mode)
    if entry.is_directory:
        info.type = tarfile.DIRTYPE
    elif entry.is_link:
        info.type = tarfile.SYMTYPE
        info.linkname = entry.target
    info.size = entry.size
    yield info.tobuf(tarfile.PAX_FORMAT, "utf-8", "surrogateescape")
    if entry.is_directory or entry.is_link:
        return
    yield from _content(root, entry)
    yield bytes(-entry.size % tarfile.BLOCKSIZE)


def _content(root: Path, entry: Entry) -> Iterator[bytes]:
    left = entry.size
    try:
        with open(os.open(root / entry.path, os.O_RDONLY | os.O_NOFOLLOW), "rb") as source:
            while left and (piece := source.read(min(left, _PIECE))):
                left -= len(piece)
                yield piece
            if left or source.read(1):
                raise _changed(entry, "it has another length than a moment ago")
    except OSError as error:
        raise _changed(entry, error.strerror or str(error)) from error


def _changed(entry: Entry, why: str) -> Aborted:
    return Aborted(
        f"'{entry.path}' changed while it was read",
        why=why,
        next="run it again; if it changes all the time, name it in .dockerignore",
    )
