"""The journal on a disk that is simulated: the same calls and the same refusals, durable only at commit. And the notes
on pods, which are there as soon as they are written and gone with a reboot.

`Disk` outlives every agent. It also judges: it sees each durable value of each Machine, so what may never be written
(a Machine that comes back from `destroyed`, an exit recorded twice) is noticed in the moment it is.
"""

from __future__ import annotations

import asyncio
import errno
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from caddisfly.host.drivers.driver import Sandbox
from caddisfly.host.drivers.notes import State, encoded, not_written, plan_of
from caddisfly.host.journal.journal import Contents, Stale, Write
from caddisfly.host.journal.operation import Operation
from caddisfly.model import states
from caddisfly.model.errors import AlreadyExists, Unavailable
from caddisfly.model.machine import Event, Machine
from tests.simulation.loop import PROCESS

if TYPE_CHECKING:
    from tests.simulation.world import World


class Disk:
    """What is durable, and everything that ever was."""

    def __init__(self, complain: Callable[[str], None]) -> None:
        self.machines: dict[str, Machine] = {}
        self.operations: dict[str, Operation] = {}
        self.counters: dict[str, int] = {}
        self.full = False
        self.history: dict[str, dict[str, Event]] = {}
        """Every event that was ever durable, oldest first, by Machine and by id."""
        self.versions: dict[str, str] = {}
        """The version that each event of an update brought, by the event's id."""
        self.destroyed: set[str] = set()
        self._configs: dict[str, object] = {}
        self._names: dict[tuple[str, str], str] = {}
        self._complain = complain

    def write(self, change: Write) -> None:
        machine = change.machine
        old = self.machines.get(machine.id)
        holder = self._names.get((machine.app_id, machine.name))
        taken = machine.alive and holder not in (None, machine.id)
        if change.fence is None:
            if old is not None or taken:
                raise AlreadyExists(f"unique machine name violation, machine ID {holder or machine.id} already exists")
        elif old is None or old.operation != change.fence:
            raise Stale(f"machine {machine.id} has another operation than {change.fence or 'none'}")
        elif taken:
            raise sqlite3.IntegrityError("UNIQUE constraint failed: machines.app_id, machines.name")
        begin = change.begin
        if begin is not None and any(
            other.machine_id == begin.machine_id and id != change.end for id, other in self.operations.items()
        ):
            raise sqlite3.IntegrityError("UNIQUE constraint failed: operations.machine_id")
        self._judge(old, machine)
        self.machines[machine.id] = machine
        if machine.alive:
            self._names[machine.app_id, machine.name] = machine.id
        elif holder == machine.id:
            del self._names[machine.app_id, machine.name]
        self.operations.pop(change.end, None)
        if begin is not None:
            self.operations[begin.id] = begin

    def progress(self, operation: Operation) -> None:
        if operation.id in self.operations:
            self.operations[operation.id] = operation

    def next_number(self, counter: str) -> int:
        self.counters[counter] = number = self.counters.get(counter, 0) + 1
        return number

    def forget(self, machine_id: str) -> None:
        machine = self.machines.pop(machine_id, None)
        if machine is not None and self._names.get((machine.app_id, machine.name)) == machine_id:
            del self._names[machine.app_id, machine.name]

    def contents(self) -> Contents:
        """As another process reads it: through JSON."""
        machines = tuple(Machine.from_record(json.loads(json.dumps(m.to_record()))) for m in self.machines.values())
        operations = tuple(
            Operation.from_record(json.loads(json.dumps(operation.to_record())))
            for operation in self.operations.values()
            if operation.machine_id in self.machines
        )
        return Contents(machines, operations, frozenset())

    def _judge(self, old: Machine | None, new: Machine) -> None:
        if old is not None and old.state == states.DESTROYED and new.state != states.DESTROYED:
            self._complain(f"{new.id} came back from destroyed as {new.state}")
        if new.state == states.DESTROYED:
            self.destroyed.add(new.id)
        known = self.history.setdefault(new.id, {})
        fresh = []
        for event in new.events:
            if event.id in known:
                break
            fresh.append(event)
        for event in reversed(fresh):
            known[event.id] = event
            if event.status == "replacing":
                self.versions[event.id] = new.instance_id
        altered = old is None or old.config is not new.config or old.instance_id != new.instance_id
        if altered and self._configs.setdefault(new.instance_id, new.config.wire) != new.config.wire:
            self._complain(f"version {new.instance_id} of {new.id} has another config than before")
        # The newest events that were durable must still be there: a write that forgets one was made from old news.
        if old is not None and old.events and old.events[0] not in new.events:
            self._complain(f"{new.id} lost its event {old.events[0].type}/{old.events[0].status}")


