"""Blobs: read, in whole or in part, asked for, and taken out of a repository."""

from __future__ import annotations

import asyncio
import re

from caddisfly.host.registry import refusals
from caddisfly.host.registry.call import Call
from caddisfly.host.registry.repository import Repository

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


class BlobCalls:
    async def get(self, call: Call, repository: Repository) -> None:
        digest = call.parts["digest"]
        size = await asyncio.to_thread(repository.blob, digest)
        headers = {
            "Content-Type": "application/octet-stream",
            "Docker-Content-Digest": digest,
            "Accept-Ranges": "bytes",
            "ETag": f'"{digest}"',
        }
        if call.headers.get("if-none-match") == headers["ETag"]:
            await call.answer(304, headers=headers)
            return
        first, length, status = _part(call.headers.get("range", ""), size)
        if status == 206:
            headers["Content-Range"] = f"bytes {first}-{first + length - 1}/{size}"
        if call.method == "HEAD" or not length:
            await call.answer(status, headers=headers, length=length)
            return
        path = repository.layout.blob(digest)
        await call.answer_file(path, first=first, size=length, status=status, headers=headers)

    async def delete(self, call: Call, repository: Repository) -> None:
        await asyncio.to_thread(repository.delete_blob, call.parts["digest"])
        await call.answer(202)


def _part(header: str, size: int) -> tuple[int, int, int]:
    """First byte, length and HTTP status. What is no single range is answered with everything, as HTTP allows."""
    match = _RANGE.fullmatch(header.strip())
    if match is None or match[1] == match[2] == "":
        return 0, size, 200
    if not match[1]:
        first, last = max(0, size - int(match[2])), size - 1
    else:
        first, last = int(match[1]), min(int(match[2] or size), size - 1)
    if match[1] and match[2] and int(match[1]) > int(match[2]):
        return 0, size, 200
    if first >= size or last < first:
        raise refusals.Refusal(
            416,
            "RANGE_INVALID",
            "the blob has no such part",
            why=f"it has {size} bytes",
            headers={"Content-Range": f"bytes */{size}"},
        )
    return first, last - first + 1, 206
