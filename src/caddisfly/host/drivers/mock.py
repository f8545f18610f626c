"""A driver that runs nothing and can be told how to fail.

It stands in where everything but the Machines themselves is tried: the host's own logic in tests, and programs that
use the API, on `caddis dev`. It obeys the contract in full, its sandboxes end when signalled, and a `Conduct` for each
start makes them misbehave. What it "runs" lives in an object that outlives the agent, as real sandboxes do.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from caddisfly.host.drivers import pretend
from caddisfly.host.drivers.conduct import Conduct, hung
from caddisfly.host.drivers.driver import (
    Attach,
    Command,
    CommandResult,
    Ended,
    Fingerprint,
    NotSuspended,
    Running,
    Sandbox,
    Session,
    Stats,
    Unusable,
)
from caddisfly.host.drivers.pretend_session import PretendSession
from caddisfly.model.errors import DeadlineExceeded, FailedPrecondition, Internal
from caddisfly.model.machine import Exit, wall_ms

_JOB_S = 3600.0
_LOSS_DELAY_S = 0.1
"""Between a start and the loss of its host: time enough for the start to be told."""


@dataclass(slots=True)
class _Fake:
    sandbox: Sandbox
    conduct: Conduct
    pid: int
    ended: asyncio.Future[Exit]
    timers: list[asyncio.TimerHandle] = field(default_factory=list)
    since: float = field(default_factory=time.monotonic)
    lines: int = 0
    """What it remembers: how many lines it has printed."""
    needed: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a suspend that is under way is to be undone."""
    job: asyncio.Task[None] | None = None


