"""The simulated journal answers as the real one does, call for call."""

from __future__ import annotations

import random
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.journal.journal import Contents, Journal, Write
from caddisfly.host.journal.operation import Operation
from caddisfly.model import ids, states
from caddisfly.model.errors import Problem
from caddisfly.model.machine import Machine
from tests.journal.test_journal import a_machine, an_operation
from tests.simulation.disk import Disk

_STATES = (states.STARTING, states.STOPPED, states.DESTROYED)


class Script:
    """A random sequence of calls, sensible and not, that both journals are given."""

    def __init__(self, seed: int) -> None:
        self._chance = random.Random(seed)
        self._machines = [a_machine(name=name) for name in ("a", "a", "b", "c")]
        self._operations: list[Operation] = []

    def next(self) -> tuple[str, Any]:
        chance = self._chance
        machine = chance.choice(self._machines)
        what = chance.random()
        if what < 0.1:
            return "next_number", chance.choice(("run", "address4"))
        if what < 0.2:
            return "forget", machine.id
        if what < 0.35 and self._operations:
            return "progress", replace(chance.choice(self._operations), at=chance.randrange(3))
        return "write", self._write(machine)

    def _write(self, machine: Machine) -> Write:
        chance = self._chance
        begin = an_operation(machine) if chance.random() < 0.4 else None
        known = [operation.id for operation in self._operations] or [""]
        changed = replace(machine, state=chance.choice(_STATES), operation=begin.id if begin else "", run_id=ids.ulid())
        if begin is not None:
            self._operations.append(begin)
        fence = chance.choice((None, "", chance.choice(known)))
        return Write(machine=changed, fence=fence, begin=begin, end=chance.choice(("", chance.choice(known))))


async def both(real: Journal, disk: Disk, name: str, argument: Any) -> tuple[object, object]:
    """What each of them answered: a value, or the kind of refusal."""
    answers: list[object] = []
    try:
        answers.append(await getattr(real, name)(argument))
    except (Problem, sqlite3.IntegrityError) as error:
        answers.append(type(error))
    try:
        answers.append(getattr(disk, name)(argument))
    except (Problem, sqlite3.IntegrityError) as error:
        answers.append(type(error))
    return answers[0], answers[1]


def sortable(contents: Contents) -> tuple[list[Machine], list[Operation]]:
    known = {machine.id for machine in contents.machines}
    operations = [operation for operation in contents.operations if operation.machine_id in known]
    return sorted(contents.machines, key=lambda m: m.id), sorted(operations, key=lambda operation: operation.id)


@pytest.mark.parametrize("seed", range(8))
async def test_both_journals_answer_alike(tmp_path: Path, seed: int) -> None:
    script, disk = Script(seed), Disk(lambda complaint: None)
    real = Journal(tmp_path / "journal.db")
    await real.open()
    refused = 0
    for _ in range(150):
        name, argument = script.next()
        theirs, ours = await both(real, disk, name, argument)
        assert ours == theirs, (name, argument)
        refused += isinstance(ours, type)
    await real.close()
    again = Journal(tmp_path / "journal.db")
    assert sortable(await again.open()) == sortable(disk.contents())
    await again.close()
    assert 10 < refused < 140
