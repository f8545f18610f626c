"""A disk that is soon full, and how full it is."""

from __future__ import annotations

import errno
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class SmallDisk:
    path: Path

    def fill(self) -> None:
        """To the last byte: with pieces, because a tmpfs gives its last pages to small writes only."""
        with (self.path / "filler").open("ab", buffering=0) as file:
            for size in (1 << 20, 1 << 12, 1):
                self._write_all(file.fileno(), b"x" * size)

    def _write_all(self, descriptor: int, piece: bytes) -> None:
        while True:
            try:
                os.write(descriptor, piece)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
                return

    def free(self) -> None:
        (self.path / "filler").unlink()


@contextmanager
def small_disk(path: Path, *, megabytes: int) -> Iterator[SmallDisk]:
    path.mkdir(parents=True, exist_ok=True)
    mount_tmpfs(path, megabytes=megabytes)
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def mount_tmpfs(directory: Path, *, megabytes: int) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "none", str(directory)], check=True)
