"""Grants: leave for the edge to stop or suspend a Machine that it finds idle, until somebody needs it.

An edge that decides has asked all workers before it comes back, and meanwhile a request may have come in anywhere. So
the Machine's host is the one judge: a grant is given, a wake takes it away, and a stop without a grant that stands is
refused. Which of the two came first is decided under the engine's lock of that Machine. A request that was answered
"it is started" is therefore never cut by a stop that was decided on before it.

Grants are in memory only. An agent that was killed knows of none, and refuses.
"""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from caddisfly.bus.contract import GRANT_S
from caddisfly.host.operations.lifecycle import Decision
from caddisfly.model import states
from caddisfly.model.errors import Aborted, FailedPrecondition
from caddisfly.model.machine import Machine


@dataclass(frozen=True, slots=True)
class _Grant:
    secret: str
    run_id: str
    ends: float


class Grants:
    """One at most for each Machine: a newer one takes the place of the one before."""

    def __init__(self, *, in_use: Callable[[str], str], clock: Callable[[], float] = time.monotonic) -> None:
        """`in_use` says what somebody does inside a Machine now, in words; empty when nobody does anything."""
        self._in_use, self._clock = in_use, clock
        self._given: dict[str, _Grant] = {}

    def give(self, machine: Machine) -> str:
        """Raises `FailedPrecondition` for one that does not run, `Aborted` for one that is in use."""
        self._refuse_unfit(machine)
        now, secret = self._clock(), secrets.token_hex(8)
        self._given = {id: grant for id, grant in self._given.items() if now < grant.ends + GRANT_S}
        self._given[machine.id] = _Grant(secret, machine.run_id, now + GRANT_S)
        return secret

    def stands(self, machine_id: str) -> bool:
        """Whether a stop may be on its way. True for a while longer than the grant itself."""
        return machine_id in self._given

    def withdraw(self, machine: Machine) -> Machine:
        """Somebody needs it. Called under the engine's lock, so that no stop is half decided."""
        self._given.pop(machine.id, None)
        return machine

    def guard(self, grant: str, decide: Callable[[Machine], Decision]) -> Callable[[Machine], Decision]:
        """The same decision, if the grant stands in the moment in which it is made."""

        def guarded(machine: Machine) -> Decision:
            given = self._given.get(machine.id)
            if given is None or given.secret != grant or given.run_id != machine.run_id or self._clock() > given.ends:
                raise Aborted("somebody needs the machine, or did a moment ago", next="ask for another grant")
            self._refuse_unfit(machine)
            return decide(machine)

        return guarded

    def _refuse_unfit(self, machine: Machine) -> None:
        if machine.state != states.STARTED or machine.operation:
            raise FailedPrecondition("machine not running", why=f"it is {machine.state}")
        if use := self._in_use(machine.id):
            raise Aborted("the machine is in use", why=use, next="wait until that has ended")