class MockDriver:
    """In-memory sandboxes. `starts` counts every start per sandbox, to prove that none runs twice."""

    def __init__(
        self,
        conduct: Callable[[Sandbox], Conduct] = lambda sandbox: Conduct(),
        *,
        lose_host: Callable[[float], None] = lambda seconds: None,
    ) -> None:
        """`conduct` says how a sandbox will act, asked once for each. `lose_host` takes the host away for seconds."""
        self.name = "mock"
        self.conduct, self._lose_host = conduct, lose_host
        self.starts: list[str] = []
        self._tries: dict[str, tuple[Conduct, int]] = {}
        self.held: list[str] = []
        """Sandboxes whose start has come to the gate."""
        self.resumes: list[str] = []
        self._fakes: dict[str, _Fake] = {}
        self._conducts: dict[str, Conduct] = {}
        """How a sandbox that was suspended acted, and will."""
        self._next_pid = 1000

    async def fingerprint(self) -> Fingerprint:
        return Fingerprint(works=True, version="mock", abilities=frozenset({"suspend"}))

    def expect(self) -> None:
        """Nothing to get ready."""

    async def start(self, sandbox: Sandbox) -> Running:
        if sandbox.id in self._fakes:
            return Running(self._fakes[sandbox.id].pid)
        known = self._tries.get(sandbox.id)
        conduct, tries = known or (self.conduct(sandbox), 0)
        self._tries[sandbox.id] = (conduct, tries + 1)
        if conduct.gate is not None:
            self.held.append(sandbox.id)
            await conduct.gate.wait()
        if conduct.slow_start_s:
            await asyncio.sleep(conduct.slow_start_s)
        if conduct.hang_s:
            await asyncio.sleep(conduct.hang_s)
            raise hung(conduct.hang_s)
        if tries < len(conduct.start_errors):
            raise copy(conduct.start_errors[tries])
        if sandbox.id in self._fakes:  # another start of the same sandbox came first
            return Running(self._fakes[sandbox.id].pid)
        return Running(self._run(sandbox, conduct).pid)

    def _run(self, sandbox: Sandbox, conduct: Conduct) -> _Fake:
        fake = self._live(sandbox, conduct)
        self.starts.append(sandbox.id)
        _print(sandbox, f"pretending to run {' '.join(sandbox.argv)}")
        self._arm(fake)
        if conduct.host_loss_s:
            asyncio.get_running_loop().call_later(_LOSS_DELAY_S, self._lose_host, conduct.host_loss_s)
        return fake

    def _live(self, sandbox: Sandbox, conduct: Conduct) -> _Fake:
        self._next_pid += 1
        fake = _Fake(sandbox, conduct, self._next_pid, asyncio.get_running_loop().create_future())
        self._fakes[sandbox.id] = fake
        return fake

    def _arm(self, fake: _Fake) -> None:
        conduct = fake.conduct
        if conduct.exit is not None:
            loop = asyncio.get_running_loop()
            fake.timers.append(loop.call_later(conduct.exit_after_s, self.end, fake.sandbox.id, conduct.exit))
        elif conduct.job:
            fake.job = asyncio.create_task(self._work(fake), name=f"job-{fake.sandbox.id}")
        if conduct.log_every_s:
            self._tick(fake)

    async def _work(self, fake: _Fake) -> None:
        command = Command(argv=fake.sandbox.argv, timeout_s=_JOB_S)
        try:
            async with asyncio.timeout(command.timeout_s):
                result = await pretend.execute(fake.sandbox, command)
        except TimeoutError:
            self.end(fake.sandbox.id, Exit(exit_code=124))
            return
        for line in (result.stdout + result.stderr).decode(errors="replace").splitlines():
            _print(fake.sandbox, line)
        self.end(fake.sandbox.id, Exit(exit_code=result.exit_code))

    def _tick(self, fake: _Fake) -> None:
        if fake.ended.done():
            return
        fake.lines += 1
        _print(fake.sandbox, f"line {fake.lines}")
        loop = asyncio.get_running_loop()
        fake.timers[:] = [timer for timer in fake.timers if timer.when() > loop.time()]
        fake.timers.append(loop.call_later(fake.conduct.log_every_s, self._tick, fake))

    async def signal(self, id: str, number: int) -> None:
        fake = self._fakes.get(id)
        if fake is None or fake.ended.done():
            return
        _print(fake.sandbox, f"got {signal.Signals(number).name}")
        if number == signal.SIGKILL or not fake.conduct.ignores_signals:
            self.end(id, Exit(exit_code=128 + number, signal=number))

    async def kill(self, id: str) -> None:
        self.end(id, Exit(exit_code=137, signal=9))

    def end(self, id: str, exit: Exit) -> None:
        """Make a sandbox end by itself."""
        fake = self._fakes.get(id)
        if fake is None or fake.ended.done():
            return
        _stop_timers(fake)
        _print(fake.sandbox, "killed: out of memory" if exit.oom_killed else f"ended with {exit.exit_code}")
        fake.ended.set_result(replace(exit, at_ms=exit.at_ms or wall_ms()))

    def switch_off(self) -> None:
        """The computer is no more: nothing ends by itself and nothing is printed from now on."""
        for fake in self._fakes.values():
            _stop_timers(fake)
            if fake.job is not None:
                fake.job.cancel()

    async def wait(self, id: str) -> Exit:
        return await asyncio.shield(self._fakes[id].ended)

    async def execute(self, id: str, command: Command) -> CommandResult:
        fake = self._fakes.get(id)
        if fake is None or fake.ended.done():
            raise FailedPrecondition("machine not running")
        try:
            async with asyncio.timeout(command.timeout_s):
                result = await pretend.execute(fake.sandbox, command)
        except TimeoutError as error:
            raise DeadlineExceeded(f"the command did not end within {command.timeout_s:g} s") from error
        return replace(result, exit_code=fake.conduct.exec_code or result.exit_code)

    def snapshot_build(self, id: str) -> str:
        return "mock"

    async def suspend(self, id: str, directory: Path) -> None:
        fake = self._fakes.get(id)
        if fake is None or fake.ended.done():
            raise FailedPrecondition("machine not running")
        fake.needed.clear()
        if fake.conduct.slow_suspend_s:
            with suppress(TimeoutError):
                async with asyncio.timeout(fake.conduct.slow_suspend_s):
                    await fake.needed.wait()
        if fake.needed.is_set():
            raise NotSuspended("it was needed")
        if fake.conduct.suspend_error == "refused":
            raise NotSuspended("the simulated machine cannot be suspended now", why="its suspend-error says so")
        if fake.conduct.suspend_error == "lost":
            self.end(id, Exit(exit_code=137, signal=9))
            raise Internal("the simulated machine was lost", why="its suspend-error says so")
        (directory / "memory").write_text(json.dumps({"lines": fake.lines}))
        _stop_timers(fake)
        if fake.job is not None:
            fake.job.cancel()
        self._conducts[id] = fake.conduct

    async def keep_running(self, id: str) -> bool:
        fake = self._fakes.get(id)
        if fake is None or fake.ended.done() or id in self._conducts:
            return False
        fake.needed.set()
        return True

    async def resume(self, sandbox: Sandbox, directory: Path) -> Running:
        if sandbox.id in self._fakes:
            return Running(self._fakes[sandbox.id].pid)
        conduct = self._conducts.pop(sandbox.id, None) or self.conduct(sandbox)
        if conduct.resume_error:
            raise Unusable("the simulated memory is no good", why="its resume-error says so")
        memory = json.loads((directory / "memory").read_text())
        fake = self._live(sandbox, conduct)
        fake.lines = memory["lines"]
        self.resumes.append(sandbox.id)
        _print(sandbox, f"resumed after {fake.lines} lines")
        self._arm(fake)
        return Running(fake.pid)

    async def attach(self, id: str, wanted: Attach) -> Session:
        fake = self._fakes.get(id)
        if fake is None or fake.ended.done():
            raise FailedPrecondition("machine not running")
        session = PretendSession(fake.sandbox, wanted, code=fake.conduct.exec_code)
        fake.ended.add_done_callback(lambda _: session.kill())
        return session

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
        if id in self._conducts and id in self._fakes:  # its memory is on the disk: this is no end
            del self._fakes[id]
        await self.kill(id)
        self._fakes.pop(id, None)
        self._tries.pop(id, None)

    async def known(self) -> frozenset[str]:
        return frozenset(self._fakes)

    def forget_all(self) -> None:
        """The host was rebooted."""
        self._fakes.clear()

    @property
    def running(self) -> dict[str, Sandbox]:
        return {id: fake.sandbox for id, fake in self._fakes.items() if not fake.ended.done()}


def _stop_timers(fake: _Fake) -> None:
    for timer in fake.timers:
        timer.cancel()


def _print(sandbox: Sandbox, text: str) -> None:
    """A line of its console, in the form that the agent reads (host/logs.py)."""
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f000Z")
    line = f"{now} stdout F {text}\n"
    try:
        with sandbox.log.open("a") as file:
            file.write(line)
    except FileNotFoundError:
        sandbox.log.parent.mkdir(parents=True)
        sandbox.log.write_text(line)
