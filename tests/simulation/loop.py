"""An event loop whose clock is virtual and whose order is drawn from a seed.

Whatever is ready may run next: the loop draws one, so that one seed is one schedule, and nothing but the seed decides
it. When nothing is ready the clock jumps to the next timer; each callback costs some microseconds, so that timers also
come due in the middle of a burst.

A process of the simulation is a `Process` in the context of its tasks. When it dies, its callbacks are dropped where
they stand: unlike a cancellation, no `finally` runs, as with SIGKILL.
"""

from __future__ import annotations

import asyncio
import heapq
import random
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from dataclasses import dataclass, field
from typing import Any

_STEP_S = 20e-6
EPOCH_S = 1_700_000_000.0


@dataclass(eq=False)
class Process:
    """Something that can be killed. `fuse` is how many more callbacks it lives, when set."""

    name: str
    dead: bool = False
    fuse: int = 0
    on_death: Callable[[Process], None] | None = None
    effects: dict[int, Callable[[], None]] = field(default_factory=dict)
    """What it has asked the world to do and the world has not done yet."""

    def kill(self) -> None:
        if not self.dead:
            self.dead = True
            if self.on_death is not None:
                self.on_death(self)


PROCESS: ContextVar[Process | None] = ContextVar("process", default=None)


class _Handle:
    """What asyncio's own is, without its debugging, which takes longer than most callbacks do."""

    __slots__ = ("_args", "_callback", "_cancelled", "_context", "_when")

    def __init__(self, callback: Callable[..., object], args: tuple[Any, ...], context: Context, when: float) -> None:
        self._callback, self._args, self._context, self._when = callback, args, context, when
        self._cancelled = False

    def cancel(self) -> None:
        self._cancelled = True
        self._callback, self._args = _nothing, ()

    def cancelled(self) -> bool:
        return self._cancelled

    def when(self) -> float:
        return self._when


def _nothing() -> None:
    """Of a callback that was cancelled."""


class _Task(asyncio.Task[Any]):
    """Numbered, so that the order in a set of tasks follows from the seed and not from where they lie in memory."""

    number: int

    def __hash__(self) -> int:
        return self.number


class SimLoop(asyncio.BaseEventLoop):
    """`shuffle` is the probability that the next callback is drawn instead of taken from the front."""

    def __init__(self, chance: random.Random, *, shuffle: float) -> None:
        super().__init__()
        self._chance, self._shuffle = chance, shuffle
        self._now = 0.0
        self._timers: list[tuple[float, int, _Handle]] = []
        self._timed = 0
        self.errors: list[str] = []
        self._kept: list[asyncio.Task[Any]] = []
        """A dead process's tasks are kept until the run is over: collecting them would run their `finally`."""
        self._world = copy_context()
        self._world.run(PROCESS.set, None)
        self.set_exception_handler(self._on_exception)

    def time(self) -> float:
        return self._now

    def call_soon(self, callback: Any, *args: Any, context: Context | None = None) -> Any:
        handle = _Handle(callback, args, context if context is not None else copy_context(), self._now)
        self._ready.append(handle)
        return handle

    def call_at(self, when: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        timer = _Handle(callback, args, context if context is not None else copy_context(), when)
        self._timed += 1
        heapq.heappush(self._timers, (when, self._timed, timer))
        return timer

    def call_later(self, delay: float, callback: Any, *args: Any, context: Context | None = None) -> Any:
        return self.call_at(self._now + delay, callback, *args, context=context)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        task = _Task.__new__(_Task)
        task.number = len(self._kept)
        task.__init__(coro, loop=self, name=name, context=context)  # type: ignore[misc]
        self._kept.append(task)
        return task

    def wall(self) -> float:
        return EPOCH_S + self._now

    def later(self, delay_s: float, callback: Callable[..., object], *args: object) -> Any:
        """Something that the world does: no death of a process stops it."""
        return self.call_at(self._now + delay_s, callback, *args, context=self._world)

    def spawn(self, process: Process, work: Any, *, name: str) -> asyncio.Task[Any]:
        context = copy_context()
        context.run(PROCESS.set, process)
        return self.create_task(work, name=name, context=context)

    def run_in_executor(self, executor: object, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        future: asyncio.Future[Any] = self.create_future()

        def run() -> None:
            if future.cancelled():
                return
            try:
                future.set_result(func(*args))
            except Exception as error:  # noqa: BLE001 - it belongs to whoever awaits the thread
                future.set_exception(error)

        self.call_later(self._chance.random() * 0.002, run)
        return future

    def bury(self) -> None:
        """Let go of all that is left. Call after the loop has stopped."""
        for task in self._kept:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._ready.clear()
        self._timers.clear()
        self._kept.clear()
        self.close()

    def _on_exception(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Tasks that nobody awaits are looked at one by one."""

    def _run_once(self) -> None:
        ready, timers, chance = self._ready, self._timers, self._chance.random
        while not self._stopping:
            if not ready:
                while timers and timers[0][2]._cancelled:
                    heapq.heappop(timers)
                if not timers:
                    raise RuntimeError("the simulation has nothing left to do and is not over")
                self._now = max(self._now, timers[0][0])
            self._now += _STEP_S
            while timers and timers[0][0] <= self._now:
                timer = heapq.heappop(timers)[2]
                if not timer._cancelled:
                    ready.append(timer)
            count = len(ready)
            if not count:
                continue
            if count > 1 and chance() < self._shuffle:
                at = int(chance() * count)
                handle = ready[at]
                del ready[at]
            else:
                handle = ready.popleft()
            if handle._cancelled:
                continue
            process = handle._context.get(PROCESS)
            if process is not None:
                if process.dead:
                    continue
                if process.fuse:
                    process.fuse -= 1
                    if not process.fuse:
                        process.kill()
                        continue
            try:
                handle._context.run(handle._callback, *handle._args)
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:  # noqa: BLE001 - as asyncio does: the others go on
                self.errors.append(f"callback {handle._callback!r}: {error!r}")

    def _write_to_self(self) -> None:
        pass
