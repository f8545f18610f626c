"""Log lines of an app: what its hosts keep, and what comes by live.

Lines are asked for by Machine, from the Machines that this app has, and the live subject begins with the app's own
name, whose alphabet has no wildcard: there is no way to a line of another app.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from nats.aio.msg import Msg

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.control.machines import Machines
from caddisfly.model.app import App
from caddisfly.model.errors import InvalidArgument, Problem
from caddisfly.model.machine import Machine

log = logging.getLogger(__name__)

NEWEST = 100
PAGE = 1000
_DAY_NS = 86_400 * 10**9
_QUEUE = 2000


@dataclass(frozen=True, slots=True)
class Line:
    """`at_ns` is nanoseconds since the epoch; `attributes` is what clients read (reference edge-network, 8.3)."""

    at_ns: int
    id: str
    attributes: dict[str, Any]

    @classmethod
    def of_record(cls, record: dict[str, Any], *, number: int = 0) -> Line:
        """From the record on the bus. Raises `ValueError` when it has no time."""
        timestamp = str(record.get("timestamp", ""))
        instance, region = _member(record, "fly.app.instance"), _member(record, "fly.region")
        meta: dict[str, Any] = {
            "instance": instance,
            "region": region,
            "event": {"provider": _member(record, "event.provider") or "app"},
        }
        meta |= {name: record[name] for name in ("http", "error", "url") if record.get(name)}
        if container := _member(record, "fly.container.name"):
            meta["container"] = {"name": container}
        attributes = {
            "timestamp": timestamp,
            "message": str(record.get("message", "")),
            "level": _member(record, "log.level") or "info",
            "instance": instance,
            "region": region,
            "meta": meta,
        }
        at_ns = nanoseconds(timestamp)
        return cls(at_ns, f"{instance}-{at_ns}-{number}", attributes)


class Logs:
    """`hold_s` is how long an empty poll is held."""

    def __init__(self, bus: Bus, machines: Machines, *, hold_s: float) -> None:
        self._bus, self._machines, self._hold_s = bus, machines, hold_s

    async def page(self, app: App, *, region: str, instance: str, token: str) -> tuple[list[Line], str]:
        """Lines, oldest first, and the token for those after. An empty `token` gives the newest of the last day."""
        if not token:
            lines = await self._read(app, region, instance, since_ns=time.time_ns() - _DAY_NS, limit=NEWEST)
            return lines[-NEWEST:], str(lines[-1].at_ns if lines else time.time_ns())
        if not (token.isascii() and token.isdecimal()) or len(token) > 20:
            raise InvalidArgument(
                f"invalid next_token {token!r}", next="send the next_token of the last reply, or none"
            )
        since_ns = int(token)
        async with self._live(app) as queue:
            lines = await self._read(app, region, instance, since_ns=since_ns, limit=PAGE)
            if not lines and await _any(queue, region, instance, within_s=self._hold_s):
                lines = await self._read(app, region, instance, since_ns=since_ns, limit=PAGE)
        return lines[:PAGE], str(lines[:PAGE][-1].at_ns if lines else since_ns)

    async def follow(self, app: App, *, region: str, instance: str) -> AsyncIterator[Line]:
        """Lines as they come, until the consumer goes. A consumer that is too slow loses the oldest."""
        async with self._live(app) as queue:
            while True:
                line = await queue.get()
                if _wanted(line, region, instance):
                    yield line

    async def _read(self, app: App, region: str, instance: str, *, since_ns: int, limit: int) -> list[Line]:
        machines = [
            machine
            for machine in self._machines.of(app).values()
            if (not region or machine.region == region) and (not instance or machine.id == instance)
        ]
        found = await asyncio.gather(*(self._of_machine(machine, since_ns, limit) for machine in machines))
        lines = [line for some in found for line in some if line.at_ns > since_ns]
        return sorted(lines, key=lambda line: line.at_ns)

    async def _of_machine(self, machine: Machine, since_ns: int, limit: int) -> list[Line]:
        request = contract.ReadLogs(machine_id=machine.id, since_ns=since_ns, limit=limit)
        try:
            reply = await self._machines.ask(machine.host_id, contract.READ_LOGS, request)
        except Problem as problem:  # the other hosts' lines are worth showing
            log.info("logs.host_left_out", extra={"machine": machine.id, "reason": str(problem)})
            return []
        return [line for number, record in enumerate(reply.lines) if (line := _line(record, number)) is not None]

    @asynccontextmanager
    async def _live(self, app: App) -> AsyncIterator[asyncio.Queue[Line]]:
        queue: asyncio.Queue[Line] = asyncio.Queue(_QUEUE)

        async def on_line(message: Msg) -> None:
            try:
                record = json.loads(message.data)
            except ValueError as error:
                log.info("logs.bad_line", extra={"subject": message.subject, "reason": str(error)})
                return
            line = _line(record, 0)
            if line is not None:
                if queue.full():
                    queue.get_nowait()
                queue.put_nowait(line)

        subscription = await self._bus.client.subscribe(f"logs.{app.name}.>", cb=on_line)
        try:
            yield queue
        finally:
            if self._bus.connected:
                await subscription.unsubscribe()


def _line(record: dict[str, Any], number: int) -> Line | None:
    try:
        return Line.of_record(record, number=number)
    except (ValueError, TypeError, AttributeError) as error:
        log.info("logs.bad_line", extra={"reason": str(error)})
        return None


def _wanted(line: Line, region: str, instance: str) -> bool:
    attributes = line.attributes
    return (not region or attributes["region"] == region) and (not instance or attributes["instance"] == instance)


async def _any(queue: asyncio.Queue[Line], region: str, instance: str, *, within_s: float) -> bool:
    try:
        async with asyncio.timeout(within_s):
            while not _wanted(await queue.get(), region, instance):
                pass
    except TimeoutError:
        return False
    return True


def _member(record: dict[str, Any], path: str) -> str:
    """A member by its dotted name, whether the record nests or not."""
    if path in record:
        return str(record[path])
    value: Any = record
    for name in path.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return "" if value is None else str(value)


def nanoseconds(timestamp: str) -> int:
    """RFC 3339 to nanoseconds since the epoch, without losing any. Raises `ValueError`."""
    head, dot, tail = timestamp.partition(".")
    if not dot:
        return int(datetime.fromisoformat(timestamp).timestamp()) * 10**9
    digits = len(tail) - len(tail.lstrip("0123456789"))
    moment = datetime.fromisoformat(head + tail[digits:])
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return int(moment.timestamp()) * 10**9 + int(tail[:digits].ljust(9, "0")[:9] or 0)
