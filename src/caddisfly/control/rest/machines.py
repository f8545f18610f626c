"""Machines: create, read, update, destroy (reference machines-api, M1 to M5 and M14)."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Header, Query, Request, Response

from caddisfly.bus import contract
from caddisfly.control.machines import Key
from caddisfly.control.records.creations import fingerprint
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.encoding import Encoder
from caddisfly.control.rest.reach import AnyMachine, Caller, LeaseNonce, Parts, ThisApp, ThisMachine
from caddisfly.control.rest.selection import Selected
from caddisfly.model.config import Config
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.lease import clamped
from caddisfly.model.machine import Machine, MachineRequest

router = APIRouter(prefix="/v1/apps/{app}/machines", tags=["machines"], responses=shapes.ERRORS)

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
_METADATA = "metadata."
_EVENTS_DEFAULT, _EVENTS_MAX = 20, 50
_IncludeLeases = Annotated[str, Query(description="true adds `lease`, without its nonce.")]


def show(machine: Machine, request: Request, *, with_nonce: bool = False, with_lease: bool = False) -> Response:
    encoder: Encoder = request.app.state.encoder
    return encoder.machine(machine, with_nonce=with_nonce, with_lease=with_lease)


@router.get("", name="Machines_list", responses=shapes.gives(list[shapes.MachineObject]), response_model=None)
async def list_machines(
    request: Request,
    app: ThisApp,
    control: Parts,
    selected: Selected,
    summary: Annotated[str, Query(description="true leaves config, events and checks out.")] = "",
    include_leases: _IncludeLeases = "",
) -> Response:
    """`metadata.<key>=<value>`, any number of times, selects by metadata. Unknown parameters are ignored."""
    short = wire.flag(summary, "summary")
    metadata = [
        (name.removeprefix(_METADATA), value)
        for name, value in request.query_params.multi_items()
        if name.startswith(_METADATA)
    ]
    found = [
        machine
        for machine in control.machines.of(app).values()
        if selected.takes(machine) and all(machine.config.metadata.get(name) == value for name, value in metadata)
    ]
    found.sort(key=lambda machine: (machine.created_ms, machine.id))
    encoder: Encoder = request.app.state.encoder
    leases = wire.flag(include_leases, "include_leases")
    return encoder.summaries(found, with_lease=leases) if short else encoder.list(found, with_lease=leases)


@router.post(
    "",
    name="Machines_create",
    responses=shapes.gives(shapes.MachineObject),
    response_model=None,
    openapi_extra=shapes.takes(shapes.LaunchMachine),
)
async def create_machine(
    request: Request,
    caller: Caller,
    app: ThisApp,
    control: Parts,
    idempotency_key: Annotated[str, Header(max_length=200, description="The same key makes the same machine.")] = "",
) -> Response:
    wanted = await _launch(request)
    await control.repositories.check_images(wanted.config, org_id=app.organization.id)
    key = None
    if idempotency_key:
        key = Key(idempotency_key, fingerprint(await wire.read_object(request)))
    machine = await control.machines.create(app, wanted, owner=caller.name, key=key)
    return show(machine, request, with_nonce=bool(wanted.lease_ttl_s))


@router.get("/{machine}", name="Machines_show", responses=shapes.gives(shapes.MachineObject), response_model=None)
async def show_machine(request: Request, machine: AnyMachine, include_leases: _IncludeLeases = "") -> Response:
    """One that is destroyed is still shown for a while: the exit code of a release command is read this way."""
    return show(machine, request, with_lease=wire.flag(include_leases, "include_leases"))


@router.post(
    "/{machine}",
    name="Machines_update",
    responses=shapes.gives(shapes.MachineObject),
    response_model=None,
    openapi_extra=shapes.takes(shapes.LaunchMachine),
)
async def update_machine(
    request: Request, caller: Caller, machine: ThisMachine, control: Parts, nonce: LeaseNonce = ""
) -> Response:
    """`config` replaces the old one whole. Name and region do not change: what is sent for them is ignored."""
    wanted = await _launch(request)
    await control.repositories.check_images(wanted.config, org_id=machine.org_id, unless=machine.config)
    control.machines.check_standbys(machine.app_id, wanted.config, of=machine)
    call = contract.UpdateMachine(
        machine_id=machine.id,
        nonce=nonce,
        lease_ttl_s=wanted.lease_ttl_s,
        owner=caller.name,
        config=dict(wanted.config.wire),
        current_version=wanted.current_version,
        skip_launch=wanted.skip_launch,
        skip_service_registration=wanted.skip_service_registration,
        secrets=await control.machines.secrets(machine.app_id, wanted),
    )
    answer = await control.machines.change(machine, contract.UPDATE_MACHINE, call)
    return show(Machine.from_record(answer.record), request, with_nonce=bool(wanted.lease_ttl_s))


@router.delete("/{machine}", name="Machines_delete", responses=shapes.gives(shapes.OkReply), response_model=None)
async def delete_machine(
    machine: ThisMachine,
    control: Parts,
    force: Annotated[str, Query(description="true also destroys one that runs.")] = "",
    kill: Annotated[str, Query(description="The same as force.")] = "",
    nonce: LeaseNonce = "",
) -> Response:
    forced = wire.flag(force, "force") | wire.flag(kill, "kill")
    call = contract.DestroyMachine(machine_id=machine.id, nonce=nonce, force=forced)
    await control.machines.change(machine, contract.DESTROY_MACHINE, call)
    return wire.reply({"ok": True})


@router.get(
    "/{machine}/events",
    name="Machines_list_events",
    responses=shapes.gives(list[shapes.EventReply]),
    response_model=None,
)
async def list_events(machine: AnyMachine, limit: str = "") -> Response:
    """Newest first."""
    count = wire.whole(limit, "limit", default=_EVENTS_DEFAULT)
    if not 1 <= count <= _EVENTS_MAX:
        raise InvalidArgument(f"invalid limit, must be from 1 to {_EVENTS_MAX}, got {count}")
    return wire.reply([event.to_wire() for event in machine.events[:count]])


async def _launch(request: Request) -> MachineRequest:
    body = await wire.read(request, shapes.LaunchMachine)
    if body.name and not _NAME.fullmatch(body.name):
        raise InvalidArgument(
            f"invalid name {body.name!r}", next="use letters, digits, dashes, dots and underscores, at most 128"
        )
    return MachineRequest(
        config=Config.parse(body.config),
        name=body.name,
        region=body.region,
        skip_launch=body.skip_launch,
        skip_service_registration=body.skip_service_registration,
        current_version=body.current_version,
        lease_ttl_s=clamped(body.lease_ttl) if body.lease_ttl else 0,
        skip_secrets=body.skip_secrets,
        min_secrets_version=body.min_secrets_version,
    )
