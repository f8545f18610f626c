"""Consoles: conmon writes each Machine's output to a file; here it is read, followed to the bus, and rotated.

A line on the bus has the shape that Fly's log shippers know (reference edge-network, 8.3), with the stream added. The
file is the record; the bus is a live view of it and may lose lines without anyone losing data.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from asyncinotify import Inotify, Mask

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.host.operations.work import log_of
from caddisfly.host.settings import HostSettings
from caddisfly.model.errors import Unavailable
from caddisfly.model.machine import Machine

log = logging.getLogger(__name__)

_MIB = 1 << 20
_LINE_MAX = 64 * 1024
_CHUNK = 256 * 1024
_CURRENT = "current"
_TAIL_BYTES = 4 * _MIB
"""How far back a read goes into each file: the newest lines are what people ask for."""


def parse_line(raw: bytes, machine: Machine, host_id: str, container: str = "") -> dict[str, Any] | None:
    """One line of conmon's file, `time stream F|P text`, as a record of the bus. None for what is not such a line."""
    try:
        timestamp, stream, _, text = raw.decode(errors="replace").split(" ", 3)
    except ValueError:
        return None
    named = {"container": {"name": container}} if container else {}
    return {
        "event": {"provider": "app"},
        "fly": {"app": {"name": machine.app_name, "instance": machine.id}, "region": machine.region, **named},
        "host": host_id,
        "log": {"level": "info"},
        "message": text[:_LINE_MAX].removesuffix("\r"),  # a terminal ends lines with two characters
        "stream": stream,
        "timestamp": timestamp,
    }


def only_ends(raw: bytes, begun: set[bytes]) -> bool:
    """Whether a line of conmon's file has nothing but the end of one whose beginning was read before it.

    A program that does not buffer writes a text and its newline one after the other, which conmon notes as a part (`P`)
    and an empty rest. `begun` has the streams whose last line was a part.
    """
    _, stream, kind, *text = *raw.split(b" ", 3), b"", b""
    ends = kind == b"F" and not text[0] and stream in begun
    (begun.add if kind == b"P" else begun.discard)(stream)
    return ends


class LogReader:
    """Reads back what Machines have printed."""

    def __init__(self, settings: HostSettings) -> None:
        self._settings = settings

    async def read(self, machine: Machine, *, since_ns: int, limit: int) -> list[dict[str, Any]]:
        """The newest lines younger than `since_ns`, oldest first."""
        return await asyncio.to_thread(self._read, machine, since_ns, limit)

    def _read(self, machine: Machine, since_ns: int, limit: int) -> list[dict[str, Any]]:
        files = sorted(log_of(self._settings, machine.id).parent.glob(f"{_CURRENT}*.log"))
        lines = [
            record
            for current in files
            for begun in [set[bytes]()]
            for path in (_older(current), current)
            for raw in _tail(path)
            if not only_ends(raw, begun)
            and (record := parse_line(raw, machine, self._settings.host_id, container_of(current)))
            and nanoseconds(record["timestamp"]) > since_ns
        ]
        if len(files) > 1:
            lines.sort(key=lambda record: nanoseconds(record["timestamp"]))
        return lines[-limit:]


