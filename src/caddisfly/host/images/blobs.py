"""Content under its own hash: `blobs/sha256/<hex>`.

A blob that is there is whole and right: it was written beside, hashed while it was written, synced, and only then given
its name. So its presence is the only state, and nothing has to be repaired after a crash but to sweep the beginnings
away. Wrong content is always refused, whoever sent it.
"""

from __future__ import annotations

import errno
import hashlib
import os
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from caddisfly.host.images.durable import sync_directory, write_atomically
from caddisfly.host.images.reference import is_digest
from caddisfly.model.errors import InvalidArgument, Problem, Unavailable

_PIECE = 1 << 20


class Draft:
    """A blob on its way in. Hash and length follow every write, so that a broken download can go on where it ended."""

    def __init__(self, path: Path, file: IO[bytes]) -> None:
        self.path = path
        self._file = file
        self._hash = hashlib.sha256()
        self.size = 0

    @classmethod
    def resume(cls, path: Path) -> Draft:
        """Go on with what an earlier process wrote. It is read once more, for the hash."""
        draft = cls(path, path.open("r+b", buffering=0))
        while piece := draft._file.read(_PIECE):
            draft._hash.update(piece)
            draft.size += len(piece)
        return draft

    def write(self, data: bytes | bytearray) -> None:
        """All of it or nothing: a disk that is full leaves what was written before."""
        rest = memoryview(data)
        try:
            while rest:
                rest = rest[self._file.write(rest) :]
        except OSError:
            self._file.seek(self.size)
            self._file.truncate()
            raise
        self._hash.update(data)
        self.size += len(data)

    def restart(self) -> None:
        """Forget everything: the other side cannot continue."""
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    @property
    def digest(self) -> str:
        return f"sha256:{self._hash.hexdigest()}"

    def seal(self) -> None:
        os.fsync(self._file.fileno())
        self._file.close()

    def close(self) -> None:
        """Leave it as it is, to be resumed."""
        self._file.close()

    def discard(self) -> None:
        self._file.close()
        self.path.unlink(missing_ok=True)


class BlobStore:
    """All calls block; the larger ones belong in a thread."""

    def __init__(self, directory: Path, *, temporary: Path) -> None:
        self._directory = directory / "sha256"
        self._partial = directory / "partial"
        self._temporary = temporary
        for path in (self._directory, self._partial):
            path.mkdir(parents=True, exist_ok=True)

    def path(self, digest: str) -> Path:
        if not is_digest(digest):
            raise InvalidArgument(f"`{digest[:80]}` is not a digest", why="only sha256 digests are accepted")
        return self._directory / digest.removeprefix("sha256:")

    def has(self, digest: str) -> bool:
        return self.path(digest).exists()

    def read(self, digest: str, *, max_bytes: int) -> bytes:
        """A small blob, verified again: manifests and configs decide what runs."""
        with self.path(digest).open("rb") as file:
            data = file.read(max_bytes + 1)
        if len(data) > max_bytes or digest_of(data) != digest:
            raise InvalidArgument(
                f"blob {digest} is damaged on this host",
                why="what is stored under this digest is something else",
                next="remove the image and pull or import it again",
            )
        return data

    def put(self, data: bytes) -> str:
        """Store a small blob; its digest."""
        digest = digest_of(data)
        if not self.has(digest):
            write_atomically(self.path(digest), data)
        return digest

    def put_stream(self, pieces: Iterable[bytes], *, expected: str = "", max_bytes: int, what: str) -> tuple[str, int]:
        """Store a large blob from an iterator; its digest and size."""
        draft = self.draft()
        try:
            for piece in pieces:
                draft.write(piece)
                if draft.size > max_bytes:
                    raise too_large(what, max_bytes)
            self.commit(draft, expected=expected or draft.digest, what=what)
        except BaseException:
            draft.discard()
            raise
        return draft.digest, draft.size

    def adopt(self, source: Path, digest: str) -> bool:
        """Take in a file of the same file system, which nobody changes any more, under its digest. No copy is made."""
        try:
            os.link(source, self.path(digest))
        except FileExistsError:
            return True
        except FileNotFoundError:
            return False
        sync_directory(self._directory)
        return True

    def draft(self) -> Draft:
        path = self._temporary / f"blob-{secrets.token_hex(8)}"
        return Draft(path, path.open("xb", buffering=0))

    def continued(self, digest: str) -> Draft:
        """What there is of this blob from a download that was broken off, or a new draft that can be continued."""
        path = self._partial / self.path(digest).name
        with suppress(FileNotFoundError):
            return Draft.resume(path)
        return Draft(path, path.open("xb", buffering=0))

    def discard_partial(self, *, older_than_s: float = 0.0) -> None:
        """Give up downloads that nobody has gone on with."""
        limit = time.time() - older_than_s
        for path in self._partial.iterdir():
            if path.stat().st_mtime <= limit:
                path.unlink(missing_ok=True)

    def commit(self, draft: Draft, *, expected: str, what: str) -> None:
        """Give a finished draft its name, if it is what was expected."""
        if draft.digest != expected:
            draft.discard()
            raise InvalidArgument(
                f"{what} is not what its digest says",
                why=f"the digest is {draft.digest} and {expected} was asked for",
                next="the registry, or something between it and this host, serves wrong content; it was thrown away",
                status="digest_mismatch",
            )
        draft.seal()
        draft.path.replace(self.path(expected))
        sync_directory(self._directory)

    def remove(self, digest: str) -> None:
        self.path(digest).unlink(missing_ok=True)

    def discard_damaged(self) -> set[str]:
        """Read every blob and delete those that are not what their name says; their digests."""
        found = set()
        for path in self._directory.iterdir():
            digest = hashlib.sha256()
            try:
                with path.open("rb") as file:
                    while piece := file.read(_PIECE):
                        digest.update(piece)
            except FileNotFoundError:
                continue  # collected meanwhile
            except OSError:
                digest.update(b"unreadable")
            if digest.hexdigest() != path.name:
                path.unlink(missing_ok=True)
                found.add(f"sha256:{path.name}")
        return found

    def keep_only(self, digests: set[str]) -> None:
        """Delete every other blob."""
        kept = {digest.removeprefix("sha256:") for digest in digests}
        for path in self._directory.iterdir():
            if path.name not in kept:
                path.unlink(missing_ok=True)


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def too_large(what: str, max_bytes: int) -> InvalidArgument:
    return InvalidArgument(
        f"{what} is too large",
        why=f"it has more than {max_bytes} bytes",
        next="make the layer smaller, or raise max_layer_bytes on this host",
        status="too_large",
    )


def disk_problem(error: OSError, *, doing: str, disk: Path) -> Problem:
    """An operating system error while writing, as an error that names the disk."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return no_space(doing, disk, "it is full")
    return Unavailable(f"could not {doing}", why=f"{error.strerror or error} on {disk}", next="check this disk")


def no_space(doing: str, disk: Path, why: str) -> Unavailable:
    return Unavailable(
        f"no disk space to {doing}",
        why=f"the disk under {disk}: {why}",
        next="remove images that are not used, or give the store a larger disk",
        status="no_space",
    )
