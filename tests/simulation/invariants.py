"""What must hold once the faults have stopped and the clock ran on. Each finding is a sentence.

What can be judged in the moment it happens (a second sandbox, an effect before its intent, a value shown before it is
durable) is judged there: in `rooms`, `disk` and `world`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

from caddisfly.model import states
from caddisfly.model.machine import Event, Machine
from tests.host.paths import ASIDE, FOLLOWS

if TYPE_CHECKING:
    from tests.simulation.world import World

_RESTS_AFTER: dict[str, frozenset[str]] = {
    "launch/created": frozenset((states.STOPPED,)),
    "start/started": frozenset((states.STARTED,)),
    "stop/stopping": frozenset((states.STOPPED,)),
    "exit/stopped": frozenset((states.STOPPED, states.FAILED)),
    "update/replaced": frozenset((states.STOPPED, states.FAILED)),
    "update/failed": frozenset((states.STARTED, states.STOPPED, states.FAILED)),
    "destroy/destroyed": frozenset((states.DESTROYED,)),
}
"""In which state a Machine can rest whose newest event is this: anything else is work that nobody finished."""


def unsettled(world: World) -> list[str]:
    """What is not yet, or not, as it should be. Empty when every promise is kept."""
    return [*_at_rest(world), *_copies(world), *_leaks(world), *_acknowledged(world)]


def _at_rest(world: World) -> Iterator[str]:
    for machine in world.disk.machines.values():
        if machine.operation or machine.state not in states.SETTLED:
            yield f"{machine.id} does not come to rest: {machine.state}, operation {machine.operation or 'none'}"
    for operation in world.disk.operations.values():
        yield f"operation {operation.kind} of {operation.machine_id} is left in the journal"


def _copies(world: World) -> Iterator[str]:
    """Journal, the engine's memory, the catalog, and everyone's copy of it."""
    disk = world.disk.machines
    engine = world.engine
    if engine is None:
        yield "the agent is not up"
        return
    values = world.server.values()
    seen = world.projection.machines
    for id, machine in disk.items():
        if engine.machines.get(id) != machine:
            yield f"{id}: the engine believes what the journal does not say"
        if values.get(f"machine.{id}") != json.dumps(machine.to_record(), separators=(",", ":")).encode():
            yield f"{id}: the catalog does not say what the journal says ({machine.state})"
        if seen.get(id) != machine:
            yield f"{id}: the projection does not say what the journal says ({machine.state})"
    for id in engine.machines.keys() - disk.keys():
        yield f"{id}: known to the engine, not in the journal"
    for id in seen.keys() - disk.keys():
        yield f"{id}: in the projection, not in the journal"
    for key in values.keys() - {f"machine.{id}" for id in disk}:
        if key.startswith("machine."):
            yield f"{key}: in the catalog, not in the journal"


def _leaks(world: World) -> Iterator[str]:
    rooms = world.rooms
    up = {machine.run_id: machine for machine in world.disk.machines.values() if machine.state == states.STARTED}
    running = {box.id for box in rooms.running()}
    for id, machine in up.items():
        box = rooms.boxes.get(id)
        if id not in running or box is None:
            yield f"{machine.id} is started and {id or 'nothing'} does not run"
        elif box.version != machine.instance_id:
            yield f"{id} runs another version than its Machine has"
    for what, ids in (("sandbox", set(rooms.boxes)), ("root", rooms.roots), ("link", rooms.links)):
        for id in sorted(ids - up.keys()):
            yield f"{what} {id} belongs to no Machine that is started"
        for id in sorted(up.keys() - ids):
            yield f"{what} {id} is missing"


def _acknowledged(world: World) -> Iterator[str]:
    for id in sorted(world.destroys - world.disk.destroyed):
        yield f"{id}: its accepted destroy was not carried out"


def broken_histories(world: World) -> list[str]:
    """Every event log is a path of the state graph, every run ends, once."""
    found = []
    for id, events in world.disk.history.items():
        machine = world.disk.machines.get(id)
        found += [f"{id}: {problem}" for problem in _path(list(events.values()), machine)]
        found += _versions(list(events.values()), machine, world.disk.versions)
    exits = Counter(_run_of(event) for events in world.disk.history.values() for event in events.values())
    found += [f"the exit of {run} was recorded {times} times" for run, times in exits.items() if run and times > 1]
    return found


def _path(events: Sequence[Event], machine: Machine | None) -> Iterator[str]:
    before, stopped, up = "", False, False
    for event in events:
        if event.type == ASIDE:
            continue
        now = f"{event.type}/{event.status}"
        if now not in FOLLOWS[before]:
            yield f"{now} after {before or 'nothing'}"
        if stopped and now in ("restart/restarting", "start/started"):
            yield f"{now} though it was stopped"
        if now == "start/started":
            if up:
                yield "it started again and nobody said how it had ended"
            up = True
        elif event.type == "exit":
            up = False
        stopped = now == "stop/stopping" or (stopped and now != "start/starting")
        before = now
    ids = [event.id for event in events]
    if ids != sorted(ids):
        yield "its events are out of order"
    if machine is not None and up and machine.state != states.STARTED:
        yield "nobody said how it ended"
    if machine is not None and machine.state not in _RESTS_AFTER.get(before, frozenset()):
        yield f"it rests as {machine.state} after {before}"


def _versions(events: Sequence[Event], machine: Machine | None, versions: Mapping[str, str]) -> Iterator[str]:
    """A Machine has the version of its last update, or the one before when that failed."""
    before = now = ""
    for event in events:
        if event.status == "replacing":
            before, now = now, versions[event.id]
        elif (event.type, event.status) == ("update", "failed"):
            now = before
    if machine is not None and now and machine.instance_id != now:
        yield f"{machine.id} is on version {machine.instance_id}, its updates led to {now}"


def _run_of(event: Event) -> str:
    if event.type != "exit" or not event.request:
        return ""
    error = str(event.request["exit_event"]["error"])
    return error.removeprefix("run ") if error.startswith("run ") else ""
