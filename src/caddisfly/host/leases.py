"""Who holds which Machine, and since when they no longer do.

A Lease is part of the Machine's record, so it survives the agent. Its end is counted on the monotonic clock from the
moment this agent took or read it: setting the host's clock neither frees a Machine nor locks it for years. It is looked
at when somebody asks; nothing has to happen when a Lease runs out.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace

from caddisfly.host.operations.lifecycle import Decision
from caddisfly.model.errors import Aborted, InvalidArgument, NotFound
from caddisfly.model.lease import Lease
from caddisfly.model.machine import Machine, rfc3339, wall_ms


class Leases:
    """Deadlines by nonce. Everything else is in the Machines."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._deadlines: dict[str, tuple[str, float]] = {}

    def of(self, machine: Machine) -> Lease | None:
        """The Lease that stands now."""
        lease = machine.lease
        if lease is None:
            return None
        nonce, deadline = self._deadlines.get(machine.id, ("", 0.0))
        if nonce != lease.nonce:
            # Taken before this agent started: what the wall clocks say is left of it.
            deadline = self._clock() + (lease.expires_ms - wall_ms()) / 1000
            self._deadlines[machine.id] = (lease.nonce, deadline)
        return lease if self._clock() < deadline else None

    def check(self, machine: Machine, nonce: str) -> None:
        """Raises `Aborted`, in words that clients match, unless the Machine is free or `nonce` is its Lease's."""
        lease = self.of(machine)
        if lease is not None and lease.nonce != nonce:
            raise held(machine, lease)

    def guard(self, nonce: str, decide: Callable[[Machine], Decision]) -> Callable[[Machine], Decision]:
        """The same decision, for who may make it. Looked at when it is made, not when it was asked for."""

        def guarded(machine: Machine) -> Decision:
            self.check(machine, nonce)
            return decide(machine)

        return guarded

    def take(self, machine: Machine, *, nonce: str, owner: str, ttl_s: int, description: str) -> Machine:
        """Acquire; or, with the nonce, refresh. Raises `Aborted` when somebody else holds it."""
        now_ms = wall_ms()
        lease = self.of(machine)
        if lease is None:
            if nonce:
                raise Aborted(f"machine ID {machine.id} lease not found", why="the lease that you held has ended")
            lease = Lease.new(owner=owner, ttl_s=ttl_s, description=description, now_ms=now_ms)
        elif lease.nonce != nonce:
            raise held(machine, lease)
        else:
            lease = lease.until(now_ms + ttl_s * 1000)
        self._deadlines[machine.id] = (lease.nonce, self._clock() + ttl_s)
        return replace(machine, lease=lease)

    def release(self, machine: Machine, *, nonce: str) -> Machine:
        """Raises `InvalidArgument` without a nonce, `NotFound` without a Lease, `Aborted` for that of another."""
        if not nonce:
            raise InvalidArgument("missing lease nonce", next="send it in the fly-machine-lease-nonce header")
        lease = self.of(machine)
        if lease is None:
            raise not_found(machine)
        if lease.nonce != nonce:
            raise held(machine, lease)
        self._deadlines.pop(machine.id, None)
        return replace(machine, lease=None)

    def forget(self, machine_id: str) -> None:
        self._deadlines.pop(machine_id, None)


def held(machine: Machine, lease: Lease) -> Aborted:
    return Aborted(
        f"machine ID {machine.id} lease currently held by {lease.owner}, expires at {rfc3339(lease.expires_ms)}",
        next="wait until it ends, or send its nonce",
    )


def not_found(machine: Machine) -> NotFound:
    return NotFound(f"machine ID {machine.id} lease not found")
