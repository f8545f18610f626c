"""Which name means which content: the only state of the store that could not be computed from the blobs.

One small file per name, replaced atomically. A table in SQLite would bring a second kind of recovery for a few hundred
rows that change once per deploy; here a file is old or new, and a file that cannot be read is a name that is not known.

Two kinds of names. `host/repository:tag` moves. `host/repository@digest` does not, and is kept beside it, because
content that was pulled for one repository must not be had by naming another.
"""

from __future__ import annotations

import json
import logging
import os
import time
from contextlib import suppress
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Literal

from caddisfly.host.images.durable import sync_directory, write_atomically
from caddisfly.host.images.reference import is_digest

log = logging.getLogger(__name__)

Origin = Literal["registry", "imported", "pulled"]
"""From a registry because a Machine named it, from a file, or from a registry because the operator said so."""


@dataclass(frozen=True, slots=True)
class Name:
    """What one name means."""

    name: str
    digest: str
    origin: Origin
    updated_at: float

    @property
    def pinned(self) -> bool:
        """Whether the name is by digest, so that it cannot change."""
        return "@" in self.name


class NameTable:
    """All names, in memory and on disk. Writing blocks."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._names: dict[str, Name] = {}
        directory.mkdir(parents=True, exist_ok=True)
        for path in directory.glob("*.json"):
            try:
                name = Name(**json.loads(path.read_bytes()))
                if not is_digest(name.digest):
                    raise ValueError("no digest")
            except (ValueError, TypeError):
                log.warning("image_name_unreadable", extra={"path": str(path)})
                continue
            self._names[name.name] = name

    def get(self, name: str) -> Name | None:
        return self._names.get(name)

    def all(self) -> list[Name]:
        return sorted(self._names.values(), key=lambda name: name.name)

    def set(self, name: str, digest: str, *, origin: Origin) -> None:
        """Durable when it returns. Does nothing when nothing changes, for it is called on every resolve."""
        known = self._names.get(name)
        if known is not None and (known.digest, known.origin) == (digest, origin):
            return
        record = Name(name, digest, origin, time.time())
        write_atomically(self._path(name), json.dumps(asdict(record)).encode())
        self._names[name] = record

    def touch(self, name: str) -> None:
        """Note that it was used. The file's time says when: it may be lost in a power cut."""
        with suppress(FileNotFoundError):
            os.utime(self._path(name))

    def used_at(self, name: str) -> float:
        """When it was last used or changed."""
        try:
            return self._path(name).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def remove(self, name: str) -> None:
        self._names.pop(name, None)
        self._path(name).unlink(missing_ok=True)
        sync_directory(self._directory)

    def _path(self, name: str) -> Path:
        return self._directory / f"{sha256(name.encode()).hexdigest()[:40]}.json"
