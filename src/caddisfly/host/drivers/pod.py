"""A pod: the several programs of one incarnation, each in a sandbox of its own.

                     conditions met            ends, policy says again
    created ─────────────────────▶ started ◀───────────────────────▶ restarting
       │ they cannot be any more      │ ends, policy says stay
       ▼                              ▼
    stopped ◀───────────────────── stopped          all stopped: the pod has ended

A pod ends when none of its programs runs or will run again, with the exit of the first that failed, or else of the last
that ended. An essential program, one of `processes`, ends the pod with its own exit.

Intent comes first here as everywhere: the number of a try is in the notes before its sandbox is made, and that a
pod is to stop is there before the first signal. An agent that comes back reads them, asks the driver what became
of the newest try of each program, and goes on. No number is used twice, so no program can run twice.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from graphlib import TopologicalSorter
from typing import Any

from caddisfly.host.drivers.driver import Driver, Member, Running, Sandbox
from caddisfly.host.drivers.notes import Notes, State
from caddisfly.model.errors import FailedPrecondition, Problem, Retryable, Unavailable
from caddisfly.model.machine import Exit, wall_ms
from caddisfly.model.program import HEALTHY, STARTED, StopConfig

log = logging.getLogger(__name__)

_BACKOFF_FIRST_S, _BACKOFF_MAX_S = 0.25, 30.0
_GOOD_RUN_S = 300.0
"""A run of at least this long clears the count of retries, as a Machine's does."""
_START_TRIES = 4
_RETRY_FIRST_S, _RETRY_MAX_S = 0.1, 5.0
_TELL_EVERY_S = 0.2
_PATIENCE_S = 5.0
"""For those that end because an essential one has."""


@dataclass(slots=True)
class _Part:
    """One program: what is durable of it (`tries`, `retries`), and what is found again."""

    member: Member
    number: int
    tries: int = 0
    """Sandboxes it has had: the newest has the number of tries as the end of its id."""
    retries: int = 0
    state: str = "created"
    running: bool = False
    healthy: bool = False
    began: bool = False
    """Whether it ever ran."""
    exit: Exit | None = None
    """Its last, once it will not run again."""
    cause: str = ""
    """Why it never ran."""
    unclean: bool = False
    """Whether the newest try may have left something that is not known to run."""
    since_s: float = 0.0
    starting: asyncio.Lock = field(default_factory=asyncio.Lock)


