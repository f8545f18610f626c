"""The folder on its way into the registry: packs are made, looked for and sent, several at a time.

A pack exists for as long as it takes to send it, in memory or a temporary file, so that a large folder needs no second
copy of itself. The manifest comes last: it is what makes the context be there.
"""

from __future__ import annotations

import hashlib
import io
import tempfile
import threading
from collections.abc import Callable
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass, replace
from typing import IO, cast

from caddisfly.launch.build.context import Folder, Pack
from caddisfly.launch.build.push import Registry
from caddisfly.model.context import DOCKERFILE, INDEX, MANIFEST, PACK, TAG, Context, Descriptor

_AT_ONCE = 4
_IN_MEMORY = 4 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """How far it is. `digest`, of the context's manifest, comes at the end."""

    packs: int
    done: int = 0
    sent: int = 0
    """Packs that the registry did not have."""
    sent_bytes: int = 0
    digest: str = ""


Told = Callable[[Delivery], None]


def deliver(folder: Folder, dockerfile: bytes, registry: Registry, *, told: Told = lambda _: None) -> Delivery:
    """Send what the registry lacks. `told` hears of each step, from several threads but never twice at once."""
    return _Van(folder, registry, told).drive(dockerfile)


class _Van:
    def __init__(self, folder: Folder, registry: Registry, told: Told) -> None:
        self._folder = folder
        self._packs = folder.packs()
        self._registry = registry
        self._told = told
        self._lock = threading.Lock()
        self._state = Delivery(packs=len(self._packs))

    def drive(self, dockerfile: bytes) -> Delivery:
        pool = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delivery")
        try:
            index = self._small(INDEX, self._folder.index())
            recipe = self._small(DOCKERFILE, dockerfile)
            jobs = [pool.submit(self._pack, pack) for pack in self._packs]
            wait(jobs, return_when=FIRST_EXCEPTION)
            failed = next((job for job in jobs if job.done() and job.exception()), None)
            if failed is not None:
                failed.result()
            packs = tuple(job.result() for job in jobs)
        except BaseException:
            self._registry.stop()
            raise
        finally:
            pool.shutdown(cancel_futures=True)
        content = Context(index, recipe, packs).to_bytes()
        digest = self._registry.put_manifest(content, media_type=MANIFEST, tag=TAG)
        return replace(self._state, digest=digest)

    def _small(self, media_type: str, content: bytes) -> Descriptor:
        blob = Descriptor.of(media_type, content)
        self._registry.push(blob, io.BytesIO(content), arrived=self._arrived)
        return blob

    def _pack(self, pack: Pack) -> Descriptor:
        with tempfile.SpooledTemporaryFile(_IN_MEMORY, prefix="caddis-pack-") as spool:
            out = _Hashing(cast(IO[bytes], spool))
            pack.write(cast(IO[bytes], out))
            blob = Descriptor(PACK, f"sha256:{out.hash.hexdigest()}", out.size)
            sent = self._registry.push(blob, cast(IO[bytes], spool), arrived=self._arrived)
        with self._lock:
            self._state = replace(self._state, done=self._state.done + 1, sent=self._state.sent + sent)
            self._told(self._state)
        return blob

    def _arrived(self, count: int) -> None:
        with self._lock:
            self._state = replace(self._state, sent_bytes=self._state.sent_bytes + count)
            self._told(self._state)


class _Hashing:
    """A file to write to that knows what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size = 0

    def write(self, piece: bytes) -> int:
        self.hash.update(piece)
        self.size += len(piece)
        return self._file.write(piece)

    def flush(self) -> None:
        self._file.flush()