class SimNotes:
    """Of all pods, in the memory of the host: there until it reboots. Read as another process does, through JSON."""

    def __init__(self, disk: Disk, *, before: Callable[[str], None] = lambda moment: None) -> None:
        """`before` is told when it is about to be written that a pod has begun, or is to stop."""
        self._disk, self._before = disk, before
        self._homes: set[str] = set()
        self._plans: dict[str, Sandbox] = {}
        self._states: dict[str, State] = {}

    def begin(self, plan: Sandbox) -> None:
        self._homes.add(plan.id)
        self._room()
        self._plans[plan.id] = plan

    def plan(self, id: str) -> Sandbox | None:
        plan = self._plans.get(id)
        return plan_of(json.loads(encoded(plan))) if plan is not None else None

    def keep(self, id: str, state: State) -> None:
        old = self._states.get(id)
        if state.stopping and not (old and old.stopping):
            self._before("stopping")
        elif state.begun and not (old and old.begun):
            self._before("begun")
        self._room()
        if id not in self._homes:
            raise not_written(FileNotFoundError(id), Path(id))
        self._states[id] = state

    def state(self, id: str) -> State | None:
        state = self._states.get(id)
        return State.from_record(json.loads(json.dumps(state.to_record()))) if state is not None else None

    def forget(self, id: str) -> None:
        self._homes.discard(id)
        self._plans.pop(id, None)
        self._states.pop(id, None)

    def has(self, id: str) -> bool:
        return id in self._homes

    def known(self) -> frozenset[str]:
        return frozenset(self._homes)

    def clear(self) -> None:
        self._homes.clear()
        self._plans.clear()
        self._states.clear()

    def _room(self) -> None:
        """A host that is full is full everywhere."""
        if self._disk.full:
            raise not_written(OSError(errno.ENOSPC, "no space left on device"), Path("/simulated/pods"))


Work = Callable[[], Any]


class SimJournal:
    """The journal's interface, in one agent, over the world's disk."""

    def __init__(self, world: World) -> None:
        self._world, self._disk = world, world.disk
        self._queue: list[tuple[Work, asyncio.Future[Any]]] = []
        self._process = PROCESS.get()
        world.journal = self

    async def open(self) -> Contents:
        await asyncio.sleep(self._world.brief())
        return self._disk.contents()

    async def close(self) -> None:
        self._commit()

    async def write(self, change: Write) -> None:
        await self._do(lambda: self._written(change))

    def _written(self, change: Write) -> None:
        self._disk.write(change)
        if change.end and change.machine.state == states.STARTED:
            self._world.rooms.left_of(change.machine)

    async def progress(self, operation: Operation) -> None:
        await self._do(lambda: self._disk.progress(operation))

    async def next_number(self, counter: str) -> int:
        number: int = await self._do(lambda: self._disk.next_number(counter))
        return number

    async def forget(self, machine_id: str) -> None:
        await self._do(lambda: self._disk.forget(machine_id))

    def _do(self, work: Work) -> asyncio.Future[Any]:
        future: asyncio.Future[Any] = self._world.loop.create_future()
        self._queue.append((work, future))
        if len(self._queue) == 1:
            self._world.loop.later(self._world.brief(), self._commit)
        return future

    def lost(self) -> None:
        """The agent died. What waited for its commit is gone, unless the commit was just done."""
        if self._world.chance.random() < 0.5:
            self._commit()
        self._queue = []

    def _commit(self) -> None:
        """All that waits, in one transaction. Each piece that is refused is refused alone."""
        batch, self._queue = self._queue, []
        for work, future in batch:
            value: Any = None
            error: Exception | None = None
            if self._disk.full:
                error = Unavailable("the host's journal cannot be written", why="disk full", next="free disk space")
            else:
                try:
                    value = work()
                except (Stale, AlreadyExists, sqlite3.IntegrityError) as refusal:
                    error = refusal
            if future.done():
                continue
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)


def open_journal(world: World, path: Path) -> SimJournal:
    return SimJournal(world)
