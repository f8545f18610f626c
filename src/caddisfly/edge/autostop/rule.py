"""Which Machines of an app are not needed: a pure function of what runs and what it has to do (reference 3.1).

    n    = running Machines of a service in a region
    busy = how many of them are at or over their soft limit
    n > 1: n - (busy + 1) of them are in excess        n == 1: it is, if it has nothing to do

A Machine goes when every one of its services can spare it: a service with autostop off never can. Of those in excess
a quarter goes in each pass, at least one: a few Machines leave one by one, as on Fly, and a thousand do not take days.

A Machine's load is the most it had at once since about one pass. A moment's count would find an app that answers one
request a second idle nine times in ten.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from caddisfly.model import states
from caddisfly.model.machine import Machine
from caddisfly.model.service import Service

_SHARE = 4
_BEGINS = ("start", "resume", "restart", "update", "launch")
FOREVER_S = 10.0**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """What all edges together have for one service of one run: at this moment, at most lately, and since when not."""

    load: int = 0
    peak: int = 0
    idle_s: float = FOREVER_S

    def __add__(self, other: Work) -> Work:
        return Work(load=self.load + other.load, peak=self.peak + other.peak, idle_s=min(self.idle_s, other.idle_s))


Works = Mapping[tuple[str, int], Work]
"""By run and internal port. What is missing has nothing to do."""


@dataclass(frozen=True, slots=True)
class Departure:
    """A Machine that should go. `alone`: the last one of a service in its region, so only when nothing is under way."""

    machine: Machine
    suspend: bool
    alone: bool
    reason: str


@dataclass(slots=True)
class _Group:
    """The Machines of one service in one region that run. `spare` is how many of them may go in this pass."""

    works: list[tuple[Service, Work]]
    least: int
    """As `min_machines_running` says, where that counts."""
    spare: int = 0
    busy: int = 0

    def count(self) -> None:
        n = len(self.works)
        self.busy = sum(work.peak >= service.soft_limit for service, work in self.works)
        excess = n - (self.busy + 1) if n > 1 else int(not self.works[0][1].peak)
        excess = min(excess, n - self.least)
        self.spare = max(1, excess // _SHARE) if excess > 0 else 0


def departures(machines: Iterable[Machine], works: Works, *, now_ms: int, pass_s: float) -> list[Departure]:
    """Those of one app's Machines that should go now."""
    groups: dict[tuple[str, str, int], _Group] = {}
    running = [machine for machine in machines if machine.state == states.STARTED and not machine.cordoned]
    services = {machine.id: _reached(machine) for machine in running}
    members: defaultdict[str, list[_Group]] = defaultdict(list)
    for machine in running:
        primary = machine.config.env.get("PRIMARY_REGION", "")
        counts = primary in ("", machine.region)  # an app that names no primary region has its minimum everywhere
        for service in services[machine.id]:
            key = (machine.region, service.protocol, service.internal_port)
            group = groups.setdefault(key, _Group([], 0))
            group.works.append((service, _work(machine, service, works)))
            group.least = max(group.least, service.min_machines_running if counts else 0)
            members[machine.id].append(group)
    for group in groups.values():
        group.count()
    chosen = []
    for machine in sorted(running, key=lambda one: _rank(one, services[one.id], works)):
        its = members[machine.id]
        if its and all(group.spare for group in its) and _may_go(machine, services[machine.id], now_ms, pass_s):
            for group in its:
                group.spare -= 1
            chosen.append(_departure(machine, services[machine.id], its))
    return chosen


def _reached(machine: Machine) -> list[Service]:
    """Those that can be reached at all: a service without ports cannot."""
    return [service for service in machine.config.services if service.ports]


def _work(machine: Machine, service: Service, works: Works) -> Work:
    return works.get((machine.run_id, service.internal_port), Work())


def _rank(machine: Machine, services: list[Service], works: Works) -> tuple[bool, int, float, str]:
    """Who goes first: what its checks keep requests from, then the least loaded, then who has been idle for longest."""
    of_it = [_work(machine, service, works) for service in services]
    ready = all(machine.ready(service.internal_port) for service in services)
    return ready, sum(work.peak for work in of_it), -min((work.idle_s for work in of_it), default=0.0), machine.id


def _may_go(machine: Machine, services: list[Service], now_ms: int, pass_s: float) -> bool:
    begun_ms = max((event.timestamp for event in machine.events if event.type in _BEGINS), default=machine.created_ms)
    return (
        all(service.autostop != "off" for service in services)
        and not machine.config.standbys
        and not machine.operation
        and (machine.lease is None or machine.lease.expires_ms <= now_ms)
        and now_ms - begun_ms >= pass_s * 1000
    )


def _departure(machine: Machine, services: list[Service], groups: list[_Group]) -> Departure:
    group = min(groups, key=lambda one: len(one.works))
    alone = len(group.works) == 1
    reason = (
        "no request came for it"
        if alone
        else f"{len(group.works)} ran in {machine.region}, and {group.busy} of them had enough to do"
    )
    return Departure(machine, all(service.autostop == "suspend" for service in services), alone, reason)
