"""Apps (reference machines-api, 1.9)."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response

from caddisfly.control.control import Control
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Caller, Parts, ThisApp
from caddisfly.model import states
from caddisfly.model.app import App
from caddisfly.model.errors import InvalidArgument

router = APIRouter(prefix="/v1/apps", tags=["apps"], responses=shapes.ERRORS)


def to_wire(app: App, control: Control) -> dict[str, Any]:
    """With the number of its machines, as far as this process knows them: an app can be read without the bus.

    `url` is where people open it, if it has services; it is not Fly's.
    """
    machines = control.projection.machines_of(app.id).values()
    count = sum(machine.state != states.DESTROYED for machine in machines)
    url = control.settings.apps_public_url.replace("<app>", app.name)
    return {**app.to_wire(machine_count=count, status="deployed" if count else "pending"), "url": url}


@router.get("", name="Apps_list", responses=shapes.gives(shapes.AppsReply), response_model=None)
async def list_apps(
    caller: Caller,
    control: Parts,
    org_slug: Annotated[str, Query(description="Required.")] = "",
    app_role: Annotated[str | None, Query()] = None,
) -> Response:
    if not org_slug:
        raise InvalidArgument("missing org_slug", next="add ?org_slug=personal")
    organization = caller.organization(org_slug)
    found = await control.apps.of_organization(organization.id, app_role=app_role)
    apps = [app for app in found if caller.reaches(org_id=organization.id, app_id=app.id)]
    return wire.reply({"total_apps": len(apps), "apps": [to_wire(app, control) for app in apps]})


@router.post(
    "",
    name="Apps_create",
    status_code=201,
    responses=shapes.gives(shapes.AppReply, 201),
    response_model=None,
    openapi_extra=shapes.takes(shapes.CreateApp),
)
async def create_app(request: Request, caller: Caller, control: Parts) -> Response:
    body = await wire.read(request, shapes.CreateApp)
    if not body.org_slug:
        raise InvalidArgument("missing org_slug", next='send {"org_slug": "personal"}')
    app = await control.apps.create(
        body.name or body.app_name,
        organization=caller.whole_organization(body.org_slug),
        network=body.network,
        app_role=body.app_role_id[:63],
        idempotency_key=body.idempotency_key,
    )
    await control.publication.put(app)
    return wire.reply({**to_wire(app, control), "created_at": app.created_ms}, 201)


@router.get("/{app}", name="Apps_show", responses=shapes.gives(shapes.AppReply), response_model=None)
async def show_app(app: ThisApp, control: Parts) -> Response:
    return wire.reply(to_wire(app, control))


@router.delete("/{app}", name="Apps_delete", status_code=202, response_class=Response, response_model=None)
async def delete_app(app: ThisApp, control: Parts) -> Response:
    """Machines that run are no obstacle: flyctl never asks with force, and expects it to work."""
    await control.deletion.delete(app)
    return Response(status_code=202)
