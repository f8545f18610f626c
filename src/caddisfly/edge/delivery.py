"""Delivery: everything a request may have to wait for before a Machine has it.

The client is held, never told 5xx, as long as something under way may still help: a wake, a Machine on its way up, an
app that has yet to bind its port, a slot below a hard limit. What ends the wait is a deadline or a fact.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from caddisfly.edge import balance
from caddisfly.edge.errors import Failure
from caddisfly.edge.upstream import Upstream, connect
from caddisfly.edge.wake import Retired
from caddisfly.model.errors import DeadlineExceeded, Problem, Unavailable
from caddisfly.model.machine import Machine

if TYPE_CHECKING:
    from caddisfly.edge.candidate import Candidate
    from caddisfly.edge.exchange import Exchange
    from caddisfly.edge.routes import Route

log = logging.getLogger(__name__)

_RETRY_AFTER_S = 5
_ASK_AGAIN_S = 0.3


async def deliver(exchange: Exchange) -> None:
    """Bring `exchange` to a Machine or answer it with a failure."""
    try:
        failure = await Delivery(exchange).run()
    except Exception as error:  # the border: a bug answers the client and is logged
        log.exception("edge.bug", extra={"request": exchange.id.decode()})
        failure = Failure(status=502, code="PU04", what="the edge failed", why=type(error).__name__)
    if failure is not None:
        exchange.fail(failure)


class Delivery:
    """The state of one delivery."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange, self._edge = exchange, exchange.edge
        self._settings = self._edge.settings
        begun = self._edge.loop.time()
        self._deadline = begun + self._settings.wake_deadline_s
        self._full_deadline = begun + self._settings.full_deadline_s
        self._unwakeable: dict[str, Failure] = {}
        self._asked: set[str] = set()
        self._last: Failure | None = None

    async def run(self) -> Failure | None:
        """None when the request is on its way."""
        exchange, edge = self._exchange, self._edge
        if not await edge.routes.arrived(timeout_s=self._settings.full_deadline_s):
            return _no_catalog()
        while exchange.attempts < self._settings.attempts_max:
            route = edge.routes.find(exchange.fields.host)
            if route is None:
                return unknown_host(exchange.fields.host)
            candidate = self._pick(route)
            if candidate is not None:
                upstream = await self._connect(route, candidate)
                if upstream is not None:
                    exchange.attach(upstream)
                    return None
                continue
            failure = await self._wait_for_candidate(route)
            if failure is not None:
                return failure
        return self._last or Failure(status=502, code="PR03", what="no Machine took the request")

    def _pick(self, route: Route) -> Candidate | None:
        excluded = self._exchange.excluded
        candidate = balance.pick(route.candidates, excluded)
        if candidate is None or candidate.reached:
            return candidate
        # Not known to answer yet: find out beside, and send the request to one that does, if there is any.
        other = balance.pick([one for one in route.candidates if one.reached], excluded)
        if other is not None:
            self._edge.wake.probe(candidate)
        return other or candidate

    async def _connect(self, route: Route, candidate: Candidate) -> Upstream | None:
        """A connection whose load is counted, or None after noting what went wrong."""
        exchange, edge = self._exchange, self._edge
        if route.startable and candidate.load >= candidate.soft:
            edge.wake.in_background(route)
        candidate.load += 1
        upstream: Upstream | None = None
        try:
            if not candidate.reached:
                await edge.wake.reach(candidate)
            upstream = candidate.take(edge.now, idle_max_s=exchange.idle_max_s)
            if upstream is None:
                upstream = await connect(candidate, timeout_s=self._settings.connect_timeout_s)
            if candidate.retired:
                upstream.close()
                upstream = None
        except (OSError, TimeoutError) as error:
            self._note(candidate, error)
        except Retired:
            log.debug("edge.retired", extra={"machine": candidate.machine.id})
        finally:
            if upstream is None:
                candidate.release()
        return upstream

    def _note(self, candidate: Candidate, error: Exception) -> None:
        machine, exchange = candidate.machine, self._exchange
        candidate.reached = False
        exchange.exclude(candidate)
        exchange.attempts += 1
        code, why = _connect_failure(candidate, error)
        if self._edge.wake.booting(machine):
            code, status = "PM05", 503
            next_ = f"check that the app listens on port {candidate.port}, on 0.0.0.0 and not only on localhost"
        else:
            status = 502
            next_ = f"check that the app still runs and listens on port {candidate.port}"
        self._last = Failure(
            status=status,
            code=code,
            what="the app does not take connections",
            why=why,
            next=next_,
            retry_after_s=_RETRY_AFTER_S if status == 503 else 0,
        )
        log.warning("edge.unreachable", extra={"machine": machine.id, "app": machine.app_name, "code": code})

    async def _wait_for_candidate(self, route: Route) -> Failure | None:
        """Nothing can take the request now: do what can be done. None when it is worth looking again."""
        exchange, edge = self._exchange, self._edge
        full = any(one not in exchange.excluded for one in route.candidates)
        startable = [one for one in route.startable if one.id not in self._unwakeable]
        now = edge.loop.time()
        if full:
            if startable:
                edge.wake.in_background(route)
            until = self._full_deadline if not startable else self._deadline
            if await edge.routes.changed(route.entry.id, timeout_s=until - now, or_room=True):
                return None
            return _full(route)
        if startable:
            return await self._wake(startable[0])
        if (machine := self._doubtful(route)) is not None:
            self._asked.add(machine.id)
            exchange.excluded = exchange.excluded - {one for one in route.candidates if one.machine is machine}
            return await self._wake(machine)
        if self._last is not None and exchange.excluded:
            return self._last
        if route.on_the_way:
            if await edge.routes.changed(route.entry.id, timeout_s=self._deadline - now):
                return None
            return _still_on_the_way(route.on_the_way[0], self._settings.wake_deadline_s)
        if self._unwakeable:
            return next(iter(self._unwakeable.values()))
        return _nobody(route, self._settings.external_port)

    def _doubtful(self, route: Route) -> Machine | None:
        """A Machine whose state may be old news. Its host is asked, once: it knows better, and starts it if needed.

        One that is `started` here but takes no connections may have stopped in this moment. One on its way up may have
        arrived while the bus, which would tell, is down.
        """
        known = [one.machine for one in route.candidates if one.autostart]
        if not self._edge.bus.connected:
            known += [one for one in route.on_the_way if one.host_id == self._settings.host_id]
        return next((machine for machine in known if machine.id not in self._asked), None)

    async def _wake(self, machine: Machine) -> Failure | None:
        try:
            async with asyncio.timeout_at(self._deadline):
                await self._edge.wake.wake(machine)
        except Unavailable as error:
            if not self._edge.routes.must_ask(machine):
                self._unwakeable[machine.id] = _wake_failure(machine, error, self._settings.wake_deadline_s)
            elif not await self._edge.routes.changed(machine.app_id, timeout_s=_ASK_AGAIN_S):
                log.debug("edge.host_silent", extra={"machine": machine.id})  # it runs: no reason to give up yet
        except (Problem, TimeoutError) as error:
            self._unwakeable[machine.id] = _wake_failure(machine, error, self._settings.wake_deadline_s)
        return None


