"""The checks of this host: they follow the Machines, and are shown on what is published of them.

Results are not part of the Machine that the engine and the journal hold. An operation under way therefore never meets
them, a round costs no fsync, and there is no way for a result to bring back an older state: what is published is
always the engine's value of that moment with the results of that moment put on it.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass, replace

from caddisfly.host.checks.memory import Memory
from caddisfly.host.checks.probe import Finding, probe
from caddisfly.host.checks.rounds import Rounds
from caddisfly.model import states
from caddisfly.model.check import CHECKS_MAX, CheckConfig
from caddisfly.model.machine import Machine, wall_ms

log = logging.getLogger(__name__)


Ask = Callable[[CheckConfig, str, str], Awaitable[Finding]]
"""Of a check, the Machine's address, and the run."""
End = Callable[[str, str], Awaitable[None]]


async def _over_the_network(config: CheckConfig, address: str, run_id: str) -> Finding:
    return await probe(config, address)


async def _no_containers(run_id: str, container: str) -> None:
    """There are none."""


@dataclass(frozen=True, slots=True)
class _Run:
    id: str
    rounds: Rounds | None
    """None when the Machine has no checks."""


class Checks:
    """The rounds of each started Machine."""

    def __init__(
        self,
        memory: Memory,
        *,
        publish: Callable[[str], Awaitable[None]],
        probe: Ask = _over_the_network,
        end: End = _no_containers,
    ) -> None:
        """`publish(machine_id)` shows a Machine's present value, passed through `follow`, to everyone.

        `end(run_id, container)` stops a container whose check says so.
        """
        self._memory, self._publish, self._probe, self._stop_container = memory, publish, probe, end
        self._runs: dict[str, _Run] = {}
        self._ending: set[asyncio.Task[None]] = set()

    def follow(self, machine: Machine) -> Machine:
        """Take note of a Machine's present value. Returns it as others should see it.

        Rounds begin when it becomes started, and end when it no longer is or when it is another run.
        """
        run = self._runs.get(machine.id)
        started = machine.state == states.STARTED and machine.run_id != ""
        if run is not None and not (started and run.id == machine.run_id):
            del self._runs[machine.id]
            self._end(run)
            run = None
        if started and run is None:
            run = self._runs[machine.id] = self._begin(machine)
        if run is None or run.rounds is None:
            return machine
        return replace(machine, checks=run.rounds.results)

    def sweep(self, runs: Collection[str]) -> None:
        """Forget what is known of all runs but these."""
        self._memory.sweep(runs)

    async def stop(self) -> None:
        """Stop asking. What was found is kept for the next agent."""
        running = [run.rounds for run in self._runs.values() if run.rounds is not None]
        for rounds in running:
            rounds.end()
        await asyncio.gather(*(rounds.ended() for rounds in running), *self._ending)

    def _begin(self, machine: Machine) -> _Run:
        configs = _configs(machine)
        if not configs:
            return _Run(machine.run_id, None)

        async def tell() -> None:
            self._memory.keep(machine.run_id, rounds.results)
            await self._publish(machine.id)

        async def ask(config: CheckConfig, address: str) -> Finding:
            return await self._probe(config, address, machine.run_id)

        async def end(config: CheckConfig) -> None:
            await self._stop_container(machine.run_id, config.container)

        rounds = Rounds(
            configs,
            address=machine.ipv4,
            probe=ask,
            tell=tell,
            end=end,
            known=self._memory.recall(machine.run_id),
        )
        start = machine.newest("start")
        rounds.begin(up_for_s=max(0.0, (wall_ms() - start.timestamp) / 1000) if start else 0.0)
        return _Run(machine.run_id, rounds)

    def _end(self, run: _Run) -> None:
        if run.rounds is None:
            return
        run.rounds.end()
        rounds = run.rounds

        async def clean() -> None:
            await rounds.ended()
            if all(other.id != run.id for other in self._runs.values()):  # a failed update gives a run back
                self._memory.forget(run.id)

        task = asyncio.create_task(clean(), name=f"checks-end-{run.id}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)


def _configs(machine: Machine) -> tuple[CheckConfig, ...]:
    try:
        return machine.config.checks[:CHECKS_MAX]
    except (LookupError, TypeError, AttributeError) as error:
        # A record from before checks were validated: it runs on without them.
        log.warning("checks.unreadable", extra={"machine": machine.id, "reason": repr(error)})
        return ()
