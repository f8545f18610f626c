"""All content of the registry, under its digest, once for all repositories.

Repositories hold hard links to it. So the count of links of a file says whether anybody needs it, and a repository, or
the agent with a link of its own, needs nothing else to be safe from the garbage collection of others.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from caddisfly.host.images.blobs import BlobStore, Draft
from caddisfly.host.images.durable import sync_directory
from caddisfly.host.registry.layout import Layout

_TRIES = 20


class Content:
    """Every method blocks. `lock` is held wherever a link may come or go, by repositories, too."""

    def __init__(self, layout: Layout, *, grace_s: float) -> None:
        self._layout, self._grace_s = layout, grace_s
        self._blobs = BlobStore(layout.blobs, temporary=layout.temporary)
        self.lock = threading.RLock()

    def take(self, draft: Draft, *, expected: str, into: Path) -> None:
        """Finish an upload: it becomes content, and a link to it. Raises `InvalidArgument` when it is something else.

        Nothing is left of a draft with the wrong content.
        """
        if draft.digest == expected and self._has(expected, draft.size):
            draft.discard()
        else:
            self._blobs.commit(draft, expected=expected, what="the upload")
        with self.lock:
            # Between the two, nobody can have collected it: it is younger than the grace.
            self._link(self._blobs.path(expected), into)

    def put(self, data: bytes, *, into: Path) -> None:
        """A small piece of content, and a link to it."""
        with self.lock:
            self._link(self._blobs.path(self._blobs.put(data)), into)

    def link(self, source: Path, into: Path) -> None:
        """Another repository gets what one has. Raises `FileNotFoundError`."""
        with self.lock:
            self._link(source, into)

    def seen(self, path: Path) -> os.stat_result:
        """Somebody was told that this is there: keep it for the grace. Raises `FileNotFoundError`."""
        with self.lock:
            found = path.stat()
            if time.time() - found.st_mtime > self._grace_s / 4:
                os.utime(path)
            return found

    def collect(self) -> int:
        """Delete what no repository has linked for the grace. Returns how many bytes that were."""
        freed = 0
        for entry in list(os.scandir(self._layout.blobs / "sha256")):
            if entry.name.startswith(".") or not self._stale(Path(entry.path)):
                continue
            with self.lock, suppress(FileNotFoundError):
                path = Path(entry.path)
                if self._stale(path):
                    freed += path.stat().st_size
                    path.unlink()
        return freed

    def sweep(self) -> None:
        """Remove the beginnings that a crash left. Nobody may be writing."""
        for path in (self._layout.blobs / "sha256").glob(".*.tmp"):
            path.unlink()

    def _has(self, digest: str, size: int) -> bool:
        """Also keeps it, for the grace. A damaged file of another size counts as absent, and is replaced."""
        with suppress(FileNotFoundError), self.lock:
            path = self._blobs.path(digest)
            os.utime(path)
            return path.stat().st_size == size
        return False

    def _stale(self, path: Path) -> bool:
        with suppress(FileNotFoundError):
            found = path.stat()
            return found.st_nlink == 1 and time.time() - found.st_mtime > self._grace_s
        return False

    @staticmethod
    def _link(source: Path, into: Path) -> None:
        os.utime(source)
        for attempt in range(_TRIES):
            try:
                os.link(source, into)
            except FileExistsError:
                break
            except FileNotFoundError:
                # Another upload of the same content took this name over in that moment: what had it can't be linked.
                if attempt == _TRIES - 1:
                    raise
            else:
                break
        sync_directory(into.parent)
