"""Suspend and resume by the engine: one memory, one disk, one time (faults.md row 38)."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from caddisfly.host.drivers.conduct import Conduct
from caddisfly.host.drivers.driver import NotSuspended, Running, Sandbox
from caddisfly.host.drivers.mock import MockDriver
from caddisfly.host.journal.operation import Operation
from caddisfly.host.operations import lifecycle, plans
from caddisfly.host.operations.lifecycle import Decision
from caddisfly.host.operations.steps import STEPS, save_memory
from caddisfly.host.operations.work import GaveWay, Work
from caddisfly.host.snapshots import Snapshots
from caddisfly.model.config import Config
from caddisfly.model.errors import InvalidArgument, Unavailable
from caddisfly.model.machine import Exit, Machine
from tests.conftest import eventually
from tests.host.paths import assert_path
from tests.operations.test_engine import World, world
from tests.simulation.loop import SimLoop

__all__ = ["world"]


async def started(world: World, **config: object) -> Machine:
    machine = await world.create(**config)
    return await world.engine.settled(machine.id)


async def suspend(world: World, machine: Machine, *, wait: bool = True) -> Machine:
    await world.engine.ask(machine.id, lambda now: lifecycle.suspend(now, source="user", boot=world.boot))
    return await world.engine.settled(machine.id) if wait else world.engine.get(machine.id)


async def start(world: World, machine: Machine) -> Machine:
    await world.engine.ask(machine.id, lambda now: lifecycle.start(now, source="user"))
    return await world.engine.settled(machine.id)


async def suspended(world: World, **config: object) -> Machine:
    machine = await started(world, **config)
    now = await suspend(world, machine)
    assert now.state == "suspended"
    return now


def update(now: Machine) -> Decision:
    config = Config.parse({"image": "nginx:2"})
    return lifecycle.update(now, config=config, image=now.image, current_version="", launch=True, cordoned=False)


def lose_power(world: World) -> None:
    """The next agent comes up on the host after a reboot."""
    world.driver.forget_all()
    world.links.plugged.clear()
    world.images.roots.mounted.clear()
    world.boot = "second"


def renewed(world: World, machine: Machine) -> None:
    """It runs, anew, on the root that it had, and its events say why."""
    assert machine.state == "started"
    assert machine.run_id in world.driver.running
    assert machine.run_id not in world.driver.resumes
    assert_path(machine)


async def test_it_goes_on_where_it_was(world: World) -> None:
    machine = await started(world)
    asleep = await suspend(world, machine)
    assert (asleep.state, asleep.run_id) == ("suspended", machine.run_id)
    assert asleep.snapshot is not None
    assert not world.driver.running
    assert not world.images.roots.mounted
    assert world.links.plugged == {machine.run_id}
    again = await start(world, machine)
    assert (again.state, again.run_id, again.snapshot) == ("started", machine.run_id, None)
    assert world.driver.resumes == [machine.run_id]
    assert world.driver.starts == [machine.run_id]
    assert world.images.roots.mounted == world.links.plugged == {machine.run_id}
    assert world.snapshots.known() == set()
    assert "exit" not in [event.type for event in again.events]
    assert_path(again)
    world.driver.end(machine.run_id, Exit(exit_code=3))
    await eventually(lambda: world.engine.get(machine.id).state == "stopped")
    assert world.images.roots.known() == set()


async def test_what_is_suspended_is_so_after_the_agent_and_after_the_host(world: World) -> None:
    machine = await suspended(world)
    await world.down()
    lose_power(world)
    await world.up()
    assert world.engine.get(machine.id).state == "suspended"
    again = await start(world, machine)
    assert (again.state, again.run_id, world.driver.resumes) == ("started", machine.run_id, [machine.run_id])


async def test_a_stop_drops_the_memory_and_the_root(world: World) -> None:
    machine = await suspended(world)
    await world.engine.ask(machine.id, lambda now: lifecycle.stop(now, source="user"))
    after = await world.engine.settled(machine.id)
    assert (after.state, after.snapshot, after.run_id) == ("stopped", None, "")
    assert world.snapshots.known() == world.images.roots.known() == world.links.plugged == set()
    exit = after.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["requested_stop"]
    assert_path(after)


async def test_a_destroy_drops_it_too(world: World) -> None:
    machine = await suspended(world)
    await world.engine.ask(machine.id, lambda now: lifecycle.destroy(now, source="user", force=False))
    after = await world.engine.settled(machine.id)
    assert after.state == "destroyed"
    assert world.snapshots.known() == world.images.roots.known() == set()
    assert_path(after)


async def test_a_restart_is_a_new_run(world: World) -> None:
    machine = await suspended(world)
    await world.engine.ask(machine.id, lambda now: lifecycle.restart(now, source="user"))
    after = await world.engine.settled(machine.id)
    assert after.run_id != machine.run_id
    assert world.images.roots.known() == {after.run_id}
    assert world.snapshots.known() == set()
    renewed(world, after)


async def test_an_update_is_stopped_on_the_new_version(world: World) -> None:
    machine = await suspended(world)
    await world.engine.ask(machine.id, update)
    after = await world.engine.settled(machine.id)
    assert (after.state, after.snapshot) == ("stopped", None)
    assert after.instance_id != machine.instance_id
    assert world.snapshots.known() == world.images.roots.known() == set()
    assert_path(after)


async def test_an_update_to_an_image_that_is_not_there_leaves_it_suspended(world: World) -> None:
    machine = await suspended(world)
    world.images.errors = [InvalidArgument("manifest unknown")]
    await world.engine.ask(machine.id, update)
    after = await world.engine.settled(machine.id)
    assert (after.state, after.instance_id) == ("suspended", machine.instance_id)
    assert (await start(world, machine)).run_id == machine.run_id
    assert world.driver.resumes == [machine.run_id]


async def test_who_needs_it_meanwhile_undoes_the_suspend(world: World) -> None:
    world.conduct = Conduct(slow_suspend_s=60.0)
    machine = await started(world)
    asleep = await suspend(world, machine, wait=False)
    assert asleep.state == "suspending"
    again = await asyncio.wait_for(start(world, machine), 5)
    assert (again.state, again.run_id) == ("started", machine.run_id)
    assert list(world.driver.running) == [machine.run_id]
    assert world.snapshots.known() == set()
    assert_path(again)
    world.driver.end(machine.run_id, Exit(exit_code=3))
    await eventually(lambda: world.engine.get(machine.id).state == "stopped")


@pytest.mark.parametrize("seed", range(8))
def test_a_driver_is_not_told_to_keep_running_what_it_has_not_begun_to_suspend(tmp_path: Path, seed: int) -> None:
    """Whichever of the two an event loop comes to first."""
    said: list[str] = []

    class Slow(MockDriver):
        async def suspend(self, id: str, directory: Path) -> None:
            said.append("suspend")
            await asyncio.sleep(1)
            raise NotSuspended("it was needed")

        async def keep_running(self, id: str) -> bool:
            said.append("keep running")
            return True

    parts = SimpleNamespace(driver=Slow(), snapshots=Snapshots(tmp_path))
    work: Any = SimpleNamespace(parts=parts, machine=SimpleNamespace(run_id="a-1"), give_way=asyncio.Event())
    work.give_way.set()
    loop = SimLoop(random.Random(seed), shuffle=1.0)
    try:
        with pytest.raises(GaveWay):
            loop.run_until_complete(save_memory.run(work))
    finally:
        loop.bury()
    assert said == ["suspend", "keep running"]


async def test_a_start_that_comes_too_late_to_undo_it_resumes(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, seal = asyncio.Event(), STEPS[plans.SEAL_SNAPSHOT]

    async def late(work: Work) -> None:
        await gate.wait()
        await seal(work)

    monkeypatch.setitem(STEPS, plans.SEAL_SNAPSHOT, late)
    machine = await started(world)
    await suspend(world, machine, wait=False)
    await eventually(lambda: not world.driver.running)
    starting = asyncio.create_task(start(world, machine))
    await asyncio.sleep(0)
    gate.set()
    again = await starting
    assert (again.state, again.run_id, world.driver.resumes) == ("started", machine.run_id, [machine.run_id])


@pytest.mark.parametrize("way", ["refused", "lost"])
async def test_what_cannot_be_suspended_is_stopped_and_says_why(world: World, way: str) -> None:
    world.conduct = Conduct(suspend_error=way)
    machine = await started(world)
    after = await suspend(world, machine)
    assert after.state == "stopped"
    failed = after.newest("suspend")
    assert failed is not None
    assert failed.status == "failed"
    assert failed.request is not None
    assert "its suspend-error says so" in failed.request["error"]
    assert [event.type for event in after.events].count("exit") == 1
    assert world.snapshots.known() == world.images.roots.known() == set()
    assert_path(after)


async def test_a_program_that_ends_while_it_is_suspended_has_ended(world: World) -> None:
    world.conduct = Conduct(slow_suspend_s=0.05)
    machine = await started(world, restart={"policy": "always"})
    await suspend(world, machine, wait=False)
    world.driver.end(machine.run_id, Exit(exit_code=3))
    after = await world.engine.settled(machine.id)
    assert after.state == "stopped"
    exit = after.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["exit_code"] == 3


def corrupt(world: World, machine: Machine) -> None:
    (world.snapshots.path(machine.run_id) / "memory").write_text('{"lines": 7}')


def lose(world: World, machine: Machine) -> None:
    (world.snapshots.path(machine.run_id) / "memory").unlink()


def change_root(world: World, machine: Machine) -> None:
    world.images.roots.written[machine.run_id] += 1


def change_build(world: World, machine: Machine) -> None:
    world.driver.snapshot_build = lambda id: "mock 2"  # type: ignore[method-assign]


def refuse(world: World, machine: Machine) -> None:
    conduct = world.driver._conducts[machine.run_id]
    world.driver._conducts[machine.run_id] = replace(conduct, resume_error=True)


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (corrupt, "checksum"),
        (lose, "cannot be read"),
        (change_root, "root has changed"),
        (change_build, "another program"),
        (refuse, "resume-error"),
    ],
)
async def test_old_memory_never_meets_a_new_disk(world: World, damage: object, why: str) -> None:
    """Without its memory it starts anew, and finds its root as it left it (reference 4.2)."""
    machine = await suspended(world)
    damage(world, machine)  # type: ignore[operator]
    again = await start(world, machine)
    assert again.run_id != machine.run_id
    assert again.root_of == machine.run_id
    renewed(world, again)
    assert world.images.roots.known() == {machine.run_id}
    assert world.images.roots.written[machine.run_id] > 1
    assert world.snapshots.known() == set()
    failed = again.newest("resume")
    assert failed is not None
    assert failed.request is not None
    assert why in failed.request["error"]
    await world.engine.ask(machine.id, lambda now: lifecycle.stop(now, source="user"))
    assert (await world.engine.settled(machine.id)).root_of == ""
    assert world.images.roots.known() == set()


async def test_a_host_that_cannot_resume_it_now_leaves_it_suspended(world: World) -> None:
    machine = await suspended(world)
    resume = world.driver.resume

    async def busy(sandbox: Sandbox, directory: object) -> Running:
        raise Unavailable("busy")

    world.driver.resume = busy  # type: ignore[method-assign, assignment]
    after = await start(world, machine)
    assert after.state == "suspended"
    assert not world.images.roots.mounted
    world.driver.resume = resume  # type: ignore[method-assign]
    again = await start(world, machine)
    assert (again.state, again.run_id, world.driver.resumes) == ("started", machine.run_id, [machine.run_id])
    assert_path(again)


async def test_a_resume_that_cannot_be_noted_is_not_done_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """It runs, and the journal is full: from here on its memory on the disk is old."""
    machine = await suspended(world)

    async def full(operation: Operation) -> None:
        if operation.steps[operation.at] == plans.DROP_SNAPSHOT:
            raise Unavailable("the host's journal cannot be written")

    monkeypatch.setattr(world.engine._journal, "progress", full)
    again = await start(world, machine)
    assert (again.state, again.run_id, world.driver.resumes) == ("started", machine.run_id, [machine.run_id])
    assert world.snapshots.known() == set()
    assert_path(again)


async def test_what_an_earlier_suspend_left_is_not_taken_for_the_next(world: World) -> None:
    machine = await started(world)
    (world.snapshots.make(machine.run_id) / "memory").write_text('{"lines": 7}')
    (world.snapshots.path(machine.run_id) / "complete").touch()
    await suspend(world, machine)
    assert [file.name for file in world.snapshots.path(machine.run_id).iterdir()] == ["memory"]


def die(world: World, monkeypatch: pytest.MonkeyPatch, name: str, *, before: bool) -> asyncio.Event:
    """The agent gets stuck before or after a step, so that it can be taken down just there."""
    reached, step = asyncio.Event(), STEPS[name]

    async def deadly(work: Work) -> None:
        if not before:
            await step(work)
        reached.set()
        await asyncio.sleep(3600)

    monkeypatch.setitem(STEPS, name, deadly)
    return reached


_POINTS = [(name, before) for name in plans.STEPS[plans.SUSPEND] for before in (True, False)]


@pytest.mark.parametrize("reboot", [False, True], ids=["agent", "host"])
@pytest.mark.parametrize(("name", "before"), _POINTS)
async def test_a_suspend_that_was_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, before: bool, reboot: bool
) -> None:
    """After the agent it goes on. After the host, what was not yet on the disk is gone, and it is stopped."""
    machine = await started(world)
    with monkeypatch.context() as patch:
        reached = die(world, patch, name, before=before)
        await suspend(world, machine, wait=False)
        await asyncio.wait_for(reached.wait(), 5)
        await world.down()
    if reboot:
        lose_power(world)
    await world.up()
    safe = not reboot or (name, before) == (plans.SEAL_SNAPSHOT, False)
    wanted = "suspended" if safe else "stopped"
    await eventually(lambda: world.engine.get(machine.id).state == wanted)
    assert_path(world.engine.get(machine.id))
    again = await start(world, machine)
    assert again.state == "started"
    assert world.driver.resumes == ([machine.run_id] if safe else [])
    assert world.images.roots.known() == {again.run_id}
    assert world.snapshots.known() == set()


_POINTS = [(name, before) for name in plans.STEPS[plans.RESUME] for before in (True, False)]


@pytest.mark.parametrize("reboot", [False, True], ids=["agent", "host"])
@pytest.mark.parametrize(("name", "before"), _POINTS)
async def test_a_resume_that_was_interrupted(
    world: World, monkeypatch: pytest.MonkeyPatch, name: str, before: bool, reboot: bool
) -> None:
    """It is resumed once. What the host lost after it ran on is not resumed from old memory."""
    machine = await suspended(world)
    with monkeypatch.context() as patch:
        reached = die(world, patch, name, before=before)
        await world.engine.ask(machine.id, lambda now: lifecycle.start(now, source="user"))
        await asyncio.wait_for(reached.wait(), 5)
        await world.down()
    ran = bool(world.driver.resumes)
    if reboot:
        lose_power(world)
    await world.up()
    await eventually(lambda: world.engine.get(machine.id).state == "started")
    again = world.engine.get(machine.id)
    assert len(world.driver.resumes) <= 1
    assert (again.run_id == machine.run_id) is not (reboot and ran)
    assert list(world.driver.running) == [again.run_id]
    assert world.snapshots.known() == set()
    assert_path(again)


def remembered(world: World, machine: Machine) -> int:
    memory: dict[str, int] = json.loads((world.snapshots.path(machine.run_id) / "memory").read_text())
    return memory["lines"]


async def test_what_it_remembers_is_what_was_written(world: World) -> None:
    world.conduct = Conduct(log_every_s=0.01)
    machine = await started(world)
    lines = 0
    for _ in range(3):
        await eventually(lambda before=lines: world.driver._fakes[machine.run_id].lines > before)
        await suspend(world, machine)
        assert remembered(world, machine) >= lines
        lines = remembered(world, machine)
        await start(world, machine)
    assert world.driver._fakes[machine.run_id].lines >= lines
