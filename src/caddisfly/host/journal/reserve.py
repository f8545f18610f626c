"""Space kept back for the day when the disk is full.

A host that cannot write its journal can begin nothing, also not the stops and destroys that would free the disk. So a
file lies beside the journal that has no other use than to be given up: what runs can then still be stopped and
destroyed, while new Machines are refused, until the file is whole again.
"""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path

from caddisfly.model.errors import Unavailable

log = logging.getLogger(__name__)

SIZE_BYTES = 16 << 20
"""Four times what the write-ahead log grows to before it begins anew."""

_TRY_EVERY_S = 2.0


class Reserve:
    """Used by one thread. Without a path there is none, and nothing is ever refused for its sake."""

    def __init__(self, path: Path | None, *, size_bytes: int = SIZE_BYTES) -> None:
        self._path, self._size = path, size_bytes
        self._whole = path is None
        self._next_try = 0.0

    def restore(self) -> None:
        """Take the space back when it is there. Asked often, it looks now and then."""
        if self._whole or self._path is None or time.monotonic() < self._next_try:
            return
        self._next_try = time.monotonic() + _TRY_EVERY_S
        try:
            descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, self._size)
            finally:
                os.close(descriptor)
        except OSError as error:
            self._path.unlink(missing_ok=True)  # half of it would take the last of the disk
            log.error("journal.no_reserve", extra={"reason": str(error)})
            return
        self._whole = True

    def give_up(self) -> bool:
        """Whether that gave anybody space."""
        if self._path is None or not self._path.exists():
            return False
        self._path.unlink()
        self._whole = False
        self._next_try = time.monotonic() + _TRY_EVERY_S
        log.error("journal.disk_full", extra={"given_up_bytes": self._size})
        return True

    def require(self) -> None:
        """Raises `Unavailable` while it is given up: what is left is for what ends something."""
        if not self._whole:
            raise Unavailable(
                "the host's disk is full",
                why=f"the last {self._size >> 20} MiB are kept for stopping and destroying Machines",
                next="free space on the host's disk; stops and destroys still work",
                status="disk_full",
            )
