"""The layer extractor as a process of its own: `python -m caddisfly.host.images.unpack REQUEST < layer`.

A hostile layer can at worst waste the time, memory and disk that this process is given: it has limits on CPU, memory
and open files, its parent kills it after a time, it dies with its parent, and before the first byte of the layer is
looked at it has made the target directory its root, so that even a mistake in `extract` would write nowhere else. It
also keeps the seconds of pure CPU out of the agent's event loop.

One line of JSON comes back: `{"entries", "bytes", "dropped"}`, or `{"refused": why}`, or `{"errno", "failed"}`.
"""

from __future__ import annotations

import ctypes
import hashlib
import io
import json
import os
import resource
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import IO, Any, Protocol, cast

from caddisfly.host.images.compression import BROKEN, GZIP_MAGIC, ZSTD_MAGIC, open_gzip, open_zstd
from caddisfly.host.images.extract import TreeWriter
from caddisfly.host.images.tar import CHUNK, BadArchive, TarReader

_PR_SET_PDEATHSIG, _PR_SET_NO_NEW_PRIVS = 1, 38
_SIGKILL = 9
_MAX_OPEN_FILES = 512


@dataclass(frozen=True, slots=True)
class Request:
    """What to unpack, where, and how much of everything it may use."""

    target: str
    digest: str
    diff_id: str
    max_bytes: int
    max_entries: int
    cpu_s: int
    memory_mb: int

    def to_json(self) -> str:
        return json.dumps(asdict(self))


class _Source(Protocol):
    def readinto(self, buffer: Any, /) -> int | None: ...


class _Hashed(io.RawIOBase):
    """A source that remembers the digest of all that was read from it."""

    def __init__(self, source: _Source) -> None:
        self._source = source
        self._hash = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any, /) -> int:
        size = self._source.readinto(buffer) or 0
        self._hash.update(memoryview(buffer)[:size])
        return size

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"


class Content:
    """The uncompressed layer: bounded, hashed on both sides of the compression, read in pieces of any size."""

    def __init__(self, file: IO[bytes], *, max_bytes: int) -> None:
        magic = file.read(4)
        file.seek(0)
        self._raw = _Hashed(cast(_Source, file))
        source: _Source
        if magic.startswith(GZIP_MAGIC):
            source = cast(_Source, open_gzip(self._raw))
        elif magic == ZSTD_MAGIC:
            source = cast(_Source, open_zstd(self._raw))
        else:
            source = self._raw
        self._plain = _Hashed(source)
        self._max_bytes = max_bytes
        self._buffer = b""
        self._at = 0
        self.bytes = 0

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes, fewer only at the end."""
        end = self._at + size
        if end > len(self._buffer):
            pieces = [self._buffer[self._at :]]
            have = len(pieces[0])
            while have < size and (piece := self._fill()):
                pieces.append(piece)
                have += len(piece)
            self._buffer, self._at = b"".join(pieces), 0
            end = size
        data = self._buffer[self._at : end]
        self._at = end
        return data

    def finish(self, *, digest: str, diff_id: str = "") -> None:
        """Read the rest and compare both digests, as far as they are known."""
        while self._fill():
            pass
        while self._raw.read(CHUNK):
            pass
        for name, expected, found in (("digest", digest, self._raw.digest), ("diff_id", diff_id, self._plain.digest)):
            if expected and expected != found:
                raise BadArchive(f"its {name} is {found}, not {expected} as the image says")

    def _fill(self) -> bytes:
        try:
            piece = self._plain.read(CHUNK) or b""
        except BROKEN as error:
            raise BadArchive(f"it cannot be decompressed ({error})") from None
        self.bytes += len(piece)
        if self.bytes > self._max_bytes:
            raise BadArchive(f"it is larger than {self._max_bytes} bytes uncompressed")
        return piece


def unpack(file: IO[bytes], request: Request, *, root: int) -> dict[str, int]:
    """Verify and extract one layer into the directory `root`."""
    content = Content(file, max_bytes=request.max_bytes)
    writer = TreeWriter(root, max_entries=request.max_entries)
    reader = TarReader(content.read)
    for entry in reader:
        writer.add(entry, reader.chunks())
    content.finish(digest=request.digest, diff_id=request.diff_id)
    writer.finish()
    return {"entries": writer.entries, "bytes": content.bytes, "dropped": writer.dropped}


def confine(target: str, *, max_bytes: int, cpu_s: int, memory_mb: int, open_files: int = _MAX_OPEN_FILES) -> None:
    """Give this process limits, and `target` as its root."""
    megabyte = 1 << 20
    for kind, value in (
        (resource.RLIMIT_AS, memory_mb * megabyte),
        (resource.RLIMIT_CPU, cpu_s),
        (resource.RLIMIT_FSIZE, max_bytes),
        (resource.RLIMIT_NOFILE, open_files),
        (resource.RLIMIT_CORE, 0),
    ):
        hard = resource.getrlimit(kind)[1]
        limit = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(kind, (limit, limit))
    os.umask(0)
    os.chroot(target)
    os.chdir("/")


def die_with_parent() -> ctypes.CDLL:
    """And gain no rights any more. Returns the C library."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    return libc


def answered(work: Callable[[], Mapping[str, object]], *, memory_mb: int) -> int:
    """Tell the parent what came of it, in one line of JSON. Returns the exit code."""
    answer: Mapping[str, object]
    try:
        answer = work()
    except BadArchive as error:
        answer = {"refused": str(error)}
    except MemoryError:
        answer = {"refused": f"it needs more than {memory_mb} MiB of memory to unpack"}
    except OSError as error:
        answer = {"errno": error.errno or 0, "failed": f"{error.strerror} {error.filename or ''!a}"}
    print(json.dumps(dict(answer)), flush=True)  # noqa: T201
    return 0


def main() -> int:
    libc = die_with_parent()
    request = Request(**json.loads(sys.argv[1]))

    def work() -> Mapping[str, object]:
        confine(request.target, max_bytes=request.max_bytes, cpu_s=request.cpu_s, memory_mb=request.memory_mb)
        root = os.open("/", os.O_RDONLY | os.O_DIRECTORY)
        with io.FileIO(0, closefd=False) as file:
            answer = unpack(cast(IO[bytes], file), request, root=root)
        # Files first, the name later: the parent renames the directory, and that must never be durable before this.
        if libc.syncfs(root) != 0:
            raise OSError(ctypes.get_errno(), "syncfs")
        return answer

    return answered(work, memory_mb=request.memory_mb)


if __name__ == "__main__":
    sys.exit(main())
