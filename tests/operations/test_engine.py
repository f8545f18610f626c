"""The engine under calls, failures and crashes, over the mock driver and a real journal."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from caddisfly.host.drivers.conduct import Conduct
from caddisfly.host.drivers.driver import Sandbox
from caddisfly.host.drivers.mock import MockDriver
from caddisfly.host.images.image import Image, ImageConfig, ResolvedImage
from caddisfly.host.images.reference import Reference
from caddisfly.host.journal.journal import Journal, Write
from caddisfly.host.network.network import Attachment
from caddisfly.host.operations import lifecycle
from caddisfly.host.operations.engine import Engine
from caddisfly.host.operations.work import Parts
from caddisfly.host.settings import HostSettings
from caddisfly.host.snapshots import Snapshots
from caddisfly.model.config import Config
from caddisfly.model.errors import Aborted, InvalidArgument, Problem, Unavailable
from caddisfly.model.machine import Exit, Machine
from tests.conftest import eventually
from tests.host.paths import assert_path
from tests.journal.test_journal import a_machine


@dataclass
class NullRoots:
    """Roots that are remembered, not mounted."""

    directory: Path
    mounted: set[str] = field(default_factory=set)
    written: dict[str, int] = field(default_factory=dict)
    """What is there, and how often it was mounted since it was made."""

    async def mount(self, key: str, layers: tuple[Path, ...], *, size_mb: int, keep: bool = False) -> Path:
        self.written[key] = self.written.get(key, 0) + 1 if keep else 1
        self.mounted.add(key)
        return self.directory

    async def unmount(self, key: str, *, keep: bool = False) -> None:
        self.mounted.discard(key)
        if not keep:
            self.written.pop(key, None)

    async def mark(self, key: str) -> str:
        return f"written {self.written[key]} times" if key in self.written else ""

    def known(self) -> set[str]:
        return set(self.written)


@dataclass
class NullImages:
    """One image that is always here, unless told otherwise."""

    roots: NullRoots
    errors: list[Problem] = field(default_factory=list)

    async def resolve(self, reference: str, *, organization: str = "") -> ResolvedImage:
        if self.errors:
            raise self.errors.pop(0)
        return ResolvedImage(Reference.parse("nginx"), "sha256:0", "sha256:0", ImageConfig(cmd=("/bin/app",)), ())

    async def config_of(self, image: ResolvedImage) -> bytes:
        return b"{}"

    async def fetch(self, image: ResolvedImage) -> Image:
        return Image(image, ())


@dataclass
class NullLinks:
    plugged: set[str] = field(default_factory=set)

    async def attach(self, attachment: Attachment) -> Path:
        self.plugged.add(attachment.id)
        return Path("/proc/self/ns/net")

    async def reattach(self, attachment: Attachment) -> Path:
        return await self.attach(attachment)

    async def detach(self, attachment: Attachment) -> None:
        self.plugged.discard(attachment.id)


class World:
    """What outlives the agent: the journal's file, the sandboxes, the links, the roots."""

    def __init__(self, directory: Path) -> None:
        (directory / "bin").mkdir()
        (directory / "bin" / "app").touch(mode=0o755)
        self.directory = directory
        self.driver = MockDriver(self._conduct)
        self.start_errors: list[Problem] = []
        self.conduct = Conduct()
        self.images = NullImages(NullRoots(directory))
        self.links = NullLinks()
        self.snapshots = Snapshots(directory / "snapshots")
        self.boot = "first"
        self.settings = HostSettings(data_dir=directory, run_dir=directory, stop_grace_s=0.01)
        self.published: dict[str, Machine] = {}
        self.engine: Engine
        self._journal: Journal

    def _conduct(self, sandbox: Sandbox) -> Conduct:
        errors, self.start_errors = tuple(self.start_errors), []
        return replace(self.conduct, start_errors=errors)

    async def up(self) -> Engine:
        """Start an agent's engine on what is there, as after a crash."""
        self._journal = Journal(self.directory / "journal.db")
        contents = await self._journal.open()
        parts = Parts(
            self.settings, self.driver, self.images, self.links, self.snapshots, lambda machine: None, boot=self.boot
        )
        self.engine = Engine(self._journal, parts, publish=self._publish)
        operations = {operation.machine_id: operation for operation in contents.operations}
        self.published = {machine.id: machine for machine in contents.machines}  # the agent does so, too
        for machine in contents.machines:
            await self.engine.adopt(machine, operations.get(machine.id))
        return self.engine

    async def down(self) -> None:
        """The agent dies wherever it is. What was queued for the journal may or may not have made it."""
        await self.engine.close()
        await self._journal.close()

    async def create(self, *, launch: bool = True, **config: object) -> Machine:
        made = a_machine(events=(), config=Config.parse({"image": "nginx", "restart": {"policy": "no"}, **config}))
        machine, _ = await self.engine.create(made, launch=launch)
        return machine

    async def _publish(self, machine: Machine) -> int:
        self.published[machine.id] = machine
        return 1


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    made = World(tmp_path)
    await made.up()
    yield made
    await made.down()


