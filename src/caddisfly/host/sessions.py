"""Commands that somebody is attached to: what they print goes out over a line, what comes in over it is typed.

A session belongs to its line. When whoever asked for it hangs up, vanishes or is cut off, the command is hung up; when
the agent ends, so do its sessions, and those of an agent that was killed are ended by the next (drivers/oci/entry.py).
"""

from __future__ import annotations

import asyncio
import logging
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.line import Line
from caddisfly.bus.rpc import Dispatcher
from caddisfly.host.drivers.driver import Attach, Session, Window
from caddisfly.host.drivers.pods import Pods
from caddisfly.host.operations.engine import Engine
from caddisfly.model.errors import Exhausted, Internal, Problem, Unavailable

log = logging.getLogger(__name__)

MACHINE_MAX, HOST_MAX = 16, 128
"""Sessions at once. Each costs the host a process of the runtime, some 10 MB, which no Machine is charged for."""


class Sessions:
    """All of this host's."""

    def __init__(
        self,
        bus: Bus,
        *,
        engine: Engine,
        pods: Pods,
        stop: Callable[[contract.StopMachine], Awaitable[object]],
    ) -> None:
        """`stop` stops a Machine that is to last as long as its session."""
        self._bus, self._engine, self._pods, self._stop = bus, engine, pods, stop
        self._open: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def register(self, dispatcher: Dispatcher) -> None:
        dispatcher.handle(contract.ATTACH_MACHINE, self.attach)

    def count(self, machine_id: str) -> int:
        """How many are attached to this Machine."""
        return self._open[machine_id]

    async def stop(self) -> None:
        """Hang up all of them."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def attach(self, request: contract.AttachMachine) -> contract.AttachReply:
        machine = self._engine.running(request.machine_id)
        if self._open[machine.id] >= MACHINE_MAX or self._open.total() >= HOST_MAX:
            raise Exhausted(
                "too many sessions are open",
                why=f"at most {MACHINE_MAX} for a machine and {HOST_MAX} for a host",
                next="close one",
            )
        self._open[machine.id] += 1
        try:
            live = _Live(self._bus, name=machine.run_id)
            await live.begin(self._pods, machine.run_id, request)
        except BaseException:
            self._closed(machine.id)
            raise
        task = asyncio.create_task(self._run(live, request), name=f"session-{machine.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._closed(machine.id))
        log.info("session.opened", extra={"machine": machine.id})
        return contract.AttachReply(subject=live.subject)

    async def _run(self, live: _Live, request: contract.AttachMachine) -> None:
        try:
            await live.run()
        finally:
            if request.stop_after:
                call = contract.StopMachine(machine_id=request.machine_id, nonce=request.nonce, source=request.source)
                try:
                    await self._stop(call)
                except Problem as problem:
                    log.warning("session.not_stopped", extra={"machine": request.machine_id, "reason": str(problem)})

    def _closed(self, machine_id: str) -> None:
        self._open[machine_id] -= 1
        if not self._open[machine_id]:
            del self._open[machine_id]


class _Live:
    """A command and its line."""

    def __init__(self, bus: Bus, *, name: str) -> None:
        self._line = Line(bus, name=name, urgent=self._on_urgent)
        self._session: Session | None = None
        self._signals: set[asyncio.Task[None]] = set()

    @property
    def subject(self) -> str:
        return self._line.subject

    async def begin(self, pods: Pods, run_id: str, request: contract.AttachMachine) -> None:
        window = Window(request.columns, request.rows) if request.columns else None
        wanted = Attach(
            argv=request.command,
            window=window,
            term=request.term or "xterm",
            user=request.user,
            container=request.container,
        )
        await self._line.open()
        try:
            self._session = await pods.attach(run_id, wanted)
        except BaseException:
            await self._line.close()
            raise
        self._line.connect(request.subject)

    async def run(self) -> None:
        """Until the command has ended and all it printed is under way, or the line is lost."""
        assert self._session is not None
        works = {asyncio.create_task(self._output(self._session)), asyncio.create_task(self._until_lost())}
        typing = asyncio.create_task(self._input(self._session))
        problem: Problem | None = Unavailable("the agent of this host has ended", next="try again in a moment")
        try:
            done, _ = await asyncio.wait(works, return_when=asyncio.FIRST_COMPLETED)
            problem = Internal("the session failed", next="see the agent's log")
            for task in done:
                task.result()
            problem = None
        except Problem as reason:
            log.info("session.lost", extra={"session": self._line.name, "reason": str(reason)})
        finally:
            for task in (*works, typing, *self._signals):
                task.cancel()
            await asyncio.gather(*works, typing, *self._signals, return_exceptions=True)
            await asyncio.gather(self._session.close(), self._line.close(problem))

    async def _output(self, session: Session) -> None:
        while (piece := await session.read()) is not None:
            await self._line.send(*piece)
        await self._line.send(contract.EXIT, str(await session.wait()).encode())

    async def _input(self, session: Session) -> None:
        while True:
            channel, data = await self._line.receive()
            if channel != contract.STDIN:
                continue
            if data:
                await session.write(data)
                await self._line.taken(len(data))
            else:
                await session.end_input()

    async def _until_lost(self) -> None:
        log.debug("session.ended", extra={"session": self._line.name, "reason": str(await self._line.lost())})

    def _on_urgent(self, message: dict[str, Any]) -> None:
        if self._session is None:
            return
        if message.get("type") == "resize":
            self._session.resize(Window(int(message["columns"]), int(message["rows"])))
        elif message.get("type") == "signal":
            number = signal.Signals[str(message["signal"])]
            task = asyncio.create_task(self._session.signal(number))
            self._signals.add(task)
            task.add_done_callback(self._signals.discard)
