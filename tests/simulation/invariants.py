"""What must hold once the faults have stopped and the clock ran on. Each finding is a sentence.

What can be judged in the moment it happens (a second sandbox, an effect before its intent, a value shown before it is
durable) is judged there: in `rooms`, `disk` and `world`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from caddisfly.host.operations.root import kept_for
from caddisfly.host.operations.root import keys as root_keys
from caddisfly.model import states
from caddisfly.model.machine import Event, Machine
from caddisfly.model.program import STARTED
from tests.host.paths import ASIDE, FOLLOWS

if TYPE_CHECKING:
    from tests.simulation.rooms import Box
    from tests.simulation.world import World

_RESTS_AFTER: dict[str, frozenset[str]] = {
    "launch/created": frozenset((states.STOPPED,)),
    "start/started": frozenset((states.STARTED,)),
    "suspend/suspended": frozenset((states.SUSPENDED,)),
    "resume/started": frozenset((states.STARTED,)),
    "resume/failed": frozenset((states.SUSPENDED,)),
    "stop/stopping": frozenset((states.STOPPED,)),
    "exit/stopped": frozenset((states.STOPPED, states.FAILED)),
    "update/replaced": frozenset((states.STOPPED, states.FAILED)),
    "update/failed": frozenset((states.STARTED, states.STOPPED, states.SUSPENDED, states.FAILED)),
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
        if _without_containers(values.get(f"machine.{id}")) != json.loads(json.dumps(machine.to_record())):
            yield f"{id}: the catalog does not say what the journal says ({machine.state})"
        if id not in seen or replace(seen[id], containers=()) != machine:
            yield f"{id}: the projection does not say what the journal says ({machine.state})"
        for name, state in seen[id].containers if id in seen else ():
            if state not in ("created", "started", "stopped"):
                yield f"{id}: container {name} is shown {state} and does not come to rest"
    for id in engine.machines.keys() - disk.keys():
        yield f"{id}: known to the engine, not in the journal"
    for id in seen.keys() - disk.keys():
        yield f"{id}: in the projection, not in the journal"
    for key in values.keys() - {f"machine.{id}" for id in disk}:
        if key.startswith("machine."):
            yield f"{key}: in the catalog, not in the journal"


def _without_containers(value: bytes | None) -> object:
    """A record as the journal has it: the states of programs are only published."""
    return {**json.loads(value), "containers": []} if value else None


def _leaks(world: World) -> Iterator[str]:
    rooms = world.rooms
    up = {machine.run_id: machine for machine in world.disk.machines.values() if machine.state == states.STARTED}
    running = {box.run_id for box in rooms.running()}
    for id, machine in up.items():
        boxes = [box for box in rooms.boxes.values() if box.run_id == id]
        if id not in running:
            yield f"{machine.id} is started and {id or 'nothing'} does not run"
        elif any(box.version != machine.instance_id for box in boxes):
            yield f"{id} runs another version than its Machine has"
        seen = world.projection.machines.get(machine.id)
        yield from _programs(machine, boxes, dict(seen.containers) if seen is not None else {})
    asleep = {machine.run_id: machine for machine in world.disk.machines.values() if machine.state == states.SUSPENDED}
    roots = {key for machine in up.values() for key in root_keys(machine).values()}
    asleep_roots = {key for machine in asleep.values() for key in root_keys(machine).values() if not kept_for(key)}
    written = {key for key in rooms.dirty if not kept_for(key)}
    # The link of one that is suspended goes with a reboot and comes again when it is resumed.
    for what, ids, wanted in (
        ("sandbox", {box.run_id for box in rooms.boxes.values()}, up.keys()),
        ("root", rooms.roots, roots),
        ("link", rooms.links - asleep.keys(), up.keys()),
        ("snapshot", rooms.snapshots.keys(), asleep.keys()),
        ("what was written to root", written - roots, asleep_roots),
    ):
        for id in sorted(ids - wanted):
            yield f"{what} {id} belongs to no Machine that is started"
        for id in sorted(wanted - ids):
            yield f"{what} {id} is missing"
    there = {machine.id for machine in world.disk.machines.values() if machine.state != states.DESTROYED}
    for key in rooms.kept:
        if kept_for(key) not in there:
            yield f"what was kept as {key} belongs to no Machine"


def _programs(machine: Machine, boxes: Sequence[Box], shown: Mapping[str, str]) -> Iterator[str]:
    """Each of several programs runs, or has ended and its policy says stay, or waits for one that failed.

    Of one whose last start failed nothing is left but what is `shown` of it.
    """
    by_name = {
        program.name: [box for box in boxes if box.number == str(number)]
        for number, program in enumerate(machine.config.programs)
    }
    for program in machine.config.programs:
        own = by_name[program.name]
        if len(own) > 1:
            yield f"{machine.id}: what is left of {program.name} is {', '.join(box.id for box in own)}"
        if any(box.running for box in own):
            continue
        due = all(by_name[name] and _meets(by_name[name][0], condition) for name, condition in program.after)
        again = program.essential or program.restart.policy == "always"
        if due and (again or (not own and shown.get(program.name) != states.STOPPED)):
            yield f"{machine.id}: its program {program.name} does not run"


def _meets(box: Box, condition: str) -> bool:
    return condition == STARTED or (box.exit is not None and box.exit.exit_code == 0)


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
    if machine is not None and up and machine.state not in (states.STARTED, states.SUSPENDED):
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
