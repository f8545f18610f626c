"""Waiting until a Machine is well, or it is certain that it will not be."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from typing import Any

from caddisfly.client.errors import ApiError, NotFoundError, RetryableError
from caddisfly.launch.deploy import gate
from caddisfly.launch.deploy.fleet import Fleet
from caddisfly.launch.deploy.gate import Expectation, Failed, Passed, Pending
from caddisfly.model.duration import Duration
from caddisfly.model.errors import Problem

_PAUSE_FIRST_S, _PAUSE_MAX_S = 0.05, 0.5
_LOOK_AROUND_S = 5.0
"""How often it is asked where a Machine listens whose checks do not pass, and how long it has before the first time."""
_CHECK_INTERVAL = "15s"


class Unhealthy(Problem):
    """The call was good, the new version is not."""

    code = "failed"


class Slow(Unhealthy):
    """Not well in time; with more it might have been."""

    code = "deadline_exceeded"


async def until_well(fleet: Fleet, id: str, group: str, expected: Expectation) -> str:
    """What was seen when it was well. Raises `Unhealthy` with its failing checks and last words."""
    watch = _Watch(fleet, id, group, expected)
    return await watch.run()


class _Watch:
    def __init__(self, fleet: Fleet, id: str, group: str, expected: Expectation) -> None:
        self._fleet, self._id, self._group, self._expected = fleet, id, group, expected
        self._up_at = math.inf
        self._answer, self._answer_since = "", 0.0
        self._looked_at, self._elsewhere, self._hopeless = 0.0, "", ""

    async def run(self) -> str:
        limit_s = self._fleet.options.wait_timeout_s
        deadline, pause_s = time.monotonic() + limit_s, _PAUSE_FIRST_S
        machine: Mapping[str, Any] = {}
        while True:
            now = time.monotonic()
            try:
                machine = await self._fleet.get(self._id)
                verdict = gate.judge(machine, self._expected, up_s=now - self._up_at, hopeless=self._hopeless)
            except NotFoundError:
                verdict = Failed("it was destroyed by somebody else")
            except RetryableError as error:  # the platform is away for a moment, its Machines are not
                verdict = Pending(f"the API does not answer: {error.text}")
            if isinstance(verdict, Passed):
                return verdict.note
            if isinstance(verdict, Failed):
                raise await self._unhealthy(verdict.what, verdict.why, machine)
            self._fleet.shown.machine(self._id, self._group, verdict.step)
            if verdict.started:
                if self._up_at == math.inf:
                    self._up_at = now
                    deadline = now + limit_s  # as on Fly, health has as much time again as the start had
                await self._look_around(machine, now)
            if now >= deadline:
                raise await self._slow(verdict, machine, limit_s)
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 1.5, _PAUSE_MAX_S)

    async def _look_around(self, machine: Mapping[str, Any], now: float) -> None:
        """Find out what no amount of waiting changes."""
        answer = gate.final_answer(machine)
        if answer != self._answer:
            self._answer, self._answer_since = answer, now
        if answer and now - self._answer_since >= self._patience_s:
            self._hopeless = answer
            return
        refused = any("refused" in str(check.get("output", "")) for check in machine.get("checks") or ())
        if not refused or now - max(self._looked_at, self._up_at) < _LOOK_AROUND_S:
            return
        self._looked_at = now
        found = await elsewhere(self._fleet, self._id, self._expected.config)
        if found and found == self._elsewhere:  # twice: it is not just about to listen
            self._hopeless = found
        self._elsewhere = found

    @property
    def _patience_s(self) -> float:
        """As long as its checks take to ask a few times, after the time that they give it to boot."""
        longest = 0.0
        for check in _checks(self._expected.config):
            interval = _seconds(check.get("interval") or _CHECK_INTERVAL)
            longest = max(longest, _seconds(check.get("grace_period") or "1s") + gate.SURE_AFTER * interval)
        return min(longest, self._fleet.options.wait_timeout_s / 2)

    async def _unhealthy(self, what: str, why: str, machine: Mapping[str, Any]) -> Unhealthy:
        self._fleet.shown.machine(self._id, self._group, what, "failed")
        return Unhealthy(
            f"Machine {self._id} [{self._group}]: {what}",
            why="\n".join([line for line in (why, *gate.failing(machine)) if line] + await self._words()),
            next=f"caddis logs -a {self._fleet.app} -i {self._id}",
        )

    async def _slow(self, verdict: Pending, machine: Mapping[str, Any], limit_s: float) -> Slow:
        self._fleet.shown.machine(self._id, self._group, f"not well within {limit_s:g} s", "failed")
        found = await elsewhere(self._fleet, self._id, self._expected.config)
        return Slow(
            f"timeout reached waiting for health checks to pass for Machine {self._id} [{self._group}]"
            if verdict.started
            else f"timeout reached waiting for Machine {self._id} [{self._group}] to start",
            why="\n".join(
                [f"after {limit_s:g} s: {verdict.step}", *gate.failing(machine), *([found] if found else [])]
                + await self._words()
            ),
            next="if it needs more time to boot: --wait-timeout, or wait_timeout in [deploy]",
        )

    async def _words(self) -> list[str]:
        words = [line for line in await self._fleet.last_words(self._id) if line]
        return ["Its last words:", *(f"  {line}" for line in words)] if words else ["It printed nothing."]


async def elsewhere(fleet: Fleet, id: str, config: Mapping[str, Any]) -> str:
    """Where it listens instead of where its services look; empty when all is well or nobody knows."""
    ports = [int(one["internal_port"]) for one in config.get("services") or () if one.get("internal_port")]
    if not ports or any(one.get("protocol") == "udp" for one in config.get("services") or ()):
        return ""
    try:
        processes = await fleet.client.machines.ps(fleet.app, id)
    except ApiError:
        return ""  # it has ended meanwhile, or its driver cannot tell: this is only a hint
    return gate.listens_elsewhere(processes, ports)


def _checks(config: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    own = list((config.get("checks") or {}).values())
    return own + [check for service in config.get("services") or () for check in service.get("checks") or ()]


def _seconds(text: str) -> float:
    return Duration.parse(text).seconds
