"""Bugs, planted one at a time, that the simulation must find: each is one that somebody could really write.

They are put over the product's own functions here and nowhere else; the product has no switch for them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any
from unittest import mock

from caddisfly.bus.catalog import Publication
from caddisfly.host.agent import Agent
from caddisfly.host.drivers.notes import State
from caddisfly.host.drivers.pod import Pod
from caddisfly.host.drivers.pods import Pods
from caddisfly.host.isolation import Choice
from caddisfly.host.journal.journal import Contents, Write
from caddisfly.host.journal.operation import Operation
from caddisfly.host.operations import engine as engine_module
from caddisfly.host.operations import lifecycle, plans, root
from caddisfly.host.operations.engine import Engine
from caddisfly.host.operations.steps import STEPS, await_exit
from caddisfly.host.operations.work import Parts, Work
from caddisfly.model import states
from caddisfly.model.errors import Problem, Unavailable
from caddisfly.model.machine import Exit, Machine
from tests.simulation.disk import SimJournal

Patch = tuple[object, str, Any]
_COMMIT, _APPLY, _RESUME, _ADOPT = Engine._commit, Engine._apply, Engine._resume, Engine.adopt
_EXITED, _FINISHED, _START, _FAILED = lifecycle.exited, lifecycle.finished, lifecycle.start, lifecycle.failed
_WATCH, _RELEASE, _SWEEP = Engine._watch, engine_module.release_sandbox.run, Agent._sweep


class _Inside:
    """True in a task that is inside a call. What is replaced around a call stays so when the agent dies in it."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any] | None] = set()

    @contextmanager
    def entered(self) -> Iterator[None]:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    def __bool__(self) -> bool:
        return asyncio.current_task() in self._tasks


def intent_after_effect() -> list[Patch]:
    """The journal is written, but nobody waits for it before the work begins."""
    tasks: list[asyncio.Task[None]] = []

    async def commit(
        self: Engine, machine: Machine, *, fence: str, begin: Operation | None = None, end: Operation | None = None
    ) -> Machine:
        write = Write(machine=machine, fence=fence, begin=begin, end=end.id if end else "")
        tasks.append(asyncio.create_task(self._journal.write(write)))  # type: ignore[arg-type]
        self.machines[machine.id] = machine
        return machine

    return [(Engine, "_commit", commit), (SimJournal, "write", _awaitable_write)]


async def _awaitable_write(self: SimJournal, change: Write) -> None:
    await self._do(lambda: self._written(change))


def incarnation_only_in_memory() -> list[Patch]:
    """A new incarnation gets its number, and the journal never hears of it before it is built."""

    async def incarnate(self: Engine, work: Work) -> None:
        number = await self._journal.next_number("run")
        work.machine = replace(
            self.machines[work.machine.id], run_id=f"{work.machine.id}-{number:08x}", run_number=number
        )
        self.machines[work.machine.id] = work.machine

    return [(Engine, "_incarnate", incarnate)]


def shown_before_durable() -> list[Patch]:
    """The catalog hears of a change before the journal has it."""

    async def apply(self: Engine, before: Machine, decide: Any) -> tuple[Machine, int]:
        await self._publish(decide(before).machine)
        return await _APPLY(self, before, decide)

    return [(Engine, "_apply", apply)]


def resume_skips_release() -> list[Patch]:
    """After a crash a start goes on with a new incarnation, and what the old one had stays."""

    resuming = _Inside()

    async def resume(self: Engine, work: Work) -> None:
        with resuming.entered():
            await _RESUME(self, work)

    async def release(work: Work) -> None:
        if not resuming:
            await _RELEASE(work)

    return [(Engine, "_resume", resume), (engine_module.release_sandbox, "run", release)]


def resume_starts_beside() -> list[Patch]:
    """After a crash a start goes on without looking whether its sandbox runs already."""

    async def resume(self: Engine, work: Work) -> None:
        operation = work.operation
        if plans.MOUNT_ROOT in operation.steps and operation.at >= operation.steps.index(plans.MOUNT_ROOT):
            work.operation = replace(operation, at=operation.steps.index(plans.MOUNT_ROOT))

    return [(Engine, "_resume", resume)]


def failure_leaves_sandbox() -> list[Patch]:
    """An operation that failed says so, and leaves what it had built."""

    async def release(self: Engine, work: Work) -> None:
        return

    return [(Engine, "_release", release)]


def release_gives_up() -> list[Patch]:
    """What cannot be taken down in this moment is left."""

    async def release(self: Engine, work: Work) -> None:
        try:
            await STEPS[plans.RELEASE_SANDBOX](work)
        except (Problem, OSError):
            return

    return [(Engine, "_release", release)]


