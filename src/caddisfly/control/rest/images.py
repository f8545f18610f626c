"""Images by name: ours, Fly has it in its GraphQL."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query, Response

from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Parts, ThisApp
from caddisfly.model.errors import InvalidArgument

router = APIRouter(prefix="/v1/apps/{app}/image", tags=["images"], responses=shapes.ERRORS)


@router.get("", name="Image_resolve", responses=shapes.gives(shapes.ResolvedImage), response_model=None)
async def resolve_image(
    app: ThisApp,
    control: Parts,
    ref: Annotated[str, Query(max_length=1024, description="Required. As a config names it, such as nginx:1.27.")] = "",
) -> Response:
    """What a Machine of this app that is made now would run by this name: `reference` has its digest."""
    if not ref:
        raise InvalidArgument("missing ref", next="add ?ref=nginx:1.27")
    found = await control.images.resolve(app, ref)
    return wire.reply({**found.image, "reference": found.reference})