async def test_a_host_that_stumbles_is_tried_again(world: World) -> None:
    world.start_errors = [Unavailable("busy"), Unavailable("busy")]
    machine = await world.create()
    assert (await world.engine.settled(machine.id)).state == "started"
    assert len(world.driver.starts) == 1


async def test_a_start_that_cannot_succeed_fails_and_takes_down_what_it_built(world: World) -> None:
    world.start_errors = [InvalidArgument("no such program", next="fix the image")]
    machine = await world.create()
    failed = await world.engine.settled(machine.id)
    assert failed.state == "failed"
    exit = failed.newest("exit")
    assert exit is not None
    assert exit.request is not None
    assert exit.request["exit_event"]["error"] == "invalid_argument: no such program; fix the image"
    assert not world.driver.running
    assert not world.links.plugged
    assert not world.images.roots.mounted
    assert_path(failed)
    _, again, _ = await world.engine.ask(machine.id, lambda now: lifecycle.start(now, source="user"))
    assert again.state == "starting"
    assert (await world.engine.settled(machine.id)).state == "started"


async def test_calls_on_one_machine_wait_their_turn_and_others_do_not(world: World) -> None:
    gate = asyncio.Event()
    world.conduct = Conduct(gate=gate)
    slow = await world.create()
    stop = asyncio.create_task(world.engine.ask(slow.id, lambda now: lifecycle.stop(now, source="user")))
    await eventually(lambda: world.driver.held)
    assert world.published[slow.id].state == "starting"
    stop.cancel()
    stop = asyncio.create_task(world.engine.ask(slow.id, lambda now: lifecycle.stop(now, source="user")))
    world.conduct = Conduct()
    quick = await world.create()
    assert (await world.engine.settled(quick.id)).state == "started"
    assert not stop.done()
    gate.set()
    await stop
    assert (await world.engine.settled(slow.id)).state == "stopped"


async def test_a_forced_destroy_does_not_wait_for_the_grace_of_a_stop(world: World) -> None:
    world.conduct = Conduct(ignores_signals=True)
    machine = await world.create(stop_config={"timeout": "300s"})
    await world.engine.settled(machine.id)
    await world.engine.ask(machine.id, lambda now: lifecycle.stop(now, source="user"))
    await asyncio.wait_for(
        world.engine.ask(machine.id, lambda now: lifecycle.destroy(now, source="user", force=True), hurry=True), 5
    )
    assert (await world.engine.settled(machine.id)).state == "destroyed"


async def test_a_failed_update_leaves_the_old_version_running(world: World) -> None:
    machine = await world.create()
    machine = await world.engine.settled(machine.id)
    world.images.errors = [InvalidArgument("manifest unknown")]
    config = Config.parse({"image": "nginx:2"})

    def update(now: Machine) -> lifecycle.Decision:
        return lifecycle.update(now, config=config, image=now.image, current_version="", launch=True, cordoned=False)

    await world.engine.ask(machine.id, update)
    after = await world.engine.settled(machine.id)
    assert (after.state, after.instance_id, after.run_id) == ("started", machine.instance_id, machine.run_id)
    assert list(world.driver.running) == [machine.run_id]


async def test_two_creates_of_one_machine_that_meet_make_one(world: World) -> None:
    made = a_machine(events=())
    both = await asyncio.gather(*(world.engine.create(made, launch=False) for _ in range(2)))
    assert [machine.id for machine, _ in both] == [made.id, made.id]
    assert (await world.engine.settled(made.id)).state == "stopped"


