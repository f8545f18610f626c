"""The memory of a running machine: how much it may take, how much is left, taking some back (reference M19).

What is set here holds until the machine stops; its size for good is `config.guest`.
"""

from __future__ import annotations

from fastapi import APIRouter, Request, Response

from caddisfly.bus import contract
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import LeaseNonce, Parts, ThisMachine
from caddisfly.model.errors import InvalidArgument

router = APIRouter(prefix="/v1/apps/{app}/machines/{machine}/memory", tags=["machine memory"], responses=shapes.ERRORS)


@router.get("", name="Machines_show_memory", responses=shapes.gives(shapes.MemoryReply), response_model=None)
async def show_memory(machine: ThisMachine, control: Parts) -> Response:
    call = contract.MachineCall(machine_id=machine.id)
    answer = await control.machines.ask(machine.host_id, contract.SHOW_MEMORY, call)
    return wire.reply({"limit_mb": answer.limit_mb, "available_mb": answer.available_mb})


@router.put(
    "",
    name="Machines_set_memory",
    responses=shapes.gives(shapes.MemoryReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.MemoryBody),
)
async def set_memory(request: Request, machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    body = await wire.read(request, shapes.MemoryBody)
    most_mb = machine.config.guest.memory_mb
    if not 1 <= body.limit_mb <= most_mb:
        raise InvalidArgument(
            f"invalid limit_mb, must be from 1 to {most_mb}, got {body.limit_mb}",
            next="update config.guest.memory_mb for more",
        )
    call = contract.SetMemory(machine_id=machine.id, nonce=nonce, limit_mb=body.limit_mb)
    answer = await control.machines.ask(machine.host_id, contract.SET_MEMORY, call)
    return wire.reply({"limit_mb": answer.limit_mb, "available_mb": answer.available_mb})


@router.post(
    "/reclaim",
    name="Machines_reclaim_memory",
    responses=shapes.gives(shapes.ReclaimReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.ReclaimBody),
)
async def reclaim_memory(request: Request, machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    body = await wire.read(request, shapes.ReclaimBody)
    if body.amount_mb < 1:
        raise InvalidArgument(f"invalid amount_mb, must be at least 1, got {body.amount_mb}")
    call = contract.ReclaimMemory(machine_id=machine.id, nonce=nonce, amount_mb=body.amount_mb)
    answer = await control.machines.ask(machine.host_id, contract.RECLAIM_MEMORY, call)
    return wire.reply({"actual_mb": answer.actual_mb})
