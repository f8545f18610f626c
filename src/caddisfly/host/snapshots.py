"""The files of suspended Machines: made durable, counted, compared, removed.

    <data_dir>/snapshots/<run_id>/    whatever its driver wrote

Only root may enter: what is in there is a tenant's memory, secrets and all. That a directory is here says nothing: the
journal says which Machines are suspended, and what the files must be (`model/snapshot.py`). So a crash leaves at worst
files that belong to nobody, which the next agent removes.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import shutil
from pathlib import Path

from caddisfly.host.drivers.driver import Unusable
from caddisfly.host.images.durable import sync_directory

_CHUNK = 1 << 20
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """Another after each boot of this computer."""
    return _BOOT_ID.read_text().strip()


class Snapshots:
    """The snapshots of one host."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def make(self, key: str) -> Path:
        """A directory for a new one. What an interrupted suspend left there stays: its driver may go on from it."""
        home = self.path(key)
        home.mkdir(parents=True, exist_ok=True)
        for directory in (self._directory, home):
            directory.chmod(0o700)
        return home

    def path(self, key: str) -> Path:
        return self._directory / key

    async def seal(self, key: str) -> tuple[str, int]:
        """Make it durable. Returns the checksum of all its files, and how many bytes of disk they take."""
        return await asyncio.to_thread(_read, self.path(key), durable=True)

    async def check(self, key: str, sha256: str) -> None:
        """Raises `Unusable` when it is not what it was."""
        try:
            found, _ = await asyncio.to_thread(_read, self.path(key), durable=False)
        except OSError as error:
            raise Unusable("its memory cannot be read", why=error.strerror or str(error)) from error
        if found != sha256:
            raise Unusable("its memory on disk is not what was written", why="the checksum differs")

    async def remove(self, key: str) -> None:
        """Does nothing when there is none."""
        if (home := self.path(key)).exists():
            await asyncio.to_thread(shutil.rmtree, home)

    def known(self) -> set[str]:
        return {entry.name for entry in self._directory.iterdir()} if self._directory.is_dir() else set()


def _read(home: Path, *, durable: bool) -> tuple[str, int]:
    whole, size = hashlib.sha256(), 0
    files = sorted(path for path in home.rglob("*") if path.is_file())
    if not files:
        raise FileNotFoundError(2, "its files are gone", str(home))
    for path in files:
        with path.open("rb") as file:
            digest = hashlib.sha256()
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
            if durable:
                os.fsync(file.fileno())
            size += os.fstat(file.fileno()).st_blocks * 512
        whole.update(f"{path.relative_to(home)}\0{digest.hexdigest()}\n".encode())
    if durable:
        for directory in (home, home.parent):
            sync_directory(directory)
    return whole.hexdigest(), size
