"""A driver that runs nothing and can be told how to fail.

It stands in where the host's own logic is tried: journal, operations, restarts. It obeys the contract in full, its
sandboxes end when signalled, and `Behaviour` makes them misbehave. What it "runs" lives in an object that outlives the
agent under test, as real sandboxes outlive a real one.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from caddisfly.host.drivers.driver import (
    Command,
    CommandResult,
    Ended,
    Fingerprint,
    Running,
    Sandbox,
    Stats,
)
from caddisfly.model.errors import FailedPrecondition, Problem
from caddisfly.model.machine import Exit


@dataclass(slots=True)
class Behaviour:
    """How the next sandboxes act. `exit_after` ends them at once with that exit."""

    start_errors: list[Problem] = field(default_factory=list)
    exit_at_once: Exit | None = None
    ignores_signals: bool = False
    start_gate: asyncio.Event | None = None
    """Starts wait here, when given."""


@dataclass(slots=True)
class _Fake:
    sandbox: Sandbox
    pid: int
    ended: asyncio.Future[Exit]


class MockDriver:
    """In-memory sandboxes. `starts` counts every start per sandbox, to prove that none runs twice."""

    name = "mock"

    def __init__(self) -> None:
        self.behaviour = Behaviour()
        self.starts: list[str] = []
        self._fakes: dict[str, _Fake] = {}
        self._next_pid = 1000

    async def fingerprint(self) -> Fingerprint:
        return Fingerprint(works=True, version="mock")

    def expect(self) -> None:
        """Nothing to get ready."""

    async def start(self, sandbox: Sandbox) -> Running:
        if self.behaviour.start_gate is not None:
            await self.behaviour.start_gate.wait()
        if self.behaviour.start_errors:
            raise self.behaviour.start_errors.pop(0)
        if sandbox.id in self._fakes:
            return Running(self._fakes[sandbox.id].pid)
        self._next_pid += 1
        fake = _Fake(sandbox, self._next_pid, asyncio.get_running_loop().create_future())
        self._fakes[sandbox.id] = fake
        self.starts.append(sandbox.id)
        if self.behaviour.exit_at_once is not None:
            fake.ended.set_result(self.behaviour.exit_at_once)
        return Running(fake.pid)

    async def signal(self, id: str, number: int) -> None:
        if not self.behaviour.ignores_signals:
            self.end(id, Exit(exit_code=128 + number, signal=number))

    async def kill(self, id: str) -> None:
        self.end(id, Exit(exit_code=137, signal=9))

    def end(self, id: str, exit: Exit) -> None:
        """Make a sandbox end by itself."""
        fake = self._fakes.get(id)
        if fake is not None and not fake.ended.done():
            fake.ended.set_result(exit)

    async def wait(self, id: str) -> Exit:
        return await asyncio.shield(self._fakes[id].ended)

    async def execute(self, id: str, command: Command) -> CommandResult:
        if id not in self.running:
            raise FailedPrecondition("machine not running")
        return CommandResult(exit_code=0, stdout=" ".join(command.argv).encode(), stderr=b"")

    async def stats(self, id: str) -> Stats:
        return Stats(cpu_ns=0, memory_bytes=0, pids=1, oom_kills=0)

    async def processes(self, id: str) -> frozenset[int]:
        return frozenset()

    async def recover(self, id: str) -> Running | Ended | None:
        fake = self._fakes.get(id)
        if fake is None:
            return None
        return Ended(fake.ended.result()) if fake.ended.done() else Running(fake.pid)

    async def destroy(self, id: str) -> None:
        await self.kill(id)
        self._fakes.pop(id, None)

    async def known(self) -> frozenset[str]:
        return frozenset(self._fakes)

    @property
    def running(self) -> dict[str, Sandbox]:
        return {id: fake.sandbox for id, fake in self._fakes.items() if not fake.ended.done()}
