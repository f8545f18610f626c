"""What is written about a machine, and what runs in it: metadata, cordon, versions, ps (reference M13 to M18)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from caddisfly.bus import contract
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import AnyMachine, LeaseNonce, MetadataKey, Parts, ThisMachine
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.metadata import check_changes, value_of

router = APIRouter(prefix="/v1/apps/{app}/machines/{machine}", tags=["machines"], responses=shapes.ERRORS)

_SORTS = ("pid", "stime", "rtime", "command", "directory", "cpu", "rss")
_DONE: dict[int | str, dict[str, Any]] = {204: {"description": "Done"}}


@router.post("/cordon", name="Machines_cordon", responses=shapes.gives(shapes.OkReply), response_model=None)
async def cordon_machine(machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    """No traffic from the edge, and no request wakes it. It runs on."""
    call = contract.CordonMachine(machine_id=machine.id, nonce=nonce, cordoned=True)
    await control.machines.change(machine, contract.CORDON_MACHINE, call)
    return wire.reply({"ok": True})


@router.post("/uncordon", name="Machines_uncordon", responses=shapes.gives(shapes.OkReply), response_model=None)
async def uncordon_machine(machine: ThisMachine, control: Parts, nonce: LeaseNonce = "") -> Response:
    call = contract.CordonMachine(machine_id=machine.id, nonce=nonce, cordoned=False)
    await control.machines.change(machine, contract.CORDON_MACHINE, call)
    return wire.reply({"ok": True})


@router.get(
    "/versions",
    name="Machines_list_versions",
    responses=shapes.gives(list[shapes.VersionReply]),
    response_model=None,
)
async def list_versions(machine: AnyMachine, control: Parts) -> Response:
    """Newest first."""
    call = contract.MachineCall(machine_id=machine.id)
    answer = await control.machines.ask(machine.host_id, contract.LIST_VERSIONS, call)
    return wire.reply(list(answer.versions))


@router.get(
    "/ps",
    name="Machines_list_processes",
    responses=shapes.gives(list[shapes.ProcessReply]),
    response_model=None,
)
async def list_processes(
    machine: ThisMachine,
    control: Parts,
    sort_by: Annotated[str, Query(description=", ".join(_SORTS))] = "",
    order: Annotated[str, Query(description="asc or desc.")] = "",
) -> Response:
    if sort_by and sort_by not in _SORTS:
        raise InvalidArgument(f"invalid sort_by, must be one of {', '.join(_SORTS)}, got {sort_by!r}")
    if order not in ("", "asc", "desc"):
        raise InvalidArgument(f"invalid order, must be asc or desc, got {order!r}")
    call = contract.MachineCall(machine_id=machine.id)
    answer = await control.machines.ask(machine.host_id, contract.LIST_PROCESSES, call)
    found = sorted(answer.processes, key=lambda process: process[sort_by or "pid"], reverse=order == "desc")
    return wire.reply(found)


@router.get("/metadata", name="Machines_show_metadata", responses=shapes.gives(dict[str, str]), response_model=None)
async def show_metadata(machine: AnyMachine) -> Response:
    return wire.reply(dict(machine.config.metadata))


@router.put(
    "/metadata",
    name="Machines_put_metadata",
    status_code=204,
    responses=_DONE,
    response_model=None,
    openapi_extra=shapes.takes(shapes.MetadataBody),
)
@router.patch(
    "/metadata",
    name="Machines_patch_metadata",
    status_code=204,
    responses=_DONE,
    response_model=None,
    openapi_extra=shapes.takes(shapes.MetadataBody),
)
async def merge_metadata(request: Request, machine: ThisMachine, control: Parts) -> Response:
    """Both merge: named keys are set, null or "" removes, others stay."""
    body = await wire.read(request, shapes.MetadataBody)
    return await _set(machine, control, body.metadata, machine_version=body.machine_version)


@router.get(
    "/metadata/{key}",
    name="Machines_show_metadata_key",
    responses=shapes.gives(shapes.MetadataValue),
    response_model=None,
)
async def show_metadata_key(machine: AnyMachine, key: MetadataKey) -> Response:
    return wire.reply({"value": value_of(machine.config.metadata, key)})


@router.post(
    "/metadata/{key}",
    name="Machines_set_metadata_key",
    status_code=204,
    responses=_DONE,
    response_model=None,
    openapi_extra=shapes.takes(shapes.MetadataValue),
)
async def set_metadata_key(request: Request, machine: ThisMachine, control: Parts, key: MetadataKey) -> Response:
    body = await wire.read(request, shapes.MetadataValue)
    return await _set(machine, control, {key: body.value})


@router.delete(
    "/metadata/{key}", name="Machines_delete_metadata_key", status_code=204, responses=_DONE, response_model=None
)
async def delete_metadata_key(machine: ThisMachine, control: Parts, key: MetadataKey) -> Response:
    """Also when it is not there."""
    return await _set(machine, control, {key: None})


async def _set(
    machine: ThisMachine, control: Parts, changes: Mapping[str, str | None], *, machine_version: str = ""
) -> Response:
    check_changes(machine.config.metadata, changes)
    call = contract.SetMetadata(machine_id=machine.id, metadata=dict(changes), machine_version=machine_version)
    await control.machines.change(machine, contract.SET_METADATA, call)
    return Response(status_code=204)
