"""Leases (reference machines-api, M17). Answers are envelopes: `{"status", "data"}` or `{"status", "message"}`."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from caddisfly.bus import contract
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.failures import response as failure
from caddisfly.control.rest.reach import Caller, LeaseNonce, Parts, ThisMachine
from caddisfly.model.errors import Aborted
from caddisfly.model.lease import Lease, clamped
from caddisfly.model.machine import Machine

router = APIRouter(prefix="/v1/apps/{app}/machines/{machine}/lease", tags=["machine leases"], responses=shapes.ERRORS)

_REPLIES = shapes.gives(shapes.LeaseEnvelope)


@router.get("", name="Machines_show_lease", responses=_REPLIES, response_model=None)
async def show_lease(machine: ThisMachine, control: Parts) -> Response:
    """With its nonce: whoever may change the app may end a lease that somebody left behind, as flyctl does."""
    answer = await control.machines.ask(
        machine.host_id, contract.SHOW_LEASE, contract.MachineCall(machine_id=machine.id)
    )
    return _envelope(machine, Lease.from_record(answer.lease))


@router.post(
    "",
    name="Machines_create_lease",
    responses=shapes.gives(shapes.LeaseEnvelope, 201),
    response_model=None,
    openapi_extra=shapes.takes(shapes.LeaseBody),
)
async def take_lease(
    request: Request,
    caller: Caller,
    machine: ThisMachine,
    control: Parts,
    ttl: Annotated[str, Query(description="Seconds, if the body does not say.")] = "",
    nonce: LeaseNonce = "",
) -> Response:
    """Acquire; or refresh, with the nonce."""
    body = await wire.read(request, shapes.LeaseBody)
    call = contract.TakeLease(
        machine_id=machine.id,
        nonce=nonce,
        owner=caller.name,
        ttl_s=clamped(body.ttl or wire.whole(ttl, "ttl", default=0)),
        description=body.description,
    )
    try:
        answer = await control.machines.change(machine, contract.TAKE_LEASE, call)
    except Aborted as conflict:
        return _conflict(conflict)
    after = Machine.from_record(answer.record)
    assert after.lease is not None
    return _envelope(after, after.lease, status=201)


@router.delete("", name="Machines_release_lease", responses=_REPLIES, response_model=None)
async def release_lease(machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    call = contract.MachineCall(machine_id=machine.id, nonce=nonce)
    try:
        await control.machines.change(machine, contract.RELEASE_LEASE, call)
    except Aborted as conflict:
        return _conflict(conflict)
    return wire.reply({"status": "success", "data": {"ok": True}})


def _envelope(machine: Machine, lease: Lease, *, status: int = 200) -> Response:
    return wire.reply({"status": "success", "data": lease.to_wire(version=machine.instance_id)}, status)


def _conflict(problem: Aborted) -> Response:
    return failure(problem, more={"status": "error", "message": problem.what})
