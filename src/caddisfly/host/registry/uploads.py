"""Uploads under way: a file that grows in the repository, and while it does, its hash in memory.

The file is the whole state. Its length is how far the upload has come, its time of change when it was last heard of;
so a registry that was killed goes on where the file ends, after reading it once for the hash.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import time
import uuid
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from caddisfly.host.images.blobs import Draft, disk_problem, no_space, too_large
from caddisfly.host.registry import refusals
from caddisfly.host.registry.repository import Repository
from caddisfly.host.registry.settings import RegistrySettings
from caddisfly.model.errors import Exhausted

_ID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_PIECE = 1 << 20
_MIB = 1 << 20
_OPEN_MOST = 256
_TURN_S = 10.0
"""How long a request waits for another one on the same upload: that one's client may be gone, unnoticed so far."""


@dataclass(slots=True)
class _Session:
    path: Path
    draft: Draft | None = None
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass(frozen=True, slots=True)
class Span:
    """The `Content-Range` of a chunk: first and last byte."""

    first: int
    last: int


class Uploads:
    """By id. All methods raise `Refusal` for what is not known or does not fit."""

    def __init__(self, settings: RegistrySettings) -> None:
        self._settings = settings
        self._sessions: OrderedDict[Path, _Session] = OrderedDict()

    async def begin(self, repository: Repository) -> str:
        directory = repository.layout.uploads
        if len(os.listdir(directory)) >= self._settings.max_uploads:
            raise Exhausted(
                "too many uploads are under way in this repository",
                why=f"{self._settings.max_uploads} were begun and not finished",
                next="finish or cancel them, or wait until they are forgotten",
            )
        id = str(uuid.uuid4())
        (directory / id).touch()
        return id

    async def size(self, repository: Repository, id: str) -> int:
        """How many bytes have arrived."""
        path = self._path(repository, id)
        session = self._sessions.get(path)
        if session is not None and session.draft is not None:
            return session.draft.size
        try:
            return path.stat().st_size
        except FileNotFoundError:
            raise refusals.upload_unknown() from None

    async def append(
        self, repository: Repository, id: str, pieces: AsyncIterator[bytes], *, span: Span | None, announced: int
    ) -> int:
        """Add to it. Returns the new size. What arrived before a connection broke stays."""
        async with self._held(repository, id) as session:
            return await self._append(session, pieces, span=span, announced=announced)

    async def finish(
        self,
        repository: Repository,
        id: str,
        pieces: AsyncIterator[bytes],
        *,
        span: Span | None,
        announced: int,
        digest: str,
    ) -> None:
        """Add the last of it, and make it a blob. Raises `InvalidArgument`, and forgets it, when the digest differs."""
        async with self._held(repository, id) as session:
            await self._append(session, pieces, span=span, announced=announced)
            draft, session.draft = session.draft, None
            assert draft is not None
            del self._sessions[session.path]
            with _disk_errors(session.path):
                await asyncio.to_thread(repository.take_blob, draft, digest)

    async def cancel(self, repository: Repository, id: str) -> None:
        async with self._held(repository, id) as session:
            assert session.draft is not None
            del self._sessions[session.path]
            session.draft.discard()

    async def expire(self, repository: Repository) -> int:
        """Forget uploads that nobody went on with. Returns how many."""
        limit = time.time() - self._settings.upload_expiry_s
        count = 0
        for entry in list(os.scandir(repository.layout.uploads)):
            path = Path(entry.path)
            session = self._sessions.get(path)
            if entry.stat().st_mtime > limit or (session is not None and session.lock.locked()):
                continue
            self._close(path)
            path.unlink(missing_ok=True)
            count += 1
        return count

    def close(self) -> None:
        """Leave them as they are."""
        for path in list(self._sessions):
            self._close(path)

    async def _append(
        self, session: _Session, pieces: AsyncIterator[bytes], *, span: Span | None, announced: int
    ) -> int:
        draft = session.draft
        assert draft is not None
        before = draft.size
        if span is not None and span.first != before:
            raise refusals.out_of_order(before)
        self._check_room(session.path, announced)
        with _disk_errors(session.path):
            await self._copy(draft, pieces)
        if span is not None and draft.size - before != span.last - span.first + 1:
            got = draft.size - before
            session.draft = None
            draft.close()
            os.truncate(session.path, before)
            raise refusals.Refusal(
                400,
                "SIZE_INVALID",
                "the chunk has another length than its Content-Range says",
                why=f"{got} bytes came for {span.first}-{span.last}",
                next="send it again",
            )
        return draft.size

    async def _copy(self, draft: Draft, pieces: AsyncIterator[bytes]) -> None:
        """Hash and write in a thread, while the next piece comes in."""
        limit = self._settings.max_blob_bytes
        waiting = bytearray()
        size = draft.size
        writing: asyncio.Task[None] | None = None
        try:
            async for piece in pieces:
                size += len(piece)
                if size > limit:
                    raise too_large("the blob", limit)
                waiting += piece
                if len(waiting) >= _PIECE:
                    if writing is not None:
                        await writing
                    full, waiting = waiting, bytearray()
                    writing = asyncio.create_task(asyncio.to_thread(draft.write, full))
        finally:
            # Also when the client is gone: it will ask how far it came, and go on from there.
            if writing is not None:
                await writing
            if waiting:
                await asyncio.to_thread(draft.write, waiting)

    @asynccontextmanager
    async def _held(self, repository: Repository, id: str) -> AsyncIterator[_Session]:
        """The upload, opened, and nobody else's for as long."""
        path = self._path(repository, id)
        session = self._sessions.get(path)
        if session is None:
            session = self._sessions[path] = _Session(path)
        try:
            async with asyncio.timeout(_TURN_S):
                await session.lock.acquire()
        except TimeoutError:
            raise Exhausted("another request writes to this upload", next="wait for its answer") from None
        try:
            if session.draft is None:
                try:
                    session.draft = await asyncio.to_thread(Draft.resume, path)
                except FileNotFoundError:
                    self._sessions.pop(path, None)
                    raise refusals.upload_unknown() from None
            yield session
        finally:
            session.lock.release()
            self._trim()

    def _trim(self) -> None:
        """An upload between two chunks costs an open file; the oldest can be opened again."""
        for path, session in list(self._sessions.items()):
            if len(self._sessions) <= _OPEN_MOST:
                return
            if not session.lock.locked():
                self._close(path)

    def _close(self, path: Path) -> None:
        session = self._sessions.pop(path, None)
        if session is not None and session.draft is not None:
            session.draft.close()

    def _check_room(self, path: Path, size_bytes: int) -> None:
        free = shutil.disk_usage(path.parent).free
        if free - self._settings.min_free_mb * _MIB < size_bytes:
            why = f"{free // _MIB} MiB free, and {self._settings.min_free_mb} must stay free"
            raise no_space("take this upload", self._settings.store, why)

    @staticmethod
    def _path(repository: Repository, id: str) -> Path:
        if not _ID.fullmatch(id):
            raise refusals.upload_unknown()
        return repository.layout.uploads / id


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise disk_problem(error, doing="take this upload", disk=path.parent) from error
