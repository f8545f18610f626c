"""Machines of a whole organization, page by page (reference machines-api, 1.16)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Response

from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Caller, Parts
from caddisfly.control.rest.selection import Selected
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import Machine, rfc3339

router = APIRouter(prefix="/v1/orgs/{org}", tags=["organizations"], responses=shapes.ERRORS)

_PAGE_MAX = 1000


@router.get(
    "/machines", name="Machines_org_list", responses=shapes.gives(shapes.OrganizationMachines), response_model=None
)
async def list_machines(
    caller: Caller,
    control: Parts,
    org: Annotated[str, Path(description="Slug of the organization")],
    selected: Selected,
    updated_after: Annotated[str, Query(description="RFC 3339.")] = "",
    cursor: Annotated[str, Query(description="`next_cursor` of the page before.")] = "",
    limit: Annotated[str, Query(description="At most 1000.")] = "",
) -> Response:
    """Oldest change first, so that who reads on from a cursor misses nothing that changes meanwhile."""
    organization = caller.organization(org)
    count = wire.whole(limit, "limit", default=_PAGE_MAX)
    if count < 1:
        raise InvalidArgument(f"invalid limit, must be at least 1, got {count}")
    after = max(_cursor(cursor), (_moment(updated_after), "\uffff") if updated_after else (-1, ""))
    found = [
        machine
        for machine in control.machines.of_organization(organization.id)
        if selected.takes(machine)
        and _place(machine) > after
        and caller.reaches(org_id=organization.id, app_id=machine.app_id)
    ]
    found.sort(key=_place)
    page = found[: min(count, _PAGE_MAX)]
    last = page[-1] if page else None
    more = len(found) > len(page) and last is not None
    return wire.reply(
        {
            "machines": [_summary(machine) for machine in page],
            "next_cursor": f"{last.updated_ms}-{last.id}" if more and last else "",
            "last_machine_id": last.id if last else "",
            "last_updated_at": rfc3339(last.updated_ms) if last else "",
            "error_regions": [],
        }
    )


def _place(machine: Machine) -> tuple[int, str]:
    return (machine.updated_ms, machine.id)


def _summary(machine: Machine) -> dict[str, Any]:
    config = machine.config.wire
    return {
        "app_name": machine.app_name,
        "id": machine.id,
        "name": machine.name,
        "state": machine.state,
        "region": machine.region,
        "private_ip": machine.private_ip,
        "version": machine.instance_id,
        "config": {name: config[name] for name in ("guest", "image", "metadata") if name in config},
        "created_at": rfc3339(machine.created_ms),
        "updated_at": rfc3339(machine.updated_ms),
    }


def _cursor(text: str) -> tuple[int, str]:
    if not text:
        return (-1, "")
    moment, dash, id = text.partition("-")
    if not dash or not moment.isascii() or not moment.isdecimal() or len(moment) > 18:
        raise InvalidArgument(f"invalid cursor {text[:60]!r}", next="send the next_cursor of the page before")
    return (int(moment), id)


def _moment(text: str) -> int:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidArgument(f"invalid updated_after {text[:60]!r}", next="send RFC 3339") from error
    if moment.tzinfo is None:
        raise InvalidArgument(f"invalid updated_after {text[:60]!r}, it has no zone", next="end it with Z")
    return int(moment.timestamp() * 1000)
