"""From the digest of a context to a directory that buildah can build.

The blobs are read where they lie, in the repository that the laptop pushed them to. Nothing about them is believed:
digests are checked while they are unpacked, and the unpacking is another process's (`lay_out.py`).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import subprocess
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Protocol

import caddisfly
from caddisfly.host.builds import lay_out
from caddisfly.host.builds.build import Build
from caddisfly.host.builds.bundle import FIRST_ID
from caddisfly.host.drivers.oci.runtime import end
from caddisfly.model.context import Context, Descriptor
from caddisfly.model.errors import Internal, InvalidArgument, NotFound, Unprocessable

_MANIFEST_MAX = 4 << 20
_DOCKERFILE_MAX = 4 << 20
_MAX_ENTRIES = 500_000
_CPU_S, _MEMORY_MB, _TIMEOUT_S = 300, 1024, 600


class Repository(Protocol):
    """Where an app's blobs lie, by digest. The paths need not exist."""

    def manifest(self, digest: str) -> Path: ...

    def blob(self, digest: str) -> Path: ...


class Repositories(Protocol):
    def repository(self, org_id: str, app: str) -> Repository: ...


@dataclass(frozen=True, slots=True)
class Directory:
    """A repository that is one directory of blobs, as an OCI layout has it: for development and tests."""

    path: Path

    def repository(self, org_id: str, app: str) -> Directory:
        return self

    def manifest(self, digest: str) -> Path:
        return self.blob(digest)

    def blob(self, digest: str) -> Path:
        return self.path / digest.removeprefix("sha256:")


class Contexts:
    """`max_bytes` bounds one context, unpacked."""

    def __init__(self, repositories: Repositories, *, max_bytes: int) -> None:
        self._repositories, self._max_bytes = repositories, max_bytes

    async def lay_out(self, build: Build, target: Path) -> bytes:
        """Unpack into `target`. Returns the Dockerfile. Raises `NotFound` for a context that was not pushed."""
        repository = self._repositories.repository(build.org_id, build.app_name)
        context, dockerfile = await asyncio.to_thread(_read_context, repository, build.context)
        request = lay_out.Request(
            target=str(target),
            owner=FIRST_ID,
            packs=tuple(_blob(repository, pack) for pack in context.packs),
            index=_blob(repository, context.index),
            max_bytes=self._max_bytes,
            max_entries=_MAX_ENTRIES,
            cpu_s=_CPU_S,
            memory_mb=_MEMORY_MB,
        )
        answer = await _run(request)
        if "refused" in answer:
            raise InvalidArgument(
                "the build context cannot be unpacked", why=str(answer["refused"]), next="send it again"
            )
        if "failed" in answer:
            if answer.get("errno") in (errno.ENOSPC, errno.EDQUOT):
                raise Unprocessable(
                    "the build's disk is full",
                    why="the context does not fit",
                    next="leave out what the build does not need with .dockerignore, or raise [builds] disk_gb",
                    status="disk_full",
                )
            raise Internal("the build context cannot be unpacked", why=str(answer["failed"]))
        return dockerfile


def _read_context(repository: Repository, digest: str) -> tuple[Context, bytes]:
    context = Context.from_bytes(_read(repository.manifest(digest), digest, _MANIFEST_MAX))
    return context, _read(repository.blob(context.dockerfile.digest), context.dockerfile.digest, _DOCKERFILE_MAX)


def _read(path: Path, digest: str, limit: int) -> bytes:
    try:
        with path.open("rb") as file:
            content = file.read(limit + 1)
    except FileNotFoundError:
        raise _missing(digest) from None
    if len(content) > limit or f"sha256:{sha256(content).hexdigest()}" != digest:
        raise InvalidArgument(f"{digest} is too long or damaged", next="push the context again")
    return content


def _blob(repository: Repository, descriptor: Descriptor) -> lay_out.Blob:
    path = repository.blob(descriptor.digest)
    if not path.exists():
        raise _missing(descriptor.digest)
    return lay_out.Blob(str(path), descriptor.digest)


def _missing(digest: str) -> NotFound:
    return NotFound(
        "the build context is not in the app's repository",
        why=f"{digest} is missing",
        next="push the context again, then build",
        status="no_context",
    )


async def _run(request: lay_out.Request) -> dict[str, object]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", lay_out.__name__),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={"PYTHONPATH": str(Path(caddisfly.__file__).parents[1]), "PATH": os.defpath, "LANG": "C.UTF-8"},
    )
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            out, err = await process.communicate(request.to_json().encode())
    finally:
        if process.returncode is None:
            await end(process)
    try:
        answer: dict[str, object] = json.loads(out)
    except ValueError:
        why = err.decode(errors="replace")[-500:] or f"it ended with {process.returncode}"
        raise Internal("the build context cannot be unpacked", why=why) from None
    return answer