class LogFollower:
    """Sends new lines to the bus as they are written, and rotates files that have grown too large."""

    def __init__(
        self,
        settings: HostSettings,
        bus: Bus,
        *,
        find: Callable[[str], Machine | None],
        reopen: Callable[[Machine], Awaitable[None]],
    ) -> None:
        """`find` gives a Machine by id; `reopen` makes its shim open a new file."""
        self._settings, self._bus, self._find, self._reopen = settings, bus, find, reopen
        self._root = settings.data_dir / "logs"
        self._offsets: dict[Path, int] = {}
        self._begun: defaultdict[Path, set[bytes]] = defaultdict(set)
        self._watched: set[str] = set()
        self._inotify: Inotify | None = None
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        self._root.chmod(0o700)  # what programs print is for their owners
        self._inotify = Inotify()
        self._task = asyncio.create_task(self._follow(), name="logs")

    async def stop(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        if self._inotify is not None:
            self._inotify.close()

    def watch(self, machine_id: str, *, from_start: bool) -> None:
        """Follow a Machine's file from now on, or from its beginning when it is new."""
        if machine_id in self._watched or self._inotify is None:
            return
        directory = self._root / machine_id
        directory.mkdir(exist_ok=True)
        if not from_start:
            self._offsets |= {file: file.stat().st_size for file in directory.glob(f"{_CURRENT}*.log")}
        self._inotify.add_watch(directory, Mask.MODIFY | Mask.CREATE)
        self._watched.add(machine_id)

    async def forget(self, machine_id: str) -> None:
        """Remove the files of a Machine that is no longer readable."""
        self._watched.discard(machine_id)
        for file in [file for file in self._offsets if file.parent.name == machine_id]:
            del self._offsets[file]
            self._begun.pop(file, None)
        await asyncio.to_thread(shutil.rmtree, self._root / machine_id, ignore_errors=True)

    async def _follow(self) -> None:
        assert self._inotify is not None
        async for event in self._inotify:
            if event.path is None or not event.path.name.startswith(_CURRENT):
                continue
            machine_id = event.path.parent.name
            try:
                await self._ship(machine_id, event.path)
            except (Unavailable, OSError) as error:
                log.debug("logs.not_shipped", extra={"machine": machine_id, "reason": str(error)})

    async def _ship(self, machine_id: str, path: Path) -> None:
        machine = self._find(machine_id)
        if machine is None:
            return
        limit = self._settings.log_size_mb * _MIB
        while True:
            size = path.stat().st_size
            offset = self._offsets.get(path, 0)
            if size < offset:  # conmon has begun it anew by itself
                offset = 0
            if size > 2 * limit:
                # Who writes faster than this can read is not waited for: the file keeps its newest lines.
                await self._rotate(machine, path)
                return
            shipped = await self._ship_chunk(machine, path, offset)
            self._offsets[path] = offset + shipped
            if not shipped:
                break
            # Other Machines' calls go on between two chunks.
            await asyncio.sleep(0)
        if size > limit:
            await self._rotate(machine, path)

    async def _ship_chunk(self, machine: Machine, path: Path, offset: int) -> int:
        """Send whole lines from here on. Returns their bytes."""
        with path.open("rb") as file:
            file.seek(offset)
            data = file.read(_CHUNK)
        complete = data.rfind(b"\n") + 1
        if not complete and len(data) == _CHUNK:
            complete = len(data)
        subject = contract.log_subject(app=machine.app_name, region=machine.region, machine_id=machine.id)
        for raw in data[:complete].splitlines():
            if only_ends(raw, self._begun[path]):
                continue
            record = parse_line(raw, machine, self._settings.host_id, container_of(path))
            if record is not None:
                await self._bus.publish(subject, json.dumps(record).encode())
        return complete

    async def _rotate(self, machine: Machine, path: Path) -> None:
        os.replace(path, _older(path))
        self._offsets[path] = 0
        await self._reopen(machine)
        log.info("logs.rotated", extra={"machine": machine.id})


def nanoseconds(timestamp: str) -> int:
    """RFC 3339 with up to nine decimals, as conmon writes it, in nanoseconds since the epoch. 0 when it is not one."""
    head, dot, rest = timestamp.partition(".")
    digits = rest[:9] if dot else ""
    zone = rest[len(digits) :] if dot else ""
    for index, character in enumerate(digits):
        if not character.isdigit():
            digits, zone = rest[:index], rest[index:]
            break
    try:
        seconds = datetime.fromisoformat(head + (zone or "+00:00")).timestamp()
    except ValueError:
        return 0
    return int(seconds) * 1_000_000_000 + int((digits or "0").ljust(9, "0"))


def _older(path: Path) -> Path:
    return path.with_name(path.name.replace(_CURRENT, "older", 1))


def container_of(path: Path) -> str:
    """Whose console this file is; empty in a Machine of one program."""
    return path.name.removeprefix(_CURRENT).removesuffix(".log").removeprefix(".")


def _tail(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(0, size - _TAIL_BYTES))
            data = file.read(_TAIL_BYTES)
    except FileNotFoundError:
        return
    lines = data.splitlines()
    yield from lines[1:] if size > _TAIL_BYTES else lines
