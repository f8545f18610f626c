"""Leaving: Machines that may be stopped at any moment, so no request goes there before their host was asked.

A worker that agreed to let a Machine go cannot know whether it is stopped yet. It treats it as one that sleeps: whoever
needs it wakes it, and its host either says "it is started", which takes the stop's leave away, or starts it again.

A worker that has just begun was never asked to agree. As long as a grant may be under way that is older than itself, it
is in doubt, and treats every Machine that can be stopped so in that way, once.
"""

from __future__ import annotations

from dataclasses import dataclass

from caddisfly.bus.contract import GRANT_S
from caddisfly.model.machine import Machine

LEAVING_S = GRANT_S + 5.0
"""Longer than a grant: it was given before anybody was asked to agree, so it has ended by then on every clock."""


@dataclass(frozen=True, slots=True)
class _Promise:
    run_id: str
    grant: str
    until: float


class Leaving:
    """The Machines, and the runs of them."""

    def __init__(self) -> None:
        self._runs: dict[str, _Promise] = {}
        self._asked: set[str] | None = set()
        """Whose host has been asked while this worker is in doubt. None: it no longer is."""

    def __contains__(self, machine: Machine) -> bool:
        if self._asked is not None and machine.id not in self._asked:
            return any(service.autostop != "off" for service in machine.config.services)
        promise = self._runs.get(machine.id)
        return promise is not None and promise.run_id == machine.run_id

    def has(self, machine_id: str, grant: str) -> bool:
        """Whether this worker agreed to what has this grant, and nobody has needed it since."""
        promise = self._runs.get(machine_id)
        return promise is not None and promise.grant == grant

    def begin(self, machine_id: str, run_id: str, *, grant: str, now: float) -> None:
        self._runs[machine_id] = _Promise(run_id, grant, now + LEAVING_S)

    def end(self, machine_id: str) -> bool:
        """Its host was asked, or it is called off. Returns whether that is news."""
        left = self._runs.pop(machine_id, None) is not None
        if self._asked is None or machine_id in self._asked:
            return left
        self._asked.add(machine_id)
        return True

    def lapsed(self, now: float) -> list[str]:
        """Those that were neither stopped nor called off: who decided about them is gone."""
        return [machine_id for machine_id, promise in self._runs.items() if promise.until < now]

    def doubt(self) -> None:
        """Somebody may decide without having asked this worker."""
        self._asked = set()

    def trust(self) -> None:
        """No longer in doubt."""
        self._asked = None
