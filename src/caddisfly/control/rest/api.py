"""The API put together: the routers by noun, behind one gate."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI, Response
from fastapi.routing import APIRoute
from starlette.types import ASGIApp

from caddisfly import __version__
from caddisfly.control.control import Control
from caddisfly.control.rest import (
    apps,
    attach,
    builds,
    deploy_tokens,
    failures,
    images,
    leases,
    logs,
    machine_actions,
    machine_memory,
    machine_records,
    machines,
    orgs,
    pending,
    platform,
    releases,
    scales,
    secrets,
    tokens,
    wire,
)
from caddisfly.control.rest.encoding import Encoder
from caddisfly.control.rest.gate import Gate

_ABOUT = (
    "Machines, apps and logs, as Fly.io's Machines API has them. Send `Authorization: Bearer <token>`. "
    "Every reply carries `fly-request-id`; every error is `{error, status?, why?, next?}`."
)


def routes(control: Control, *, lifespan: Any = None) -> FastAPI:
    """The routes without the gate, for those who want to look at them."""
    app = FastAPI(
        title="Caddisfly Machines API",
        version=__version__,
        description=_ABOUT,
        openapi_url="/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan,
        generate_unique_id_function=_operation_id,
    )
    app.state.control = control
    app.state.encoder = Encoder(control.machines.host_status)
    failures.install(app)
    for module in (
        apps,
        deploy_tokens,
        machines,
        images,
        machine_actions,
        attach,
        machine_records,
        machine_memory,
        leases,
        orgs,
        platform,
        releases,
        scales,
        secrets,
        tokens,
        logs,
        builds,
        pending,
    ):
        app.include_router(module.router)
    app.add_api_route("/v1/openapi.json", lambda: wire.reply(app.openapi()), include_in_schema=False)
    app.add_api_route("/healthz", _healthy, include_in_schema=False)
    return app


def build(control: Control, *, lifespan: Any = None) -> ASGIApp:
    """The whole API."""
    settings = control.settings
    inner = routes(control, lifespan=lifespan)
    return Gate(inner, region=settings.region, max_body_bytes=settings.max_body_bytes)


async def _healthy() -> Response:
    """This process serves. Whether the bus and the database do is told by what needs them."""
    return wire.reply({"ok": True})


def _operation_id(route: APIRoute) -> str:
    return route.name
