"""`caddis down`: Machines first, then the parts, and back only when everything is gone."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from dataclasses import dataclass

from caddisfly.bus import contract
from caddisfly.bus.rpc import LocalCaller
from caddisfly.model.errors import FailedPrecondition, Problem, Retryable
from caddisfly.up import presence
from caddisfly.up.settings import Settings

_STOP_S = 120.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """`parked` is None when Machines were left alone or the agent could not be asked."""

    was_running: bool
    parked: int | None = None


def down(settings: Settings, *, keep_machines: bool, note: Callable[[str], None]) -> Outcome:
    """Stop the platform of this computer; doing it twice is fine. Raises `FailedPrecondition` when it will not go."""
    run_dir = settings.platform.run_dir
    record = presence.read(run_dir)
    running = presence.held(run_dir)
    parked = None
    if running and not keep_machines:
        parked = _park(settings, note)
    if running:
        _end_supervisor(record)
    lock = presence.lock(run_dir)
    if lock is None:
        raise FailedPrecondition("the supervisor does not stop", next="caddis status")
    try:
        for name in presence.end_leftovers(run_dir):
            note(f"ended {name}, which a killed supervisor had left behind")
        presence.write(run_dir, {})
    finally:
        os.close(lock)
    return Outcome(was_running=running, parked=parked)


def _park(settings: Settings, note: Callable[[str], None]) -> int | None:
    async def park() -> int:
        reply = await LocalCaller(settings.host.socket).call(contract.PARK_HOST, contract.Nothing())
        return reply.machines

    try:
        return asyncio.run(park())
    except Retryable as problem:
        note(f"Machines could not be stopped and keep running: {problem}")
    except Problem as problem:
        raise FailedPrecondition(
            "the agent refuses to stop its Machines", why=str(problem), next="caddis down --keep-machines"
        ) from problem
    return None


def _end_supervisor(record: dict[str, dict[str, int]]) -> None:
    found = record.get("supervisor")
    if not found:
        raise FailedPrecondition(
            "the platform is just starting", why="its supervisor has not said yet who it is", next="try again"
        )
    process = presence.Process(found["pid"], found["started"])
    process.end(timeout_s=_STOP_S)
