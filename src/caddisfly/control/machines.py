"""Machines as control sees them: read from the copy of the catalog, changed by asking their host.

A change is answered once this process's own copy has it, so that whoever reads next, here, sees it. What cannot be
done is said before anything was done (503); once a host may have acted, no answer invites a blind repetition: clients
send the same call again on 502 and 503 (reference machines-api, part 6).
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

from nats.errors import NoRespondersError
from pydantic import BaseModel

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import Projection
from caddisfly.bus.rpc import BusCaller, Method
from caddisfly.control.hosts import UNREACHABLE, Hosts
from caddisfly.control.placement.market import Market, nobody
from caddisfly.control.records.apps import Apps
from caddisfly.control.records.creations import Creation, Creations
from caddisfly.control.secrets import Safe
from caddisfly.model import ids, states
from caddisfly.model.app import App
from caddisfly.model.config import Config
from caddisfly.model.errors import (
    Aborted,
    AlreadyExists,
    DeadlineExceeded,
    Exhausted,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    Unavailable,
    Unprocessable,
)
from caddisfly.model.machine import Machine, MachineRequest

Request = TypeVar("Request", bound=BaseModel)
Reply = TypeVar("Reply", bound=BaseModel)

_NAME_TRIES = 20


@dataclass(frozen=True, slots=True)
class Key:
    """What a client calls this very create, and what it asked for under that name."""

    text: str
    fingerprint: str


@dataclass(frozen=True, slots=True)
class _Order:
    """A Machine to be made, whoever will make it."""

    app: App
    request: MachineRequest
    name: str
    owner: str
    secrets: contract.SecretSet | None


class Machines:
    """All Machines of all apps; callers have checked already that the app is within reach."""

    def __init__(
        self,
        *,
        bus: Bus,
        projection: Projection,
        hosts: Hosts,
        market: Market,
        apps: Apps,
        creations: Creations,
        safe: Safe,
        settle_s: float,
    ) -> None:
        self._bus, self._projection, self._hosts, self._market = bus, projection, hosts, market
        self._apps, self._creations, self._safe, self._settle_s = apps, creations, safe, settle_s
        self._names: set[tuple[str, str]] = set()
        self._keys: set[tuple[str, str]] = set()
        self._creates: Counter[str] = Counter()
        self._created = asyncio.Event()

    def of(self, app: App) -> dict[str, Machine]:
        """By id, destroyed ones that are still readable included. Raises `Unavailable` before the first full copy."""
        return self._known().machines_of(app.id)

    def of_organization(self, org_id: str) -> list[Machine]:
        """Of all its apps. Raises `Unavailable` before the first full copy."""
        return [machine for machine in self._known().machines.values() if machine.org_id == org_id]

    def _known(self) -> Projection:
        if not self._projection.ready.is_set():
            raise Unavailable("machines are not known yet", why="the catalog was not read so far", next="caddis status")
        return self._projection

    def find(self, app: App, machine_id: str) -> Machine:
        """Raises `NotFound`, also for a Machine of another app."""
        machine = self.of(app).get(machine_id)
        if machine is None:
            raise machine_not_found()
        return machine

    def check_standbys(self, app_id: str, config: Config, *, of: Machine | None = None) -> None:
        """Raises `InvalidArgument` for a config that stands by for what is not there.

        `of` is the Machine that gets it. What it stands by for already may be gone: an update need not care.
        """
        known = self._known().machines_of(app_id)
        for number, id in enumerate(config.standbys):
            machine = known.get(id)
            itself = of is not None and id == of.id
            if of is not None and id in of.config.standbys and not itself:
                continue
            if machine is None or not machine.alive or itself:
                raise InvalidArgument(
                    f"invalid config.standbys[{number}], the app has no other machine {id}",
                    next="name the ids of Machines to stand by for; caddis machine list",
                )

    def host_status(self, machine: Machine) -> str:
        return self._hosts.status(machine.host_id)

    async def ask(
        self, host_id: str, method: Method[Request, Reply], request: Request, *, timeout_s: float = 0
    ) -> Reply:
        """Call a host. `Unavailable` means that it was not reached; any doubt about that is `DeadlineExceeded`."""
        if self._hosts.status(host_id) == UNREACHABLE:
            raise Unavailable(
                f"host {host_id} does not answer", why="no heartbeat of it was heard lately", next="caddis status"
            )
        caller = BusCaller(self._bus, contract.host_prefix(host_id))
        try:
            return await caller.call(method, request, timeout_s=timeout_s)
        except Unavailable as error:
            if error.__cause__ is None or isinstance(error.__cause__, NoRespondersError):
                raise
            raise DeadlineExceeded(
                f"the connection to host {host_id} was lost during {method.name}",
                why="whether it acted is not known",
                next="look at the machine before you repeat the call",
            ) from error

    async def change(self, machine: Machine, method: Method[Request, Reply], request: Request) -> Reply:
        """Call the Machine's host, and wait until this process's copy has the change."""
        reply = await self.ask(machine.host_id, method, request)
        if isinstance(reply, contract.MachineReply):
            await self._projection.wait_for(reply.revision, timeout_s=self._settle_s)
        return reply

    async def create(self, app: App, request: MachineRequest, *, owner: str = "", key: Key | None = None) -> Machine:
        """Find a host and make the Machine there. With a `key`, repeating the call makes no second one."""
        self._bus.client  # noqa: B018 # without a bus, say so before anything is done
        self.check_standbys(app.id, request.config)
        with self._under_way(app, key):
            if (await self._apps.find(app.name)).deleting:
                raise FailedPrecondition(f"app {app.name} is being deleted")
            secrets = await self.secrets(app.id, request)
            creation = None
            if key is not None:
                creation = await self._creations.claim(app.id, key.text, fingerprint=key.fingerprint)
                if (first := self.of(app).get(creation.machine_id)) is not None:
                    return first
            with self._name(app, request.name) as name:
                order = _Order(app, request, name, owner, secrets)
                return await self._place(order, creation=creation)

    async def secrets(self, app_id: str, request: MachineRequest) -> contract.SecretSet | None:
        """Those that a Machine gets with this request. Raises `FailedPrecondition` for a set that is not there."""
        return await self._safe.for_machine(app_id, skip=request.skip_secrets, at_least=request.min_secrets_version)

    async def quiet(self, app: App) -> None:
        """Wait until no create of this app is under way in this process."""
        while self._creates[app.id]:
            self._created.clear()
            await self._created.wait()

    async def _place(self, order: _Order, *, creation: Creation | None) -> Machine:
        machine_id = creation.machine_id if creation else ids.machine_id()
        refusals: list[str] = []
        if creation is not None and creation.host_id:
            # It may have made it on the first call: nobody else is asked before it has answered.
            try:
                return await self._create_at(creation.host_id, order, machine_id=machine_id)
            except (Aborted, Exhausted) as refusal:
                refusals.append(str(refusal))
        request = order.request
        offers = await self._market.offers(
            app_id=order.app.id,
            org_slug=order.app.organization.slug,
            config=request.config,
            region=request.region,
        )
        refusals += offers.refusals
        # A standby on the host that is lost is none.
        known = self.of(order.app)
        beside = {known[id].host_id for id in request.config.standbys if id in known}
        for bid in sorted(offers.bids, key=lambda bid: bid.host_id in beside):
            if creation is not None:
                creation = await self._creations.assign(creation, bid.host_id)
            try:
                return await self._create_at(bid.host_id, order, machine_id=machine_id)
            except (Aborted, Exhausted, Unavailable) as refusal:
                if refusal.status.startswith("registry"):
                    # The image cannot be had, wherever one asks from: "no host" would hide the cause.
                    raise Unprocessable(
                        refusal.what, why=refusal.why, next=refusal.next, status=refusal.status
                    ) from refusal
                refusals.append(str(refusal))
        raise nobody(refusals)

    async def _create_at(self, host_id: str, order: _Order, *, machine_id: str) -> Machine:
        host = self._projection.hosts.get(host_id)
        app, request = order.app, order.request
        call = contract.CreateMachine(
            machine_id=machine_id,
            app=contract.AppRecord(
                id=app.id,
                name=app.name,
                org_id=app.organization.id,
                org_slug=app.organization.slug,
                network_id=app.network_id,
            ),
            name=order.name,
            config=dict(request.config.wire),
            region=host.region if host else request.region,
            skip_launch=request.skip_launch,
            skip_service_registration=request.skip_service_registration,
            lease_ttl_s=request.lease_ttl_s,
            owner=order.owner,
            secrets=order.secrets,
            isolation=self._market.isolation(app.organization.slug),
        )
        reply = await self.ask(host_id, contract.CREATE_MACHINE, call)
        await self._projection.wait_for(reply.revision, timeout_s=self._settle_s)
        return Machine.from_record(reply.record)

    @contextmanager
    def _under_way(self, app: App, key: Key | None) -> Iterator[None]:
        claim = (app.id, key.text) if key else None
        if claim in self._keys:
            raise Aborted("another request with this Idempotency-Key is under way", next="try again")
        if claim:
            self._keys.add(claim)
        self._creates[app.id] += 1
        try:
            yield
        finally:
            self._creates[app.id] -= 1
            if not self._creates[app.id]:
                del self._creates[app.id]
                self._created.set()
            if claim:
                self._keys.discard(claim)

    @contextmanager
    def _name(self, app: App, wanted: str) -> Iterator[str]:
        """Hold a name that no living Machine of the app has, while its Machine is being made."""
        taken = {machine.name: machine.id for machine in self.of(app).values() if machine.state != states.DESTROYED}
        name = wanted or next(
            candidate
            for candidate in (ids.generated_name() for _ in range(_NAME_TRIES * (1 + len(taken))))
            if candidate not in taken and (app.id, candidate) not in self._names
        )
        if name in taken:
            raise AlreadyExists(
                f'unique machine name violation, machine ID {taken[name]} already exists with name "{name}"'
            )
        if (app.id, name) in self._names:
            raise Aborted(f'another request is creating a machine with name "{name}"', next="try again")
        self._names.add((app.id, name))
        try:
            yield name
        finally:
            self._names.discard((app.id, name))


def machine_not_found() -> NotFound:
    return NotFound("machine not found", next="caddis machine list")
