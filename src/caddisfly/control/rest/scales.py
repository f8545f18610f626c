"""How many Machines each process group of an app should have: ours, Fly counts those that there are."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request, Response

from caddisfly.control.records.scales import Scale
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Parts, ThisApp

router = APIRouter(prefix="/v1/apps/{app}/scale", tags=["releases"], responses=shapes.ERRORS)


@router.get("", name="Scale_show", responses=shapes.gives(shapes.ScaleReply), response_model=None)
async def show_scale(app: ThisApp, control: Parts) -> Response:
    return wire.reply(_shown(await control.scales.of(app.id)))


@router.put(
    "",
    name="Scale_update",
    responses=shapes.gives(shapes.ScaleReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.ScaleBody),
)
async def change_scale(request: Request, app: ThisApp, control: Parts) -> Response:
    """Remembers, and changes no Machine. A group that is named is replaced whole, null forgets it, others stay."""
    body = await wire.read(request, shapes.ScaleBody)
    changes = {
        group: None if said is None else Scale(said.count, tuple(dict.fromkeys(said.regions)), said.max_per_region)
        for group, said in body.groups.items()
    }
    return wire.reply(_shown(await control.scales.change(app.id, changes)))


def _shown(scales: dict[str, Scale]) -> dict[str, Any]:
    return {
        "groups": {
            group: {"count": one.count, "regions": list(one.regions), "max_per_region": one.max_per_region}
            for group, one in scales.items()
        }
    }