class Pod:
    """Lives as long as its incarnation, in one agent after the other."""

    def __init__(self, plan: Sandbox, driver: Driver, *, notes: Notes, tell: Callable[[], Awaitable[None]]) -> None:
        """`tell` is awaited when the state of a program has changed."""
        self.plan, self._driver, self._notes, self._tell = plan, driver, notes, tell
        self._parts = [_Part(member, number) for number, member in enumerate(plan.members)]
        self._stopping = 0
        """The signal with which it is to end; 0 while it is not."""
        self._kept: State | None = None
        """What the notes say."""
        self._killed = self._closed = False
        self._changed = asyncio.Event()
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []
        self._patience_s: float | None = None
        """How long a program may take to end when nobody else kills it. None: somebody does."""
        self.begun = False
        self.ended: asyncio.Future[Exit] = asyncio.get_running_loop().create_future()

    @property
    def states(self) -> tuple[tuple[str, str], ...]:
        return tuple((part.member.name, part.state) for part in self._parts)

    def current(self, container: str = "") -> str | None:
        """The id of the sandbox of a program, or of the first that runs. None when it does not run."""
        for part in self._parts:
            if part.running and container in ("", part.member.name):
                return self._id(part)
        return None

    async def begin(self) -> None:
        """Start those that wait for nothing. Raises what the first that fails says; then it may be tried again."""
        for part in self._parts:
            if not part.member.after and not part.running:
                await self._start(part)
        self._save(begun=True)
        self.begun = True  # not before it is written: who tries again must not find it begun with nobody to go on
        self._go_on()

    async def adopt(self, state: State) -> None:
        """Find everything again that an earlier agent has left."""
        self._kept = state
        self.begun, self._stopping, self._patience_s = state.begun, state.stopping, state.patience_s
        for part in self._parts:
            part.tries, part.retries = state.parts[part.member.name]
        if not self.begun:
            return
        for part in self._parts:
            found = await self._driver.recover(self._id(part)) if part.tries else None
            part.began = part.running = found is not None  # one that has ended tells how when it is waited for
            part.unclean = found is None and part.tries > 0
            part.state = "started" if isinstance(found, Running) else part.state
            part.since_s = asyncio.get_running_loop().time()
        log.info("pod.adopted", extra={"pod": self.plan.id})
        self._go_on()

    def _go_on(self) -> None:
        for part in self._parts:
            self._spawn(self._look_after(part), f"member-{part.number}")
        self._spawn(self._tell_on(), "tell")
        if self._stopping:
            self._spawn(self._stop_in_order(), "stop")

    def _spawn(self, work: Any, what: str) -> None:
        self._tasks.append(asyncio.create_task(work, name=f"pod-{what}-{self.plan.id}"))

    async def _look_after(self, part: _Part) -> None:
        """From its beginning to its last end."""
        if part.tries > 1:  # found again: an earlier agent may have died before it did this
            async with part.starting:
                await self._tidy(part)
        if not part.running and not await self._may_begin(part):
            self._finish(part, Exit(exit_code=-1, error=part.cause, at_ms=wall_ms()))
            return
        while True:
            exit = await self._run_once(part)
            part.running = part.healthy = False
            if asyncio.get_running_loop().time() - part.since_s > _GOOD_RUN_S:
                part.retries = 0
            if self._stopping or not self._goes_again(part, exit):
                self._finish(part, exit)
                return
            part.state, part.retries = "restarting", part.retries + 1
            self._say()
            delay_s = min(_BACKOFF_FIRST_S * 2 ** (part.retries - 1), _BACKOFF_MAX_S)
            if await self._stops_within(delay_s):
                self._finish(part, exit)
                return

    async def _run_once(self, part: _Part) -> Exit:
        if not part.running:
            async with part.starting:  # what an earlier try may have left is no failure of this one
                await self._until_done(lambda: self._clean(part), "destroy")
            try:
                await self._start(part)
            except Exception as error:
                # Whatever it is: the other programs run on, and this one's policy says what follows.
                log.exception("pod.not_started", extra={"sandbox": self._id(part)})
                async with part.starting:
                    await self._until_done(lambda: self._clean(part), "destroy")
                return Exit(exit_code=-1, error=_said(error), at_ms=wall_ms())
        exit: Exit = await self._until_done(lambda: self._driver.wait(self._id(part)), "wait")
        return exit

    async def _clean(self, part: _Part) -> None:
        if part.unclean:
            await self._driver.destroy(self._id(part))
            part.unclean = False

    async def _start(self, part: _Part) -> None:
        """Its next try. The one before it is taken down when this one runs: until then it tells how it ended."""
        async with part.starting:
            if self._stopping:
                raise FailedPrecondition("it was stopped before it started")
            await self._clean(part)
            part.tries += 1
            part.unclean = True
            self._save()
            part.state = "starting"
            sandbox = replace(part.member.sandbox, id=self._id(part))
            for attempt in range(1, _START_TRIES + 1):
                try:
                    await self._driver.start(sandbox)
                except (Retryable, TimeoutError, OSError):
                    if attempt == _START_TRIES or self._stopping:
                        raise
                    await asyncio.sleep(_RETRY_FIRST_S * 2 ** (attempt - 1))
                else:
                    break
            part.running = part.began = True
            part.unclean = False
            part.since_s = asyncio.get_running_loop().time()
            part.state = "started"
            self._say()
            if self._killed:
                await self._driver.kill(sandbox.id)
            if part.tries > 1:
                await self._tidy(part)

    async def _tidy(self, part: _Part) -> None:
        """Take down what is left of earlier tries, all of which have ended."""

        async def destroy() -> None:
            for id in sorted(await self._driver.known()):
                if id.startswith(self._id(part, "")) and id != self._id(part):
                    await self._driver.destroy(id)

        await self._until_done(destroy, "destroy")

    async def _may_begin(self, part: _Part) -> bool:
        """Wait until its conditions are met. False when they cannot be any more, or the pod stops."""
        while not self._stopping:
            open_ones = []
            for name, condition in part.member.after:
                other = self._named(name)
                if _met(other, condition):
                    continue
                if other.exit is not None:
                    part.cause = f"it was to start after {name} {condition.replace('_', ' ')}, which ended before"
                    return False
                open_ones.append(name)
            if not open_ones:
                return True
            self._changed.clear()
            await self._changed.wait()
        part.cause = "it was stopped before it started"
        return False

    def _goes_again(self, part: _Part, exit: Exit) -> bool:
        policy = part.member.restart
        if policy.policy == "always":
            return True
        failed = exit.exit_code != 0
        return policy.policy != "no" and failed and part.retries < policy.max_retries

    def _finish(self, part: _Part, exit: Exit) -> None:
        part.state, part.exit = "stopped", exit
        self._say()
        if part.member.essential and not self._stopping:
            self._begin_to_stop(signal.SIGTERM, _PATIENCE_S)
        if all(one.exit is not None for one in self._parts) and not self.ended.done():
            self.ended.set_result(_outcome(self._parts))

    async def stop(self, number: int) -> None:
        """Begin to end all programs, those that others wait for last."""
        if not self._stopping:
            self._begin_to_stop(number, None)

    def _begin_to_stop(self, number: int, patience_s: float | None) -> None:
        self._stopping, self._patience_s = number, patience_s
        self._note_stop()
        self._say()
        self._spawn(self._stop_in_order(), "stop")

    async def _stop_in_order(self) -> None:
        order = TopologicalSorter({p.member.name: [name for name, _ in p.member.after] for p in self._parts})
        order.prepare()
        levels: list[tuple[str, ...]] = []
        while order.is_active():
            levels.append(order.get_ready())
            order.done(*levels[-1])
        default = StopConfig(signal.Signals(self._stopping).name)
        for level in reversed(levels):
            ends = (self._end(self._named(name), default, self._patience_s) for name in sorted(level))
            await asyncio.gather(*ends)

    async def end_one(self, container: str) -> None:
        """Stop one program, whose checks say that it is not well. Its policy then says whether it starts again."""
        part = self._named(container)
        if part.running:
            log.warning("pod.unhealthy", extra={"sandbox": self._id(part), "container": container})
            own = part.member.stop or StopConfig("SIGTERM")
            self._spawn(self._end(part, own, own.timeout.seconds), f"unhealthy-{part.number}")

    async def _end(self, part: _Part, default: StopConfig, patience_s: float | None) -> None:
        """Signal it, and wait for its end as long as its own config says; without one, until someone else kills it."""
        async with part.starting:
            if not part.running:
                return
            id, tries = self._id(part), part.tries
            own = part.member.stop
            await self._driver.signal(id, signal.Signals[(own or default).signal])
        try:
            async with asyncio.timeout(own.timeout.seconds if own else patience_s):
                while part.running and part.tries == tries:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            await self._driver.kill(id)
            while part.running and part.tries == tries:
                self._changed.clear()
                await self._changed.wait()

    async def signal(self, number: int) -> None:
        for part in self._parts:
            if part.running:
                await self._driver.signal(self._id(part), number)

    async def kill(self) -> None:
        self._killed = True
        self._stopping = self._stopping or signal.SIGKILL
        self._note_stop()
        self._say()
        for part in self._parts:
            if part.running:
                await self._driver.kill(self._id(part))

    def heard(self, healthy: Mapping[str, bool]) -> None:
        """What checks say of programs by name."""
        for part in self._parts:
            well = part.running and healthy.get(part.member.name, False)
            if well != part.healthy:
                part.healthy = well
                self._changed.set()

    async def close(self) -> None:
        """Look after it no more. What is being made or destroyed is waited for: cut short, it would go on unseen."""
        self._closed = True
        self._stopping = self._stopping or signal.SIGKILL
        for part in self._parts:
            async with part.starting:
                part.running = False
        await self.leave()

    async def leave(self) -> None:
        """Leave it to the next agent as it is."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _stops_within(self, delay_s: float) -> bool:
        try:
            async with asyncio.timeout(delay_s):
                while not self._stopping:
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            return False
        return True

    async def _until_done(self, call: Callable[[], Awaitable[Any]], what: str) -> Any:
        """Try until it works: nobody else looks after these."""
        pause_s = _RETRY_FIRST_S
        while True:
            try:
                return await call()
            except Exception:
                log.exception("pod.again", extra={"pod": self.plan.id, "what": what})
                if self._closed:
                    raise
                await asyncio.sleep(pause_s)
                pause_s = min(pause_s * 2, _RETRY_MAX_S)

    async def _tell_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            try:
                await self._tell()
            except Problem as problem:
                log.warning("pod.not_told", extra={"pod": self.plan.id, "reason": str(problem)})
            await asyncio.sleep(_TELL_EVERY_S)

    def _say(self) -> None:
        self._changed.set()
        self._news.set()

    def _named(self, name: str) -> _Part:
        return next(part for part in self._parts if part.member.name == name)

    def _id(self, part: _Part, tries: str | None = None) -> str:
        return f"{self.plan.id}.{part.number}.{part.tries if tries is None else tries}"

    def _note_stop(self) -> None:
        """On a host that is full it must be possible to stop, too. Whoever asked asks the next agent again."""
        try:
            self._save()
        except Unavailable as problem:
            log.warning("pod.stop_not_noted", extra={"pod": self.plan.id, "reason": str(problem)})

    def _save(self, *, begun: bool = False) -> None:
        parts = {part.member.name: (part.tries, part.retries) for part in self._parts}
        state = State(begun=self.begun or begun, stopping=self._stopping, patience_s=self._patience_s, parts=parts)
        if state != self._kept:
            self._notes.keep(self.plan.id, state)
            self._kept = state


def _met(part: _Part, condition: str) -> bool:
    if condition == STARTED:
        return part.began
    if condition == HEALTHY:
        return part.healthy
    return part.exit is not None and part.exit.exit_code == 0


def _outcome(parts: list[_Part]) -> Exit:
    """Of essential programs the first end. Of others the first failure, or else the last end."""
    ran = [part.exit for part in parts if part.exit is not None and not part.cause]
    ran = ran or [part.exit for part in parts if part.exit is not None]
    failed = [exit for exit in ran if exit.exit_code != 0]
    if any(part.member.essential for part in parts):
        failed = ran
    ends = sorted(failed or ran, key=lambda exit: exit.at_ms)
    return ends[0] if failed else ends[-1]


def _said(error: Exception) -> str:
    return f"{error.text}; {error.next}" if isinstance(error, Problem) and error.next else str(error) or repr(error)
