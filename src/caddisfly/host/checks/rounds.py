"""The rounds: the checks of one run of one Machine, each asked again and again until the run ends.

                    grace                    interval ± 10 %
    not yet asked ─────────▶ passing ◀──────────────────────▶ passing
     (critical)                │ ▲
                         fails │ │ passes
                               ▼ │
                            critical        asked again after 0.5 s, 1 s, 2 s ... at most the interval

One failure is enough to turn critical, one pass to turn back, as on Fly: it is the edge that must not send anyone to a
Machine that does not answer. The checks of containers may ask for more of either in a row, and one that says so stops
its container each time it has failed so often; nothing else is ever stopped or started because of a check. A failure
is asked about sooner than the interval says, because a deploy and the edge wait for the first pass.

A new status is told at once, a new output seldom: an app that prints the time must not fill the catalog.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from caddisfly.host.checks.probe import Finding
from caddisfly.model.check import CRITICAL, NOT_YET, PASSING, Check, CheckConfig
from caddisfly.model.machine import rfc3339, wall_ms

log = logging.getLogger(__name__)

Probe = Callable[[CheckConfig, str], Awaitable[Finding]]
_RETRY_FIRST_S = 0.5
_JITTER = 0.1
_TELL_EVERY_S = 1.0
_OUTPUT_EVERY_S = 10.0


class Rounds:
    """Asks, and remembers the answers."""

    def __init__(
        self,
        configs: tuple[CheckConfig, ...],
        *,
        address: str,
        probe: Probe,
        tell: Callable[[], Awaitable[None]],
        end: Callable[[CheckConfig], Awaitable[None]] | None = None,
        known: Sequence[Check] = (),
    ) -> None:
        """`tell` is awaited when there is news, `end` when a container is to be stopped.

        `known` is what an earlier agent found for the same run.
        """
        self._configs, self._address, self._probe, self._tell, self._end_of = configs, address, probe, tell, end
        self._resumed = [check.name for check in known] == [config.name for config in configs]
        now = rfc3339(wall_ms())
        fresh = (config.found(CRITICAL, NOT_YET, updated_at=now) for config in configs)
        self._results = list(known) if self._resumed else list(fresh)
        self._told_s = [float("-inf")] * len(configs)
        self._news = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def results(self) -> tuple[Check, ...]:
        return tuple(self._results)

    def begin(self, *, up_for_s: float) -> None:
        """Start asking. `up_for_s`: how long the run has been up, which counts against the graces."""
        for index, config in enumerate(self._configs):
            task = asyncio.create_task(self._ask_on(index, up_for_s), name=f"check-{config.name}")
            self._tasks.append(task)
        self._tasks.append(asyncio.create_task(self._tell_on(), name="checks-tell"))

    def end(self) -> None:
        """Stop asking. What is under way is given up."""
        for task in self._tasks:
            task.cancel()

    async def ended(self) -> None:
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _ask_on(self, index: int, up_for_s: float) -> None:
        config = self._configs[index]
        # All the Machines that an agent finds again are not asked in the same moment.
        spread_s = config.interval_s if self._resumed and self._results[index].status == PASSING else _RETRY_FIRST_S
        await asyncio.sleep(max(0.0, config.grace_s - up_for_s) + random.random() * min(spread_s, config.interval_s))
        failures = passes = 0
        while True:
            finding = await self._once(config)
            failures, passes = (0, passes + 1) if finding.passed else (failures + 1, 0)
            if passes >= config.passes or failures >= config.failures:
                self._note(index, finding)
            if config.stops and failures >= config.failures and self._end_of is not None:
                await self._end_of(config)
                failures = 0
                await asyncio.sleep(config.grace_s)
            pause_s = config.interval_s
            if failures:
                pause_s = min(pause_s, _RETRY_FIRST_S * 2 ** min(failures - 1, 16))
            await asyncio.sleep(pause_s * random.uniform(1 - _JITTER, 1 + _JITTER))

    async def _once(self, config: CheckConfig) -> Finding:
        try:
            return await self._probe(config, self._address)
        except Exception as error:
            log.exception("checks.bug", extra={"check": config.name, "address": self._address})
            return Finding(False, f"the check could not be carried out: {error!r}")

    def _note(self, index: int, finding: Finding) -> None:
        before = self._results[index]
        status = PASSING if finding.passed else CRITICAL
        if status == before.status and finding.output == before.output:
            return
        now_s = asyncio.get_running_loop().time()
        if status != before.status:
            self._results[index] = self._configs[index].found(status, finding.output, updated_at=rfc3339(wall_ms()))
        elif before.output == NOT_YET or now_s - self._told_s[index] >= _OUTPUT_EVERY_S:
            self._results[index] = replace(before, output=finding.output)
        else:
            return
        self._told_s[index] = now_s
        self._news.set()

    async def _tell_on(self) -> None:
        while True:
            await self._news.wait()
            self._news.clear()
            await self._tell()
            await asyncio.sleep(_TELL_EVERY_S)