def _connect_failure(candidate: Candidate, error: Exception) -> tuple[str, str]:
    where = f"Machine {candidate.machine.id}"
    if isinstance(error, ConnectionRefusedError):
        return "PC01", f"{where} refuses connections on port {candidate.port}"
    if isinstance(error, TimeoutError):
        return "PC05", f"{where} did not accept a connection on port {candidate.port} in time"
    if isinstance(error, ConnectionResetError):
        return "PC03", f"{where} reset the connection on port {candidate.port}"
    return "PC06", f"{where} cannot be reached on port {candidate.port}: {error.strerror or error}" if isinstance(
        error, OSError
    ) else str(error)


def _wake_failure(machine: Machine, error: Exception, deadline_s: float) -> Failure:
    late = isinstance(error, TimeoutError | DeadlineExceeded)
    why = f"Machine {machine.id} did not start within {deadline_s:g} s" if late else f"Machine {machine.id}: {error}"
    hint = error.next if isinstance(error, Problem) else ""
    return Failure(
        status=503,
        code="PM03" if late else "PM07",
        what="the app could not be woken",
        why=why,
        next=hint or f"`caddis machine status {machine.id}` shows what it does",
        retry_after_s=_RETRY_AFTER_S,
    )


def _still_on_the_way(machine: Machine, deadline_s: float) -> Failure:
    return Failure(
        status=503,
        code="PM03",
        what="the app is not up yet",
        why=f"Machine {machine.id} is {machine.state}, for more than {deadline_s:g} s",
        next=f"`caddis machine status {machine.id}` shows what it does",
        retry_after_s=_RETRY_AFTER_S,
    )


def _full(route: Route) -> Failure:
    return Failure(
        status=503,
        code="PR04",
        what="the app is at its limit",
        why=f"all {len(route.candidates)} running Machines are at their hard_limit",
        next="try again, or give it more Machines or a higher hard_limit",
        retry_after_s=_RETRY_AFTER_S,
    )


def unknown_host(host: bytes) -> Failure:
    return Failure(
        status=404,
        what=f"no app answers at {host.decode()}",
        why="no app of this platform has that name",
        next="check the name; `caddis apps list` shows those there are",
    )


def _no_catalog() -> Failure:
    return Failure(
        status=503,
        code="PR04",
        what="the edge does not know any app yet",
        why="it has not reached the bus since it started",
        next="`caddis status` shows whether the bus is up",
        retry_after_s=_RETRY_AFTER_S,
    )


def _nobody(route: Route, port: int) -> Failure:
    name = route.entry.name
    if not route.machines:
        return Failure(status=503, code="PR04", what=f"{name} has no Machines", next="deploy it: `caddis deploy`")
    if not route.rest:
        return Failure(
            status=502,
            code="PR04",
            what=f"{name} serves nothing on port {port}",
            why="none of its Machines has a service with an http handler there",
            next="add an [http_service] to fly.toml and deploy",
        )
    machine = route.rest[0]
    if machine.cordoned:
        why, code = f"Machine {machine.id} is {machine.state} and cordoned", "PR04"
    else:
        why, code = f"Machine {machine.id} is {machine.state} and is not started by requests", "PM08"
    return Failure(
        status=503,
        code=code,
        what=f"no Machine of {name} can answer",
        why=why,
        next=f"`caddis machine start {machine.id}`, or wait if it is being replaced",
        retry_after_s=_RETRY_AFTER_S,
    )
