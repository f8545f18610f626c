"""Blobs on their way in: in one request, in two, or in many that can be gone on with after anything."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable

from caddisfly.host.images.reference import is_digest
from caddisfly.host.registry import refusals
from caddisfly.host.registry.call import Call
from caddisfly.host.registry.repository import Repository
from caddisfly.host.registry.uploads import Span, Uploads

_SPAN = re.compile(r"(?:bytes[ =])?(\d{1,18})-(\d{1,18})(?:/.*)?")

Source = Callable[[Call, str], Awaitable[Repository | None]]


class UploadCalls:
    """`source` finds the repository to mount from, if the caller may read it."""

    def __init__(self, uploads: Uploads, *, source: Source) -> None:
        self._uploads, self._source = uploads, source

    async def begin(self, call: Call, repository: Repository) -> None:
        mount, digest = call.query.get("mount", ""), call.query.get("digest", "")
        if mount:
            if not is_digest(mount):
                raise refusals.bad_digest(mount)
            source = await self._source(call, call.query["from"]) if "from" in call.query else None
            if source is not None and await asyncio.to_thread(repository.mount, mount, source):
                await _created(call, mount)
                return
        elif "digest" in call.query:
            if not is_digest(digest):
                raise refusals.bad_digest(digest)
            id = await self._uploads.begin(repository)
            await self._finish(call, repository, id, digest)
            return
        id = await self._uploads.begin(repository)
        await self._progress(call, id, 0, status=202)

    async def status(self, call: Call, repository: Repository) -> None:
        id = call.parts["id"]
        await self._progress(call, id, await self._uploads.size(repository, id), status=204)

    async def append(self, call: Call, repository: Repository) -> None:
        id = call.parts["id"]
        try:
            size = await self._uploads.append(repository, id, call.pieces(), span=_span(call), announced=call.announced)
        except refusals.Refusal as refusal:
            refusal.headers.setdefault("Location", _location(call, id))
            raise
        await self._progress(call, id, size, status=202)

    async def finish(self, call: Call, repository: Repository) -> None:
        digest = call.query.get("digest", "")
        if not is_digest(digest):
            raise refusals.bad_digest(digest)
        await self._finish(call, repository, call.parts["id"], digest)

    async def cancel(self, call: Call, repository: Repository) -> None:
        await self._uploads.cancel(repository, call.parts["id"])
        await call.answer(204)

    async def _finish(self, call: Call, repository: Repository, id: str, digest: str) -> None:
        await self._uploads.finish(
            repository, id, call.pieces(), span=_span(call), announced=call.announced, digest=digest
        )
        await _created(call, digest)

    async def _progress(self, call: Call, id: str, size: int, *, status: int) -> None:
        headers = {"Location": _location(call, id), "Range": refusals.received(size), "Docker-Upload-Uuid": id}
        await call.answer(status, headers=headers)


def _location(call: Call, id: str) -> str:
    """Relative, so that it is right through whatever stands before us."""
    return f"/v2/{call.parts['name']}/blobs/uploads/{id}"


async def _created(call: Call, digest: str) -> None:
    location = f"/v2/{call.parts['name']}/blobs/{digest}"
    await call.answer(201, headers={"Location": location, "Docker-Content-Digest": digest})


def _span(call: Call) -> Span | None:
    text = call.headers.get("content-range")
    if text is None:
        return None
    match = _SPAN.fullmatch(text.strip())
    if match is None or int(match[2]) < int(match[1]):
        raise refusals.Refusal(400, "SIZE_INVALID", "Content-Range cannot be read", next="send <first>-<last>")
    return Span(int(match[1]), int(match[2]))
