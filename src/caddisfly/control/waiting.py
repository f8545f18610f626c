"""Waiting for a Machine to get somewhere (reference machines-api, M11).

It listens before it reads: a change between a read and a later subscription would be missed, and the caller would sit
out its whole timeout beside a Machine that is long there.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from caddisfly.bus.projection import Projection
from caddisfly.control.machines import machine_not_found
from caddisfly.model import states
from caddisfly.model.errors import DeadlineExceeded, FailedPrecondition
from caddisfly.model.machine import Machine


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`version` empty means the current one, `from_event_id` empty means that the past counts too."""

    states: tuple[str, ...]
    timeout_s: float
    version: str = ""
    from_event_id: str = ""

    def served(self, machine: Machine | None) -> bool:
        """Whether `machine` is what was waited for. Raises when it never will be."""
        wanted = frozenset(self.states)
        if machine is None or machine.state == states.DESTROYED:
            if states.reached(states.DESTROYED, wanted):
                return True
            raise machine_not_found()
        if self.version and machine.instance_id > self.version:
            raise FailedPrecondition(
                f"machine failed to reach desired state, {','.join(self.states)}, currently replaced",
                why=f"version {self.version} was replaced by {machine.instance_id}",
            )
        if self.version and machine.instance_id != self.version:
            return False  # our copy is behind
        if self.from_event_id and (not machine.events or machine.events[0].id <= self.from_event_id):
            return False
        return states.reached(machine.state, wanted)


async def wait(projection: Projection, machine: Machine, what: Wait) -> dict[str, Any]:
    """The reply's body. Raises `DeadlineExceeded`, `NotFound`, `FailedPrecondition` with texts that clients match."""
    changed = asyncio.Event()

    def on_change(old: Machine | None, new: Machine | None) -> None:
        value = new or old
        if value is not None and value.id == machine.id:
            changed.set()

    now: Machine | None = machine
    with projection.listening(on_change):
        try:
            async with asyncio.timeout(what.timeout_s):
                while True:
                    now = projection.machines.get(machine.id)
                    if what.served(now):
                        break
                    changed.clear()
                    await changed.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"machine failed to reach desired state, {','.join(what.states)}, "
                f"currently {now.state if now else states.DESTROYED}"
            ) from error
    seen = now or machine
    return {
        "ok": True,
        "state": now.state if now else states.DESTROYED,
        "event_id": seen.events[0].id if seen.events else "",
        "version": seen.instance_id,
    }