def fill_disk(world: World, *, writes: int) -> None:
    """The next writes fail."""
    write, left = world.engine._journal.write, writes

    async def full(change: Write) -> None:
        nonlocal left
        left -= 1
        if left >= 0:
            raise Unavailable("the host's journal cannot be written")
        await write(change)

    world.engine._journal.write = full  # type: ignore[method-assign]


async def test_an_exit_while_the_disk_is_full_is_only_known_later(world: World) -> None:
    machine = await world.create()
    machine = await world.engine.settled(machine.id)
    fill_disk(world, writes=2)
    world.driver.end(machine.run_id, Exit(exit_code=3))
    await eventually(lambda: world.engine.machines[machine.id].state == "stopped")
    assert_path(world.engine.machines[machine.id])


@pytest.mark.parametrize("problem", [TimeoutError(), OSError(5, "input/output error"), Unavailable("busy")])
async def test_what_cannot_be_taken_down_yet_is_taken_down_later(world: World, problem: Exception) -> None:
    machine = await world.create()
    await world.engine.settled(machine.id)
    destroy, problems = world.driver.destroy, [problem] * 3

    async def stubborn(id: str) -> None:
        if problems:
            raise problems.pop()
        await destroy(id)

    world.driver.destroy = stubborn  # type: ignore[method-assign]
    await world.engine.ask(machine.id, lambda now: lifecycle.stop(now, source="user"))
    after = await world.engine.settled(machine.id)
    assert after.state in ("stopped", "failed")
    assert not after.operation
    assert not world.driver.running
    assert not world.links.plugged


async def test_a_destroy_that_stumbles_is_still_carried_out(world: World) -> None:
    async def broken(id: str, number: int) -> None:
        raise InvalidArgument("no such signal")

    machine = await world.create()
    await world.engine.settled(machine.id)
    world.driver.signal = broken  # type: ignore[method-assign]
    await world.engine.ask(machine.id, lambda now: lifecycle.destroy(now, source="user", force=True))
    after = await world.engine.settled(machine.id)
    assert after.state == "destroyed"
    assert [event.type for event in after.events].count("exit") == 1
    assert not world.driver.running
    assert_path(after)


async def test_an_exit_that_comes_while_its_operation_fails_is_kept(world: World) -> None:
    machine = await world.create()
    await world.engine.settled(machine.id)
    journal, at_it, gate = world.engine._journal, asyncio.Event(), asyncio.Event()
    write, detach = journal.write, world.links.detach

    async def slow(change: Write) -> None:
        if change.machine.newest("exit") and not at_it.is_set():
            at_it.set()
            await gate.wait()
        await write(change)

    async def late(attachment: Attachment) -> None:
        await at_it.wait()
        await detach(attachment)

    async def broken(id: str, number: int) -> None:
        raise InvalidArgument("no such signal")

    journal.write, world.driver.signal, world.links.detach = slow, broken, late  # type: ignore[method-assign]
    await world.engine.ask(machine.id, lambda now: lifecycle.stop(now, source="user"))
    await eventually(lambda: not world.links.plugged)
    for _ in range(10):
        await asyncio.sleep(0)
    gate.set()
    after = await world.engine.settled(machine.id)
    codes = [event.request["exit_event"]["exit_code"] for event in after.events if event.type == "exit"]  # type: ignore[index]
    assert codes == [-1, 137]


async def test_a_reboot_ends_what_ran_starts_it_again_and_leaves_nothing(world: World) -> None:
    machine = await world.create()
    before = await world.engine.settled(machine.id)
    await world.down()
    world.driver.forget_all()
    world.links.plugged.clear()
    await world.up()
    after = await world.engine.settled(machine.id)
    assert after.state == "started"
    assert after.newest("exit") is not None
    assert world.images.roots.mounted == world.links.plugged == {after.run_id} != {before.run_id}
    assert_path(after)


