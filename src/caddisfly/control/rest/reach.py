"""What a route may work with: each is checked for the caller before the route sees it."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Header, Path
from fastapi.requests import HTTPConnection

from caddisfly.control.auth.access import Access
from caddisfly.control.control import Control
from caddisfly.control.machines import machine_not_found
from caddisfly.model import states
from caddisfly.model.app import App
from caddisfly.model.machine import Machine


async def parts(request: HTTPConnection) -> Control:
    """A coroutine, because what is not one is called in a thread, for each request. Also of a WebSocket."""
    control: Control = request.app.state.control
    return control


Parts = Annotated[Control, Depends(parts)]


async def authenticated(request: HTTPConnection, control: Parts) -> Access:
    """Raises `Unauthenticated` (401)."""
    return await control.verifier.verify(request.headers.get("authorization", ""))


Caller = Annotated[Access, Depends(authenticated)]


async def app_within(caller: Caller, control: Parts, app: Annotated[str, Path(description="Name of the app")]) -> App:
    """Raises `NotFound` for a free name, `PermissionDenied` for an app of others."""
    return caller.check((await control.apps.find(app)).app)


ThisApp = Annotated[App, Depends(app_within)]


async def machine_within(
    app: ThisApp, control: Parts, machine: Annotated[str, Path(description="Id of the machine")]
) -> Machine:
    """Raises `NotFound`, alike for a machine that is not there and for one of another app."""
    return control.machines.find(app, machine)


AnyMachine = Annotated[Machine, Depends(machine_within)]
"""Also one that is destroyed: it stays readable for a while."""


async def living_machine(machine: AnyMachine) -> Machine:
    if machine.state == states.DESTROYED:
        raise machine_not_found()
    return machine


ThisMachine = Annotated[Machine, Depends(living_machine)]

LeaseNonce = Annotated[
    str, Header(alias="fly-machine-lease-nonce", max_length=200, description="Nonce of the lease that one holds")
]
MetadataKey = Annotated[str, Path(description="Key of a metadata entry")]
