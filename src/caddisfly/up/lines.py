"""Where the lines of the children go: files that rotate by size, or the terminal with a name in front."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Protocol


class Sink(Protocol):
    def write(self, name: str, lines: list[str]) -> None: ...


class Terminal:
    """All parts on standard error, each line behind its part's name."""

    def __init__(self, names: list[str]) -> None:
        self._width = max(map(len, names), default=0)

    def write(self, name: str, lines: list[str]) -> None:
        sys.stderr.write("".join(f"{name:<{self._width}} | {line}\n" for line in lines))
        sys.stderr.flush()


class Files:
    """`<directory>/<part>.log`, and one older `<part>.log.1`."""

    def __init__(self, directory: Path, *, size_bytes: int) -> None:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._directory, self._size_bytes = directory, size_bytes

    def write(self, name: str, lines: list[str]) -> None:
        path = self._directory / f"{name}.log"
        with path.open("a", errors="replace") as file:
            file.write("".join(f"{line}\n" for line in lines))
            size = file.tell()
        if size >= self._size_bytes:
            path.replace(path.with_suffix(".log.1"))
