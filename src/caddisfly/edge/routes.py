"""Routes: from a host name to the Machines that may answer, kept ready and thrown away when the catalog says so.

A route is looked up for each request, so it is built once and cached by host name. A change of any Machine of the app
drops it; candidates outlive it as long as their run does. What an agent answers to a wake is believed at once and until
the catalog is newer, so that waking works while the bus is down.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from contextlib import AbstractContextManager
from dataclasses import dataclass

from caddisfly.bus.catalog import AppEntry
from caddisfly.bus.projection import Projection
from caddisfly.edge.candidate import Candidate, fence_of, serves
from caddisfly.edge.leaving import Leaving
from caddisfly.edge.settings import EdgeSettings
from caddisfly.model import registry, states
from caddisfly.model.config import Config
from caddisfly.model.machine import ImageRef, Machine
from caddisfly.model.service import Service

_STARTABLE = states.STARTABLE | {states.CREATED, states.SUSPENDING}
"""A suspend that is under way is undone by a wake; waited for, it may take longer than a request is held."""
_ON_THE_WAY = frozenset(
    (
        states.STARTING,
        states.RESTARTING,
        states.REPLACING,
        states.UPDATING,
        states.STOPPING,
        states.SUSPENDING,
    )
)
_GONE = frozenset((states.DESTROYED,))
_CACHED_MAX = 10_000
_WAKE_ORDER = (states.STARTED, states.SUSPENDING, states.SUSPENDED, states.STOPPED, states.CREATED, states.FAILED)


@dataclass(frozen=True, slots=True)
class Route:
    """What is known of an app, seen from one external port."""

    entry: AppEntry
    candidates: tuple[Candidate, ...]
    """Those whose checks pass; when there is none of these, all."""
    startable: tuple[Machine, ...]
    """May be woken, best first: every request that needs a wake chooses the same one. Who leaves is among them."""
    on_the_way: tuple[Machine, ...]
    """In a state that will pass by itself."""
    rest: tuple[Machine, ...]
    """Serve the port, but not now, and nothing here can change that."""
    machines: int
    """How many Machines the app has, whatever they serve."""
    force_https: bool


class Routes:
    """The cache. One for each worker."""

    def __init__(self, *, projection: Projection, settings: EdgeSettings) -> None:
        self._projection, self._settings = projection, settings
        self._suffix = b"." + settings.apps_domain.lower().encode()
        self._by_host: dict[bytes, Route] = {}
        self._hosts_of_app: dict[str, set[bytes]] = {}
        self._candidates: dict[str, Candidate] = {}
        self._own = _own_routes(settings)
        self._learned: dict[str, Machine] = {}
        self._waiters: dict[str, set[asyncio.Future[None]]] = {}
        self._slots: dict[str, deque[asyncio.Future[None]]] = {}
        self._leaving = Leaving()
        self._lingering: set[Candidate] = set()
        """Retired, with requests that are still under way."""

    @property
    def ready(self) -> asyncio.Event:
        """Set once the catalog was read for the first time."""
        return self._projection.ready

    async def arrived(self, *, timeout_s: float) -> bool:
        """Wait until the catalog was read for the first time. False when that took too long."""
        return await self._projection.arrived(timeout_s=timeout_s)

    def listening(self) -> AbstractContextManager[None]:
        """Follow the catalog inside the block."""
        return self._projection.listening(self._on_change)

    def find(self, host: bytes) -> Route | None:
        """The route of a normalised host name, or None when no app has it."""
        route = self._by_host.get(host)
        if route is not None and self._projection.apps.get(route.entry.name) is route.entry:
            return route
        return self._build(host)

    def learn(self, machine: Machine) -> None:
        """Believe the owner's own word, until the catalog has a newer one."""
        known = self._projection.machines.get(machine.id)
        if known is None or known.updated_ms < machine.updated_ms:
            self._learned[machine.id] = machine
            self._refresh(machine)

    def candidates(self) -> list[Candidate]:
        return [*self._candidates.values(), *(one for route in self._own.values() for one in route.candidates)]

    def at_work(self) -> list[Candidate]:
        """Those of Machines, with those that are retired and not done yet."""
        return [*self._candidates.values(), *self._lingering]

    def under_way(self, run_id: str) -> int:
        """How much this worker has on a run."""
        return sum(one.load for one in self.at_work() if one.machine.run_id == run_id)

    def leave(self, machine_id: str, run_id: str, *, grant: str, now: float) -> None:
        """From now on a request for this run begins by asking its host."""
        self._leaving.begin(machine_id, run_id, grant=grant, now=now)
        self._reconsider(machine_id)

    def leaves(self, machine_id: str, grant: str) -> bool:
        """Whether it was let go for this grant, and nobody has needed it since."""
        return self._leaving.has(machine_id, grant)

    def stay(self, machine_id: str) -> None:
        """It does not leave: its host was asked, or whoever decided has called it off."""
        if self._leaving.end(machine_id):
            self._reconsider(machine_id)

    def must_ask(self, machine: Machine) -> bool:
        """Whether its host has to say first that it stays."""
        return machine in self._leaving

    def doubt(self) -> None:
        """A stop may be decided on that this worker was not asked about."""
        self._leaving.doubt()
        self._reconsider_all()

    def trust(self) -> None:
        """Every stop that is decided on from now on was agreed to by this worker."""
        self._leaving.trust()
        self._reconsider_all()

    def sweep(self, now: float) -> None:
        for machine_id in self._leaving.lapsed(now):
            self.stay(machine_id)
        self._lingering = {one for one in self._lingering if one.load}

    def _reconsider_all(self) -> None:
        for machine in list(self._projection.machines.values()):
            self._refresh(machine)

    def _reconsider(self, machine_id: str) -> None:
        machine = self._projection.machines.get(machine_id) or self._learned.get(machine_id)
        if machine is not None:
            self._refresh(machine)

    def _retire(self, candidate: Candidate) -> None:
        candidate.retire()
        if candidate.load:
            self._lingering.add(candidate)

    async def changed(self, app_id: str, *, timeout_s: float, or_room: bool = False) -> bool:
        """Wait until a Machine of the app changes (or has room for a request). False when the time was over."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        waiters = self._waiters.setdefault(app_id, set())
        waiters.add(future)
        if or_room:
            self._slots_of(app_id).append(future)
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await future
        except TimeoutError:
            return False
        finally:
            waiters.discard(future)
            if not waiters:
                self._waiters.pop(app_id, None)
        return True

    def _slots_of(self, app_id: str) -> deque[asyncio.Future[None]]:
        return self._slots.setdefault(app_id, deque())

    def _on_change(self, old: Machine | None, new: Machine | None) -> None:
        machine = new or old
        assert machine is not None
        learned = self._learned.get(machine.id)
        if learned is not None and (new is None or new.updated_ms >= learned.updated_ms):
            del self._learned[machine.id]
        self._refresh(machine, gone=new is None)

    def _refresh(self, machine: Machine, *, gone: bool = False) -> None:
        """Fence the old run now, not when the route is next built: its idle connections must not be used again."""
        current = None if gone else self._current(machine)
        candidate = self._candidates.get(machine.id)
        if candidate is not None:
            service = _service(current, self._settings.external_port) if current else None
            if (
                current is None
                or service is None
                or not serves(current)
                or candidate.fence != fence_of(current, self._address(current), service)
            ):
                del self._candidates[machine.id]
                self._retire(candidate)
        for host in self._hosts_of_app.pop(machine.app_id, ()):
            self._by_host.pop(host, None)
        for future in self._waiters.get(machine.app_id, ()):
            if not future.done():
                future.set_result(None)

    def _current(self, machine: Machine) -> Machine:
        known = self._projection.machines.get(machine.id, machine)
        learned = self._learned.get(machine.id)
        return learned if learned is not None and learned.updated_ms > known.updated_ms else known

    def _address(self, machine: Machine) -> str:
        return machine.ipv4 if machine.host_id == self._settings.host_id else machine.private_ip

    def _build(self, host: bytes) -> Route | None:
        if host in self._own:
            return self._own[host]
        if not host.endswith(self._suffix):
            return None
        name = host[: -len(self._suffix)].decode("ascii")
        entry = self._projection.apps.get(name)
        if entry is None:
            self._by_host.pop(host, None)
            return None
        route = self._route(entry)
        if len(self._by_host) >= _CACHED_MAX:
            self._by_host.clear()
            self._hosts_of_app.clear()
        self._by_host[host] = route
        self._hosts_of_app.setdefault(entry.id, set()).add(host)
        return route

    def _route(self, entry: AppEntry) -> Route:
        port = self._settings.external_port
        candidates: list[Candidate] = []
        startable: list[Machine] = []
        on_the_way: list[Machine] = []
        rest: list[Machine] = []
        force_https, count = False, 0
        for known in list(self._projection.machines_of(entry.id).values()):
            machine = self._current(known)
            if machine.state in _GONE:
                continue
            count += 1
            service = _service(machine, port)
            if service is None:
                continue
            external = service.http_port(port)
            force_https = force_https or (external is not None and external.force_https)
            if serves(machine):
                candidate = self._candidate(machine, service)
                if machine in self._leaving:
                    startable.append(machine)
                    on_the_way.append(machine)  # if its host cannot be asked now, it stays or goes by itself
                else:
                    candidates.append(candidate)
            elif machine.state in _STARTABLE and service.autostart and not machine.cordoned:
                startable.append(machine)
            elif machine.state in _ON_THE_WAY and not machine.cordoned:
                on_the_way.append(machine)
            else:
                rest.append(machine)
        startable.sort(key=self._wake_rank)
        return Route(
            entry=entry,
            candidates=tuple(_ready(candidates)),
            startable=tuple(startable),
            on_the_way=tuple(on_the_way),
            rest=tuple(rest),
            machines=count,
            force_https=force_https and self._settings.force_https,
        )

    def _candidate(self, machine: Machine, service: Service) -> Candidate:
        candidate = self._candidates.get(machine.id)
        address = self._address(machine)
        if candidate is None or candidate.fence != fence_of(machine, address, service):
            if candidate is not None:
                self._retire(candidate)
            candidate = Candidate(machine, address, service, self._slots_of(machine.app_id))
            self._candidates[machine.id] = candidate
        else:
            candidate.update(machine, service)
        candidate.near = machine.region == self._settings.region
        return candidate

    def _wake_rank(self, machine: Machine) -> tuple[bool, bool, bool, int, str]:
        return (
            machine.region != self._settings.region,
            machine.state != states.STARTED,
            machine.host_id != self._settings.host_id,
            _WAKE_ORDER.index(machine.state),
            machine.id,
        )


def _own_routes(settings: EdgeSettings) -> dict[bytes, Route]:
    """What the platform itself serves under a name of its own: the registry, as if it were a Machine's service."""
    if not settings.registry_address:
        return {}
    host, _, port = settings.registry_address.rpartition(":")
    address = host.strip("[]")
    machine = Machine(
        id=registry.APP,
        name=registry.APP,
        app_name=registry.APP,
        app_id=registry.APP,
        org_id="",
        org_slug="",
        network_id=0,
        host_id=settings.host_id,
        region=settings.region,
        state=states.STARTED,
        instance_id="",
        config=Config.parse({"image": registry.APP}),
        image=ImageRef(registry="", repository="", tag="", digest=""),
        private_ip=address,
        ipv4=address,
        created_ms=0,
        updated_ms=0,
    )
    service = Service(internal_port=int(port), autostart=False, concurrency_type="requests", soft_limit=sys.maxsize)
    entry = AppEntry(id=registry.APP, name=registry.APP, org_id="", org_slug="", network="", network_id=0)
    route = Route(
        entry=entry,
        candidates=(Candidate(machine, address, service, deque()),),
        startable=(),
        on_the_way=(),
        rest=(),
        machines=1,
        force_https=False,
    )
    return {registry.host_name(settings.apps_domain.lower()).encode(): route}


def _ready(candidates: list[Candidate]) -> list[Candidate]:
    """Unlike Fly, which holds requests then: one that may answer is better than none, and wakes need no check."""
    return [one for one in candidates if one.machine.ready(one.port)] or candidates


def _service(machine: Machine, port: int) -> Service | None:
    """The first service that speaks HTTP on this external port."""
    for service in machine.config.services:
        if service.protocol == "tcp" and service.http_port(port) is not None:
            return service
    return None
