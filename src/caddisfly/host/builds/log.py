"""A build's log: a file of JSON lines, written while they come, read by offset, and live on the bus.

    {"at": ..., "kind": "output", "message": ...}
    {"at": ..., "kind": "step", "message": "STEP 2/5: RUN make", "step": {"event": "started", "number": 2, ...}}

An offset is a position in the file, so a reader whose connection broke goes on where it was. The bus is a live view and
may lose lines; the file is the record.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

from caddisfly.host.builds.output import Event
from caddisfly.model.errors import Unavailable

log = logging.getLogger(__name__)

_LONGEST = 16 * 1024
Publish = Callable[[bytes], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Page:
    lines: tuple[dict[str, Any], ...]
    next_offset: int


class BuildLog:
    """The writer of one. `limit` is in bytes."""

    def __init__(self, path: Path, *, limit: int, publish: Publish) -> None:
        self._path, self._limit, self._publish = path, limit, publish
        self._file: IO[bytes] | None = None
        self._size = 0
        self._cut = False
        self._news = asyncio.Event()

    async def output(self, message: str) -> None:
        await self._write({"kind": "output", "message": message[:_LONGEST]})

    async def step(self, event: Event) -> None:
        step = event.step
        stage = f"[{step.stage}] " if step.stage else ""
        message = f"{stage}STEP {step.number}/{step.of}: {step.text}"
        await self._write({"kind": "step", "message": message, "step": event.to_record()}, always=True)

    async def note(self, message: str) -> None:
        """The platform speaks."""
        await self._write({"kind": "note", "message": message}, always=True)

    @property
    def news(self) -> asyncio.Event:
        """Set once there is more than now, or it has ended. Take it before reading."""
        return self._news

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
        self._news.set()

    async def _write(self, record: dict[str, Any], *, always: bool = False) -> None:
        if not always and self._size >= self._limit:
            if self._cut:
                return
            self._cut = True
            record = {
                "kind": "note",
                "message": f"the log is longer than {self._limit >> 20} MiB: the rest is left out",
            }
        line = json.dumps({"at": datetime.now(UTC).isoformat(), **record}).encode() + b"\n"
        if self._file is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("ab", buffering=0)
        self._file.write(line)
        self._size += len(line)
        self._wake()
        try:
            await self._publish(line.rstrip())
        except Unavailable:
            log.debug("builds.line_not_published")

    def _wake(self) -> None:
        self._news.set()
        self._news = asyncio.Event()


def read(path: Path, *, offset: int, limit: int) -> Page:
    """Whole lines from an offset on, about `limit` bytes of them. Each carries the offset of what follows it."""
    try:
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(limit)
            if b"\n" not in data:
                data += file.readline()
    except FileNotFoundError:
        return Page((), offset)
    lines = []
    for raw in data[: data.rfind(b"\n") + 1].splitlines(keepends=True):
        offset += len(raw)
        try:
            lines.append({**json.loads(raw), "offset": offset})
        except ValueError:  # a crash cut it, or somebody's offset points into a line
            continue
    return Page(tuple(lines), offset)
