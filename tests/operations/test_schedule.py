"""Scheduled Machines, with a clock that the test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from caddisfly.host.schedule import INTERVALS_MS, Schedule, slot
from caddisfly.model.config import Config
from caddisfly.model.machine import Exit, Machine
from tests.journal.test_journal import a_machine
from tests.operations.test_engine import World

HOUR = INTERVALS_MS["hourly"]


class Clock:
    def __init__(self) -> None:
        self.ms = 0

    def __call__(self) -> int:
        return self.ms


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.up()
    yield made
    await made.down()


async def run_to_its_end(world: World, machine: Machine) -> Machine:
    running = await world.engine.settled(machine.id)
    assert running.state == "started"
    await world.engine.exited(machine.id, running.run_id, Exit(exit_code=0))
    return await world.engine.settled(machine.id)


def starts(machine: Machine) -> int:
    return sum((event.type, event.status) == ("start", "started") for event in machine.events)


async def test_it_starts_once_in_each_interval(world: World) -> None:
    clock = Clock()
    schedule = Schedule(world.engine, now=clock)
    machine = await run_to_its_end(world, await world.create(schedule="hourly"))
    clock.ms = machine.created_ms + HOUR // 2
    await schedule.look()
    assert world.engine.get(machine.id).state == "stopped"
    for hour in (1, 2):
        clock.ms = machine.created_ms + hour * HOUR + HOUR // 2
        await schedule.look()
        machine = await run_to_its_end(world, machine)
        await schedule.look()
        assert starts(world.engine.get(machine.id)) == 1 + hour, "one slot, one start"


async def test_slots_that_were_slept_through_are_one_start(world: World) -> None:
    clock = Clock()
    machine = await run_to_its_end(world, await world.create(schedule="daily"))
    await world.down()
    await world.up()
    clock.ms = machine.created_ms + 100 * INTERVALS_MS["daily"]
    schedule = Schedule(world.engine, now=clock)
    await schedule.look()
    machine = await run_to_its_end(world, machine)
    await schedule.look()
    assert starts(world.engine.get(machine.id)) == 2


async def test_a_slot_that_comes_while_it_runs_is_skipped(world: World) -> None:
    clock = Clock()
    schedule = Schedule(world.engine, now=clock)
    machine = await world.engine.settled((await world.create(schedule="hourly")).id)
    clock.ms = machine.created_ms + HOUR + HOUR // 2
    await schedule.look()
    machine = await run_to_its_end(world, machine)
    await schedule.look()
    assert world.engine.get(machine.id).state == "stopped"
    assert starts(world.engine.get(machine.id)) == 1


async def test_one_that_was_never_launched_and_one_without_schedule_are_left_alone(world: World) -> None:
    clock = Clock()
    made = [await world.create(launch=False, schedule="hourly"), await world.create(launch=False)]
    for machine in made:
        await world.engine.settled(machine.id)
    clock.ms = made[0].created_ms + 10 * HOUR
    await Schedule(world.engine, now=clock).look()
    assert [world.engine.get(machine.id).state for machine in made] == ["stopped", "stopped"]


async def test_a_clock_that_is_set_back_starts_nothing(world: World) -> None:
    clock = Clock()
    schedule = Schedule(world.engine, now=clock)
    machine = await run_to_its_end(world, await world.create(schedule="hourly"))
    clock.ms = machine.created_ms - 30 * HOUR
    await schedule.look()
    assert world.engine.get(machine.id).state == "stopped"


def test_machines_of_one_moment_do_not_start_in_one_moment() -> None:

    config = Config.parse({"image": "x", "schedule": "hourly"})
    made = [replace(a_machine(config=config), id=f"{number:014x}", created_ms=0) for number in range(60_000)]
    at_ms = HOUR + HOUR // 120
    served = sum(slot(machine, at_ms) == 1 for machine in made)
    assert 20_000 < served < 40_000, "half of them, in the middle of the sixtieth"