async def test_a_retry_goes_on_when_the_call_it_gave_way_to_cannot_begin(world: World) -> None:
    machine = await world.create(restart={"policy": "always"})
    machine = await world.engine.settled(machine.id)
    world.driver.end(machine.run_id, Exit(exit_code=1))
    await eventually(lambda: not world.links.plugged and world.engine.machines[machine.id].state == "restarting")
    write = world.engine._journal.write

    async def full(change: Write) -> None:
        if change.begin is not None and change.begin.kind == "destroy":
            raise Unavailable("the host's journal cannot be written")
        await write(change)

    world.engine._journal.write = full  # type: ignore[method-assign]
    with pytest.raises(Unavailable):
        await world.engine.ask(machine.id, lambda now: lifecycle.destroy(now, source="user", force=True))
    await eventually(lambda: world.engine.machines[machine.id].state == "started")


async def test_a_start_whose_resumption_crashed_too_begins_a_new_incarnation(world: World) -> None:
    begun = lifecycle.start(a_machine(state="stopped"), source="user")
    assert begun.operation is not None
    halfway = replace(begun.operation, at=begun.operation.steps.index("start_sandbox"))
    await world.engine._journal.write(Write(machine=begun.machine, fence=None, begin=halfway))
    await world.down()
    await world.up()
    after = await world.engine.settled(begun.machine.id)
    assert after.state == "started"
    assert world.images.roots.mounted == world.links.plugged == {after.run_id}


async def test_a_stop_over_a_reboot_says_that_it_ended(world: World) -> None:
    world.conduct = Conduct(ignores_signals=True)
    machine = await world.create(stop_config={"timeout": "300s"})
    await world.engine.settled(machine.id)
    await world.engine.ask(machine.id, lambda now: lifecycle.stop(now, source="user"))
    await world.down()
    world.driver.forget_all()
    await world.up()
    after = await world.engine.settled(machine.id)
    assert after.state == "stopped"
    assert [event.type for event in after.events].count("exit") == 1
    assert_path(after)


async def test_no_room_is_a_reason_to_fail_not_to_loop(world: World) -> None:
    def refuse(machine: Machine) -> None:
        raise Aborted("insufficient memory")

    world.engine._parts = replace(world.engine._parts, check_room=refuse)
    machine = await world.create()
    assert (await world.engine.settled(machine.id)).state == "failed"
    assert not world.links.plugged


async def test_a_machine_that_cannot_be_looked_at_is_set_aside_and_the_others_adopted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Fault: the driver fails over one Machine when the agent comes back, as it does on a disk with holes."""
    bad, good = await world.create(), await world.create()
    for machine in (bad, good):
        assert (await world.engine.settled(machine.id)).state == "started"
    await world.down()
    run_id = world.published[bad.id].run_id
    recover, broken = world.driver.recover, True

    async def failing(id: str) -> object:
        if id == run_id and broken:
            raise OSError(5, "Input/output error")
        return await recover(id)

    monkeypatch.setattr(world.driver, "recover", failing)
    engine = await world.up()
    assert engine.get(good.id).state == "started"
    await eventually(lambda: engine.get(bad.id).events[0].type == "quarantine")
    event = engine.get(bad.id).events[0]
    assert event.request is not None
    assert "Input/output error" in event.request["error"]
    world.driver.end(world.published[good.id].run_id, Exit(exit_code=0))
    await eventually(lambda: engine.get(good.id).state == "stopped")
    # What is wrong passes: then it is looked after like any other.
    broken = False
    await eventually(lambda: run_id in engine._watchers, timeout_s=10)
    world.driver.end(run_id, Exit(exit_code=3))
    await eventually(lambda: engine.get(bad.id).state == "stopped")


async def test_a_disk_that_is_full_while_machines_are_adopted(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of what ended meanwhile cannot be written. It is, once there is room."""
    machine = await world.create()
    started = await world.engine.settled(machine.id)
    await world.down()
    world.driver.end(started.run_id, Exit(exit_code=3))
    write, full = Journal.write, True

    async def failing(self: Journal, change: Write) -> None:
        if full:
            raise Unavailable("the host's journal cannot be written", why="disk full")
        await write(self, change)

    monkeypatch.setattr(Journal, "write", failing)
    engine = await world.up()
    assert engine.get(machine.id).state == "started"
    full = False
    await eventually(lambda: engine.get(machine.id).state == "stopped", timeout_s=10)
