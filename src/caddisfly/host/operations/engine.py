"""The engine: carries operations out, one at a time for each Machine, and survives its own death.

Intent comes first: the Machine's new state and the operation, with its list of steps, are on disk before the first
step runs. A step that fails for a reason that may pass is tried again; one that cannot succeed ends the operation,
which then takes down what it had built. After a crash each operation goes on from the step that was under way; a start
that was interrupted goes on with a fresh incarnation, unless its sandbox turns out to be running.

Values in memory are what the journal holds: nothing is shown to anyone before it is durable.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial

from caddisfly.host.drivers.driver import Ended, Running
from caddisfly.host.journal.journal import Journal, Write
from caddisfly.host.journal.operation import Operation
from caddisfly.host.operations import lifecycle, plans
from caddisfly.host.operations.lifecycle import Busy, Decision
from caddisfly.host.operations.steps import STEPS, Step, drop_snapshot, put_away, release_sandbox
from caddisfly.host.operations.work import GaveWay, Parts, Work
from caddisfly.model import states
from caddisfly.model.errors import FailedPrecondition, Internal, NotFound, Problem, Retryable, Unavailable
from caddisfly.model.machine import Exit, Machine, wall_ms

log = logging.getLogger(__name__)

_TRIES = 4
_RETRY_FIRST_S = 0.1
_RELEASE_TRIES = 8
_DELAY_MAX_S = 5.0

Decide = Callable[[Machine], Decision]
Publish = Callable[[Machine], Awaitable[int]]


class _Patience:
    """Longer and longer pauses between tries that go on until one succeeds."""

    def __init__(self) -> None:
        self._next_s = _RETRY_FIRST_S

    async def pause(self) -> None:
        await asyncio.sleep(self._next_s)
        self._next_s = min(self._next_s * 2, _DELAY_MAX_S)


class Engine:
    """Owns the Machines of this host while the agent lives."""

    def __init__(self, journal: Journal, parts: Parts, *, publish: Publish) -> None:
        self._journal, self._parts, self._publish = journal, parts, publish
        self.machines: dict[str, Machine] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._works: dict[str, Work] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._watchers: dict[str, asyncio.Task[None]] = {}
        self.timings: dict[str, dict[str, float]] = {}
        """Milliseconds that each step of a Machine's last operation took."""

    def get(self, machine_id: str) -> Machine:
        """Raises `NotFound` in the words that clients match."""
        machine = self.machines.get(machine_id)
        if machine is None:
            raise NotFound("machine not found", why=f"this host has no machine {machine_id}")
        return machine

    def running(self, machine_id: str) -> Machine:
        """Raises `FailedPrecondition` for one that does not run, `NotFound` for one that is not there."""
        machine = self.get(machine_id)
        if machine.state != states.STARTED:
            raise FailedPrecondition("machine not running", why=f"it is {machine.state}", next="start it first")
        return machine

    @property
    def operations(self) -> list[Operation]:
        """Those under way."""
        return [work.operation for work in self._works.values()]

    async def adopt(self, machine: Machine, operation: Operation | None) -> None:
        """Take up a Machine that the journal held, as it was left."""
        self.machines[machine.id] = machine
        if operation is not None and operation.id == machine.operation:
            self._run(machine, operation, resumed=True)
            return
        try:
            await self._take_up(machine.id, operation)
        except Exception as error:
            # One Machine that cannot be looked at must not keep the others waiting, or the agent from starting.
            log.exception("engine.quarantined", extra={"machine": machine.id, "reason": str(error)})
            self._take_up_later(machine.id, operation, error)

    async def _take_up(self, machine_id: str, stray: Operation | None, trouble: Exception | None = None) -> None:
        """Compare a Machine at rest with what really runs, and do what follows. Nothing for one that is at work."""
        async with self._lock(machine_id):
            machine = self.machines.get(machine_id)
            if machine is None or machine_id in self._tasks or machine.run_id in self._watchers:
                return
            if trouble is not None:
                machine, _ = await self._apply(machine, lambda now: Decision(_with_trouble(now, trouble)))
            if stray is not None or machine.operation:
                machine = await self._commit(replace(machine, operation=""), fence=machine.operation, end=stray)
            if machine.state != states.STARTED:
                await self._apply(machine, lifecycle.recovered)
                return
            found = await self._parts.driver.recover(machine.run_id)
            if isinstance(found, Running):
                self._watch(machine)
            elif found is None:
                await self._apply(machine, lambda now: lifecycle.lost(now, now_ms=wall_ms()))
        if isinstance(found, Ended):
            await self.exited(machine.id, machine.run_id, found.exit)

    def _take_up_later(self, machine_id: str, stray: Operation | None, error: Exception) -> None:
        """Try until it succeeds, and say on the Machine what is wrong. Whoever acts on it meanwhile takes it over."""
        key = f"quarantine-{machine_id}"

        async def run() -> None:
            patience = _Patience()
            try:
                while True:
                    await patience.pause()
                    try:
                        await self._take_up(machine_id, stray, error)
                    except Exception:
                        log.exception("engine.still_quarantined", extra={"machine": machine_id})
                    else:
                        log.info("engine.out_of_quarantine", extra={"machine": machine_id})
                        return
            finally:
                if self._watchers.get(key) is asyncio.current_task():
                    del self._watchers[key]

        self._watchers[key] = asyncio.create_task(run(), name=key)

    async def create(self, machine: Machine, *, launch: bool, warnings: tuple[str, ...] = ()) -> tuple[Machine, int]:
        """Begin a new Machine. Raises `AlreadyExists` when its name is taken. Saying it twice makes one."""
        async with self._lock(machine.id):
            known = self.machines.get(machine.id)
            if known is not None:
                return known, await self._publish(known)
            decision = lifecycle.created(machine, launch=launch, warnings=warnings)
            assert decision.operation is not None
            await self._journal.write(Write(machine=decision.machine, fence=None, begin=decision.operation))
            self.machines[machine.id] = decision.machine
            self._run(decision.machine, decision.operation, resumed=False)
            return decision.machine, await self._publish(decision.machine)

    async def ask(self, machine_id: str, decide: Decide, *, hurry: bool = False) -> tuple[Machine, Machine, int]:
        """Decide on a Machine and begin what follows. Returns it before and after, with the catalog's revision.

        Waits for an operation under way when the call is legal after it. With `hurry`, that operation is told to cut
        its graces short.
        """
        while True:
            async with self._lock(machine_id):
                before = self.get(machine_id)
                try:
                    after, revision = await self._apply(before, decide)
                except Busy:
                    log.debug("engine.busy", extra={"machine": machine_id})
                else:
                    return before, after, revision
            await self._yielded(machine_id, hurry=hurry)

    async def change(self, machine_id: str, alter: Callable[[Machine], Machine]) -> tuple[Machine, int]:
        """Alter a record without any work, such as cordoning."""
        async with self._lock(machine_id):
            return await self._apply(self.get(machine_id), lambda now: Decision(alter(now)))

    async def settled(self, machine_id: str) -> Machine:
        """The Machine once no operation is under way."""
        while (task := self._tasks.get(machine_id)) is not None:
            await asyncio.wait((task,))
        return self.get(machine_id)

    async def exited(self, machine_id: str, run_id: str, exit: Exit) -> None:
        """An incarnation ended. One that is no longer the Machine's is nobody's concern."""
        async with self._lock(machine_id):
            machine = self.machines.get(machine_id)
            if machine is None or machine.run_id != run_id:
                return
            work = self._works.get(machine_id)
            machine = lifecycle.cleared(machine, now_ms=wall_ms())
            await self._apply(
                machine, lambda now: lifecycle.exited(now, exit, operation=work.operation if work else None)
            )

    async def forget(self, machine_id: str) -> None:
        """Drop a destroyed Machine from the journal and from memory."""
        await self._journal.forget(machine_id)
        self.machines.pop(machine_id, None)
        self._locks.pop(machine_id, None)
        self.timings.pop(machine_id, None)

    async def close(self) -> None:
        """Stop working. Operations go on when the journal is opened again; what runs, runs on."""
        tasks = [*self._tasks.values(), *self._watchers.values()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _apply(self, before: Machine, decide: Decide) -> tuple[Machine, int]:
        decision = decide(before)
        if decision.machine is before:
            return before, 0
        # While an operation is under way its id is the fence; a new one takes over only from none.
        fence = self.machines[before.id].operation
        await self._commit(decision.machine, fence=fence, begin=decision.operation)
        work = self._works.get(before.id)
        if decision.operation is not None:
            self._run(decision.machine, decision.operation, resumed=False)
        elif work is not None:
            work.machine = decision.machine
        return decision.machine, await self._publish(decision.machine)

    async def _commit(
        self, machine: Machine, *, fence: str, begin: Operation | None = None, end: Operation | None = None
    ) -> Machine:
        await self._journal.write(Write(machine=machine, fence=fence, begin=begin, end=end.id if end else ""))
        self.machines[machine.id] = machine
        return machine

    def _lock(self, machine_id: str) -> asyncio.Lock:
        return self._locks.setdefault(machine_id, asyncio.Lock())

    async def _yielded(self, machine_id: str, *, hurry: bool) -> None:
        """Wait for the operation under way; where it only waits, it gives way."""
        task, work = self._tasks.get(machine_id), self._works.get(machine_id)
        if task is None or work is None:
            # Outside the lock an operation always has its task, except when the agent has begun to go down.
            raise Unavailable("the agent is going down", next="repeat the call")
        work.give_way.set()
        if hurry:
            work.hurry.set()
        await asyncio.wait((task,))

    def _run(self, machine: Machine, operation: Operation, *, resumed: bool) -> None:
        async def record_exit(exit: Exit) -> None:
            await self.exited(machine.id, work.machine.run_id, exit)

        async def alter(change: Callable[[Machine], Machine]) -> None:
            await self._alter(work, change)

        work = Work(self._parts, machine, operation, record_exit, alter, keeps_root=operation.kind == plans.COLD)
        self._works[machine.id] = work
        if operation.kind == plans.SUSPEND and (watcher := self._watchers.pop(machine.run_id, None)) is not None:
            watcher.cancel()  # from here on it ends because it is put away; if not, the operation finds out
        task = asyncio.create_task(self._carry_out(work, resumed=resumed), name=f"{operation.kind}-{machine.id}")
        self._tasks[machine.id] = task

    async def _carry_out(self, work: Work, *, resumed: bool) -> None:
        machine_id = work.machine.id
        follow: Decision | None = None
        try:
            if resumed:
                await self._resume(work)
            await self._steps(work)
        except Problem as problem:
            follow = await self._fail(work, problem)
        except GaveWay:
            await self._end(work, lambda now: lifecycle.gave_way(now, work.operation))
            self._go_back_to(machine_id)
        except Exception as error:
            log.exception("engine.bug", extra={"machine": machine_id, "operation": work.operation.kind})
            follow = await self._fail(work, Internal(f"{work.operation.kind} failed", why=repr(error)))
        else:
            follow = await self._end(work, lambda now: lifecycle.finished(now, work.operation))
        finally:
            if self._works.get(machine_id) is work:
                del self._works[machine_id], self._tasks[machine_id]
        if follow is not None and follow.operation is not None:
            self._run(follow.machine, follow.operation, resumed=False)

    async def _steps(self, work: Work) -> None:
        while work.operation.at < len(work.operation.steps):
            name = work.operation.steps[work.operation.at]
            if name == plans.MOUNT_ROOT:
                await self._incarnate(work)
            began = time.perf_counter()
            await self._try(work, name)
            work.timings_ms[name] = (time.perf_counter() - began) * 1000
            if name == plans.RELEASE_SANDBOX:
                kept = work.machine.root_of if work.keeps_root else ""
                await self._alter(work, partial(replace, run_id="", root_of=kept, snapshot=None))
            work.operation = replace(work.operation, at=work.operation.at + 1)
            if work.operation.at < len(work.operation.steps):
                await self._journal.progress(work.operation)

    async def _try(self, work: Work, name: str) -> None:
        """Run one step, again while it says that trying may help."""
        tries = _RELEASE_TRIES if name == plans.RELEASE_SANDBOX else _TRIES
        for attempt in range(1, tries + 1):
            try:
                await STEPS[name](work)
            except Retryable as problem:
                if attempt == tries:
                    raise
                log.warning(
                    "engine.step_retried", extra={"machine": work.machine.id, "step": name, "reason": str(problem)}
                )
                await asyncio.sleep(_RETRY_FIRST_S * 2 ** (attempt - 1))
            else:
                return

    async def _incarnate(self, work: Work) -> None:
        """Give the Machine a new incarnation, durably, before anything is built under its name."""
        number = await self._journal.next_number("run")
        run_id = f"{work.machine.id}-{number:08x}"
        placed = self._parts.choice.incarnate(work.machine)

        def born(machine: Machine) -> Machine:
            state = states.STARTING if machine.state == states.CREATED else machine.state
            fresh = replace(machine, run_id=run_id, run_number=number, state=state)
            fresh = replace(fresh, isolation=placed.isolation, driver=placed.driver)
            return fresh.with_event("start", "starting", source="flyd") if state != machine.state else fresh

        await self._alter(work, born)

    async def _alter(self, work: Work, alter: Callable[[Machine], Machine]) -> None:
        async with self._lock(work.machine.id):
            before = self.machines[work.machine.id]
            work.machine = await self._commit(alter(before), fence=work.operation.id)
            if work.machine.state != before.state:
                await self._publish(work.machine)

    async def _resume(self, work: Work) -> None:
        """Find out how far a crash let the operation come."""
        operation = work.operation
        if operation.kind == plans.SUSPEND:
            self._resume_suspend(work)
            return
        if operation.kind == plans.RESUME:
            # What runs has run on from its snapshot, which must go; of what does not, nothing has ever run.
            up = await self._parts.driver.recover(work.machine.run_id) is not None
            at = operation.steps.index(plans.DROP_SNAPSHOT) if up else 0
            work.operation = replace(operation, at=at)
            return
        begun = plans.MOUNT_ROOT in operation.steps and operation.at >= operation.steps.index(plans.MOUNT_ROOT)
        log.info(
            "engine.resumed", extra={"machine": work.machine.id, "operation": operation.kind, "step": operation.at}
        )
        if not begun:
            return
        if work.machine.run_id:
            if await self._parts.driver.recover(work.machine.run_id) is not None:
                work.operation = replace(operation, at=len(operation.steps))
                return
            await release_sandbox.run(work)
            await self._alter(work, lambda machine: replace(machine, run_id=""))
        # Also without an incarnation: a crash may have come right after the one before it was released.
        work.operation = replace(operation, at=operation.steps.index(plans.MOUNT_ROOT))

    def _resume_suspend(self, work: Work) -> None:
        """Raises `FailedPrecondition` when the host went down before memory and root were safe on the disk."""
        if work.machine.snapshot is not None:
            work.operation = replace(work.operation, at=len(work.operation.steps))
        elif work.args["boot"] != self._parts.boot:
            raise FailedPrecondition("its memory is not on the disk", why="the host went down while it was suspended")

    async def _end(self, work: Work, decide: Decide) -> Decision:
        """Make the outcome durable and known. Returns what follows."""
        async with self._lock(work.machine.id):
            machine = self.machines[work.machine.id]
            decision = decide(machine)
            await self._conclude(decision, work.operation)
            await self._publish(decision.machine)
        self.timings[machine.id] = dict(work.timings_ms)
        steps = {f"{name}_ms": round(took, 1) for name, took in work.timings_ms.items()}
        log.info("engine.done", extra={"machine": machine.id, "operation": work.operation.kind, **steps})
        if decision.machine.state == states.STARTED and work.operation.kind in (*plans.STARTS, plans.SUSPEND):
            self._watch(decision.machine)
        return decision

    async def _conclude(self, decision: Decision, operation: Operation) -> None:
        """Write the outcome. What has happened has happened: a full disk only delays that it is known."""
        patience = _Patience()
        while True:
            try:
                await self._commit(decision.machine, fence=operation.id, begin=decision.operation, end=operation)
            except Unavailable as problem:
                log.error("engine.conclude_delayed", extra={"machine": operation.machine_id, "reason": str(problem)})
                await patience.pause()
            else:
                return

    async def _fail(self, work: Work, problem: Problem) -> Decision:
        """Take down what was built, then say why."""
        log.warning(
            "engine.operation_failed",
            extra={
                "machine": work.machine.id,
                "operation": work.operation.kind,
                "step": work.operation.steps[min(work.operation.at, len(work.operation.steps) - 1)],
                "reason": str(problem),
            },
        )
        untouched = work.operation.kind in plans.UPDATES and work.operation.at == 0
        if work.operation.kind == plans.RESUME:
            if await self._runs(work):  # whatever went wrong came after that: what has run is not resumed again
                await self._release(work, drop_snapshot.run)
                return await self._end(work, lambda now: lifecycle.finished(now, work.operation))
            await self._release(work, put_away.run)
        elif not untouched and work.operation.kind != plans.SUSPEND:
            work.keeps_root = False
            await self._release(work, release_sandbox.run)
        return await self._end(work, lambda now: lifecycle.failed(now, work.operation, problem, now_ms=wall_ms()))

    async def _runs(self, work: Work) -> bool:
        """Whether it runs, or has ended since; however long it takes to find out."""
        patience = _Patience()
        while True:
            try:
                return await self._parts.driver.recover(work.machine.run_id) is not None
            except Exception:
                log.exception("engine.not_found_out", extra={"machine": work.machine.id})
                await patience.pause()

    async def _release(self, work: Work, step: Step) -> None:
        """Take down what there is, however long it takes: what runs on is neither failed nor gone."""
        patience = _Patience()
        while True:
            try:
                await step(work)
            except Exception:
                log.exception("engine.release_delayed", extra={"machine": work.machine.id})
                await patience.pause()
            else:
                return

    def _go_back_to(self, machine_id: str) -> None:
        """Whoever an operation gave way to may fail to begin another: then what was interrupted goes on."""

        async def run() -> None:
            patience = _Patience()
            try:
                while True:
                    await patience.pause()
                    try:
                        async with self._lock(machine_id):
                            machine = self.machines.get(machine_id)
                            if machine is not None and not machine.operation:
                                await self._apply(machine, lifecycle.recovered)
                    except Unavailable as problem:
                        log.error("engine.return_delayed", extra={"machine": machine_id, "reason": str(problem)})
                    else:
                        return
            finally:
                if self._watchers.get(machine_id) is asyncio.current_task():
                    del self._watchers[machine_id]

        self._watchers[machine_id] = asyncio.create_task(run(), name=f"return-{machine_id}")

    def _watch(self, machine: Machine) -> None:
        """Learn of the end of this incarnation, whenever it comes. A full disk only delays that it is known."""
        if machine.run_id in self._watchers:
            return

        async def run() -> None:
            patience = _Patience()
            try:
                while True:
                    try:
                        exit = await self._parts.driver.wait(machine.run_id)
                        await self.exited(machine.id, machine.run_id, exit)
                    except Exception:
                        log.exception("engine.watch_failed", extra={"machine": machine.id})
                        await patience.pause()
                    else:
                        return
            finally:
                if self._watchers.get(machine.run_id) is asyncio.current_task():
                    del self._watchers[machine.run_id]

        self._watchers[machine.run_id] = asyncio.create_task(run(), name=f"watch-{machine.run_id}")


def _with_trouble(machine: Machine, error: Exception) -> Machine:
    """Said once for each trouble: an agent that restarts in a loop must not push the history out."""
    newest = machine.events[0] if machine.events else None
    request = {"error": str(error)[:300]}
    if newest is not None and newest.type == "quarantine" and newest.request == request:
        return machine
    return machine.with_event("quarantine", "failed", source="flyd", request=request)