def exit_recorded_twice() -> list[Patch]:
    """Who waits for the exit and the operation that asked for it both write it down."""

    def exited(machine: Machine, exit: Exit, *, operation: Operation | None) -> lifecycle.Decision:
        return _EXITED(replace(machine, exited_run=""), exit, operation=operation)

    return [(lifecycle, "exited", exited)]


def exit_not_recorded() -> list[Patch]:
    """An operation that ends a Machine leaves the exit to the watcher, which is too late."""

    async def step(work: Work) -> None:
        async def forget(exit: Exit) -> None:
            return

        record, work.record_exit = work.record_exit, forget
        await await_exit.run(work)
        work.record_exit = record

    return [(STEPS, plans.AWAIT_EXIT, step)]


def watcher_gives_up() -> list[Patch]:
    """An exit is lost when the journal cannot be written in that moment."""

    def watch(self: Engine, machine: Machine) -> None:
        async def run() -> None:
            try:
                exit = await self._parts.driver.wait(machine.run_id)
                await self.exited(machine.id, machine.run_id, exit)
            except Problem:
                return

        self._watchers[machine.run_id] = asyncio.create_task(run())

    return [(Engine, "_watch", watch)]


def nobody_watches_after_crash() -> list[Patch]:
    """What is found running is not waited for."""

    adopting = _Inside()

    async def adopt(self: Engine, machine: Machine, operation: Operation | None) -> None:
        with adopting.entered():
            await _ADOPT(self, machine, operation)

    def watch(self: Engine, machine: Machine) -> None:
        if not adopting:
            _WATCH(self, machine)

    return [(Engine, "adopt", adopt), (Engine, "_watch", watch)]


def no_lock() -> list[Patch]:
    """Two callers decide on one Machine at the same time."""
    return [(Engine, "_lock", lambda self, machine_id: asyncio.Lock())]


def operation_forgotten() -> list[Patch]:
    """After a crash what was under way is dropped."""

    async def adopt(self: Engine, machine: Machine, operation: Operation | None) -> None:
        await _ADOPT(self, replace(machine, operation=""), None)

    return [(Engine, "adopt", adopt)]


def catalog_not_mended() -> list[Patch]:
    """What a put could not say, or a bucket lost, is never said again."""

    async def reconcile(self: Publication) -> None:
        self._suspect.clear()

    return [(Publication, "reconcile", reconcile)]


def catalog_not_told() -> list[Patch]:
    """The outcome of an operation is durable, and not published."""

    async def conclude(self: Engine, decision: lifecycle.Decision, operation: Operation) -> None:
        await _COMMIT(self, decision.machine, fence=operation.id, begin=decision.operation, end=operation)

    async def end(self: Engine, work: Work, decide: Any) -> lifecycle.Decision:
        async with self._lock(work.machine.id):
            decision: lifecycle.Decision = decide(self.machines[work.machine.id])
            await self._conclude(decision, work.operation)
        if decision.machine.state == states.STARTED and work.operation.kind in plans.STARTS:
            self._watch(decision.machine)
        return decision

    return [(Engine, "_conclude", conclude), (Engine, "_end", end), (Publication, "reconcile", _only_clear)]


async def _only_clear(self: Publication) -> None:
    self._suspect.clear()


def policy_overrules_stop() -> list[Patch]:
    """A Machine that restarts always does so after a stop, too."""

    def finished(machine: Machine, operation: Operation) -> lifecycle.Decision:
        if operation.kind == plans.STOP and machine.config.restart.policy == "always" and "then" not in operation.args:
            idle = replace(machine, operation="", state=states.RESTARTING, run_id="")
            again = idle.with_event("restart", "restarting", source="flyd")
            return lifecycle._begin(again, plans.RETRY, {"delay_s": 0.1})
        return _FINISHED(machine, operation)

    return [(lifecycle, "finished", finished)]


def destroyed_can_start() -> list[Patch]:
    """A destroyed Machine that is still readable can be started."""

    def start(machine: Machine, *, source: str) -> lifecycle.Decision:
        if machine.state == states.DESTROYED:
            machine = replace(machine, state=states.STOPPED)
        return _START(machine, source=source)

    return [(lifecycle, "start", start)]


def destroy_may_fail() -> list[Patch]:
    """A destroy that was accepted and stumbles is given up."""

    def failed(machine: Machine, operation: Operation, problem: Problem, *, now_ms: int) -> lifecycle.Decision:
        return _FAILED(machine, replace(operation, kind=plans.STOP), problem, now_ms=now_ms)

    return [(lifecycle, "failed", failed)]


