"""Lays a build context out, as a process of its own: `python -m caddisfly.host.builds.lay_out REQUEST`.

Packs come from tenants. As with layers, whoever looks at them has limits, dies with its parent, and has made the
directory its root before the first byte is read; the packs themselves it has opened before that. All become files of
one owner: whoever builds. Times come last, from the index, without following links.

One line of JSON comes back: `{"entries", "bytes"}`, or `{"refused": why}`, or `{"errno", "failed"}`.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import IO, cast

from caddisfly.host.images.extract import TreeWriter
from caddisfly.host.images.tar import BadArchive, TarReader
from caddisfly.host.images.unpack import Content, answered, confine, die_with_parent

_INDEX_MAX = 64 << 20
_SPARE_FILES = 256
_NS = 1_000_000_000
_LONGEST_S = 1 << 40


@dataclass(frozen=True, slots=True)
class Blob:
    path: str
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """`max_bytes` and `max_entries` are for all packs together."""

    target: str
    owner: int
    packs: tuple[Blob, ...]
    index: Blob
    max_bytes: int
    max_entries: int
    cpu_s: int
    memory_mb: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        raw = json.loads(text)
        return cls(**{**raw, "packs": tuple(Blob(**pack) for pack in raw["packs"]), "index": Blob(**raw["index"])})


def lay_out(packs: list[tuple[IO[bytes], str]], index: bytes, request: Request, *, root: int) -> dict[str, int]:
    """Write every pack below the directory `root`, then set the times."""
    writer = TreeWriter(root, max_entries=request.max_entries, whiteouts=False, owner=request.owner)
    written = 0
    for file, digest in packs:
        content = Content(file, max_bytes=request.max_bytes - written)
        reader = TarReader(content.read)
        for entry in reader:
            writer.add(entry, reader.chunks())
        content.finish(digest=digest)
        written += content.bytes
    writer.close()
    _set_times(index)
    return {"entries": writer.entries, "bytes": written}


def _set_times(index: bytes) -> None:
    """This process's root is the context, so no name leads out of it."""
    try:
        times = json.loads(index)["mtimes"]
        pairs = [(str(path), int(seconds)) for path, seconds in times.items()]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadArchive(f"its index cannot be read ({type(error).__name__})") from None
    for path, seconds in pairs:
        with suppress(OSError, ValueError):  # a name that no pack has, or that is none
            if abs(seconds) < _LONGEST_S:
                os.utime(path.lstrip("/"), ns=(seconds * _NS, seconds * _NS), follow_symlinks=False)


def main() -> int:
    die_with_parent()
    request = Request.from_json(sys.stdin.read())

    def work() -> Mapping[str, object]:
        packs = [(cast("IO[bytes]", io.FileIO(blob.path)), blob.digest) for blob in request.packs]
        index = Content(cast("IO[bytes]", io.FileIO(request.index.path)), max_bytes=_INDEX_MAX)
        confine(
            request.target,
            max_bytes=request.max_bytes,
            cpu_s=request.cpu_s,
            memory_mb=request.memory_mb,
            open_files=len(packs) + _SPARE_FILES,
        )
        times = index.read(_INDEX_MAX)
        index.finish(digest=request.index.digest)
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        return lay_out(packs, times, request, root=root)

    return answered(work, memory_mb=request.memory_mb)


if __name__ == "__main__":
    sys.exit(main())