def failed_update_stays() -> list[Patch]:
    """An update that failed before it touched anything leaves the new version in the record."""

    def failed(machine: Machine, operation: Operation, problem: Problem, *, now_ms: int) -> lifecycle.Decision:
        decision = _FAILED(machine, operation, problem, now_ms=now_ms)
        kept = replace(decision.machine, instance_id=machine.instance_id, config=machine.config)
        return replace(decision, machine=kept)

    return [(lifecycle, "failed", failed)]


def sweep_takes_dying() -> list[Patch]:
    """An agent that comes back sweeps away what is being destroyed before its exit was read."""

    async def sweep(self: Agent, contents: Contents) -> None:
        machines = tuple(machine for machine in contents.machines if machine.alive)
        await _SWEEP(self, replace(contents, machines=machines))

    return [(Agent, "_sweep", sweep)]


def nothing_swept() -> list[Patch]:
    """A reboot loses a sandbox without taking down its root, and nobody does."""

    def lost(machine: Machine, *, now_ms: int) -> lifecycle.Decision:
        noted = lifecycle.with_exit(
            machine, Exit(exit_code=-1), requested=False, restarting=True, restart_count=machine.restart_count
        )
        return _START(replace(noted, state=states.STOPPED), source="flyd")

    return [(lifecycle, "lost", lost)]


def numbers_start_over() -> list[Patch]:
    """Numbers of incarnations live in memory: after a crash they come again."""

    async def next_number(self: SimJournal, counter: str) -> int:
        counters: dict[str, int] = self.__dict__.setdefault("counters", {})
        counters[counter] = counters.get(counter, 0) + 1
        return counters[counter]

    return [(SimJournal, "next_number", next_number)]


def create_twice() -> list[Patch]:
    """Two creates of one Machine that meet are not noticed."""

    async def create(
        self: Engine, machine: Machine, *, launch: bool, warnings: tuple[str, ...] = ()
    ) -> tuple[Machine, int]:
        decision = lifecycle.created(machine, launch=launch)
        assert decision.operation is not None
        await self._journal.write(Write(machine=decision.machine, fence=None, begin=decision.operation))
        self.machines[machine.id] = decision.machine
        self._run(decision.machine, decision.operation, resumed=False)
        return decision.machine, await self._publish(decision.machine)

    return [(Engine, "create", create)]


def old_version_starts() -> list[Patch]:
    """A replaced Machine comes up on the version it had before."""

    async def step(work: Work) -> None:
        now = work.machine
        previous = work.args.get("previous")
        if previous is not None:
            work.machine = replace(now, instance_id=previous["instance_id"])
        await _START_STEP(work)
        work.machine = now

    return [(STEPS, plans.START_SANDBOX, step)]


_START_STEP = STEPS[plans.START_SANDBOX]


def stop_forgets_root() -> list[Patch]:
    """What a root that persists holds goes with each stop, like that of any other."""

    async def unmount(parts: Parts, machine: Machine, *, for_good: bool) -> None:
        await _UNMOUNT(parts, machine, for_good=True)

    return [(root, "unmount", unmount)]


def destroy_keeps_root() -> list[Patch]:
    """What a destroyed Machine had kept stays on the disk."""

    async def unmount(parts: Parts, machine: Machine, *, for_good: bool) -> None:
        await _UNMOUNT(parts, machine, for_good=False)

    return [(root, "unmount", unmount)]


def sweep_takes_kept_roots() -> list[Patch]:
    """An agent that comes back takes the root that a stopped Machine keeps for litter."""
    return [(root, "kept_for", lambda key: "")]


_UNMOUNT = root.unmount


def pod_counts_in_memory() -> list[Patch]:
    """How often each program was tried is forgotten with the agent: its numbers come again."""

    async def adopt(self: Pod, state: State) -> None:
        await _ADOPT_POD(self, replace(state, parts=dict.fromkeys(state.parts, (0, 0))))

    return [(Pod, "adopt", adopt)]


def pod_left_alone_after_crash() -> list[Patch]:
    """The programs that are found running are looked after by nobody."""

    adopting = _Inside()

    async def adopt(self: Pod, state: State) -> None:
        with adopting.entered():
            await _ADOPT_POD(self, state)

    def go_on(self: Pod) -> None:
        if not adopting:
            _GO_ON(self)

    return [(Pod, "adopt", adopt), (Pod, "_go_on", go_on)]


def pod_ends_only_newest() -> list[Patch]:
    """A destroy takes down what runs, and leaves what has ended before."""

    async def destroy(self: Pods, id: str) -> None:
        if id in self._pods:
            await self._pods[id].close()
            for number in range(len(self._pods[id].plan.members)):
                await self._driver.destroy(f"{id}.{number}.1")
        await self._driver.destroy(id)
        self._pods.pop(id, None)

    return [(Pods, "destroy", destroy)]


def pod_begun_before_noted() -> list[Patch]:
    """A pod counts as begun though that could not be written: who tries again finds nothing to do."""

    async def begin(self: Pod) -> None:
        try:
            await _BEGIN_POD(self)
        except Unavailable:
            self.begun = all(part.running or part.member.after for part in self._parts)
            raise

    return [(Pod, "begin", begin)]


def pod_needs_room_to_stop() -> list[Patch]:
    """A pod whose end cannot be written down does not end."""
    return [(Pod, "_note_stop", Pod._save)]


def driver_not_recorded() -> list[Patch]:
    """Which driver an incarnation is built by is left out of its record: the next agent asks the one it is set to."""

    def incarnate(self: Choice, machine: Machine) -> Machine:
        return replace(_INCARNATE(self, machine), driver="")

    return [(Choice, "incarnate", incarnate)]


async def _nothing(work: Work) -> None:
    return


def snapshot_not_checked() -> list[Patch]:
    """What is on the disk of a suspended Machine is believed."""
    return [(STEPS, plans.CHECK_SNAPSHOT, _nothing)]


def snapshot_used_twice() -> list[Patch]:
    """That something ran from a snapshot is not written down: after a reboot it is resumed from once more."""

    async def step(work: Work) -> None:
        async def forget(change: Callable[[Machine], Machine]) -> None:
            return

        alter, work.alter = work.alter, forget
        try:
            await _RESUME_STEP(work)
        finally:
            work.alter = alter

    checking = _Inside()

    async def check(work: Work) -> None:
        with checking.entered():
            await _CHECK_STEP(work)

    async def marks(parts: Parts, machine: Machine) -> dict[str, str]:
        if not checking or machine.snapshot is None:
            return await _MARKS(parts, machine)
        return dict(machine.snapshot.roots)

    return [(STEPS, plans.RESUME_SANDBOX, step), (STEPS, plans.CHECK_SNAPSHOT, check), (root, "marks", marks)]


def snapshot_left_behind() -> list[Patch]:
    """What a Machine was resumed from stays on the disk."""
    return [(STEPS, plans.DROP_SNAPSHOT, _nothing)]


def suspended_starts_beside() -> list[Patch]:
    """A suspended Machine is started like one that is stopped: its memory belongs to nobody any more."""

    def start(machine: Machine, *, source: str) -> lifecycle.Decision:
        if machine.state == states.SUSPENDED:
            machine = replace(machine, state=states.STOPPED)
        return _START(machine, source=source)

    return [(lifecycle, "start", start)]


def suspend_goes_on_after_reboot() -> list[Patch]:
    """What was written of a memory when the host went down is taken for all of it."""
    return [(Engine, "_resume_suspend", lambda self, work: None)]


_RESUME_STEP, _CHECK_STEP, _MARKS = STEPS[plans.RESUME_SANDBOX], STEPS[plans.CHECK_SNAPSHOT], root.marks
_ADOPT_POD, _BEGIN_POD, _GO_ON, _INCARNATE = Pod.adopt, Pod.begin, Pod._go_on, Choice.incarnate

BUGS: dict[str, Callable[[], list[Patch]]] = {
    plant.__name__: plant
    for plant in (
        intent_after_effect,
        incarnation_only_in_memory,
        shown_before_durable,
        resume_skips_release,
        resume_starts_beside,
        failure_leaves_sandbox,
        release_gives_up,
        exit_recorded_twice,
        exit_not_recorded,
        watcher_gives_up,
        nobody_watches_after_crash,
        no_lock,
        operation_forgotten,
        catalog_not_mended,
        catalog_not_told,
        policy_overrules_stop,
        destroyed_can_start,
        destroy_may_fail,
        failed_update_stays,
        sweep_takes_dying,
        nothing_swept,
        numbers_start_over,
        create_twice,
        old_version_starts,
        stop_forgets_root,
        destroy_keeps_root,
        sweep_takes_kept_roots,
        pod_counts_in_memory,
        pod_left_alone_after_crash,
        pod_ends_only_newest,
        pod_begun_before_noted,
        pod_needs_room_to_stop,
        driver_not_recorded,
        snapshot_not_checked,
        snapshot_used_twice,
        snapshot_left_behind,
        suspended_starts_beside,
        suspend_goes_on_after_reboot,
    )
}


@contextmanager
def bug(name: str) -> Iterator[None]:
    """Inside the block the product has this bug. An empty name plants nothing."""
    with ExitStack() as stack:
        for where, what, instead in BUGS[name]() if name else ():
            if isinstance(where, dict):
                stack.enter_context(mock.patch.dict(where, {what: instead}))
            else:
                stack.enter_context(mock.patch.object(where, what, instead))
        yield
