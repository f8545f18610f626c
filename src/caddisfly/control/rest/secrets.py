"""Secrets of an app (reference machines-api, S1). Lists have digests; values go one way, but for who may see them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response

from caddisfly.control.records.secrets import Secret, SecretSet
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Caller, Parts, ThisApp
from caddisfly.model.app import App
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import rfc3339

router = APIRouter(prefix="/v1/apps/{app}/secrets", tags=["secrets"], responses=shapes.ERRORS)

Name = Annotated[str, Path(description="Name of the secret")]
_Version = Annotated[str, Query(description="Refuse (412) when the newest set is older than this.")]
_Show = Annotated[str, Query(description="true shows values; it takes a token of the whole organization.")]


@router.get("", name="Secrets_list", responses=shapes.gives(shapes.SecretsReply), response_model=None)
async def list_secrets(
    app: ThisApp,
    caller: Caller,
    control: Parts,
    version: _Version = "",
    min_version: _Version = "",
    show_secrets: _Show = "",
) -> Response:
    found = await control.safe.of(app.id, at_least=_least(version, min_version))
    values = _values(app, found, caller, control, show_secrets)
    return wire.reply({"secrets": [_wire(secret, values) for secret in found.secrets]})


@router.get("/{name}", name="Secret_show", responses=shapes.gives(shapes.SecretReply), response_model=None)
async def show_secret(
    app: ThisApp,
    caller: Caller,
    control: Parts,
    name: Name,
    version: _Version = "",
    min_version: _Version = "",
    show_secrets: _Show = "",
) -> Response:
    found = await control.safe.of(app.id, at_least=_least(version, min_version))
    secret = found.named(name)
    return wire.reply(_wire(secret, _values(app, found, caller, control, show_secrets)))


@router.post(
    "",
    name="Secrets_update",
    responses=shapes.gives(shapes.SecretsReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.SecretValues),
)
async def change_secrets(request: Request, app: ThisApp, control: Parts) -> Response:
    """All of it or nothing, as one new version. null removes. Machines get it when they are created or updated."""
    raw = await wire.read_object(request)
    values = raw.get("values") or {}
    if not isinstance(values, dict):
        raise InvalidArgument("invalid values, must be an object of names and values")
    for name, value in values.items():
        if not isinstance(value, str | None):
            raise InvalidArgument(f"invalid value of {name[:60]}, must be text or null", next="send text")
    found = await control.safe.change(app, values)
    return wire.reply({"secrets": [_wire(secret, {}) for secret in found.secrets], "version": found.version})


@router.post(
    "/{name}",
    name="Secret_create",
    status_code=201,
    responses=shapes.gives(shapes.SecretReply, 201),
    response_model=None,
    openapi_extra=shapes.takes(shapes.SecretValue),
)
async def set_secret(request: Request, app: ThisApp, control: Parts, name: Name) -> Response:
    value = (await wire.read_object(request)).get("value")
    if not isinstance(value, str):
        raise InvalidArgument("invalid value, must be text", next='send {"value": "..."}')
    found = await control.safe.change(app, {name: value})
    return wire.reply({**_wire(found.named(name), {}), "version": found.version, "Version": found.version}, 201)


@router.delete("/{name}", name="Secret_delete", responses=shapes.gives(shapes.SecretVersionReply), response_model=None)
async def delete_secret(app: ThisApp, control: Parts, name: Name) -> Response:
    (await control.safe.of(app.id)).named(name)
    found = await control.safe.change(app, {name: None})
    return wire.reply({"version": found.version, "Version": found.version})


def _least(*given: str) -> int:
    return max(wire.whole(one, "version", default=0) for one in given)


def _values(app: App, found: SecretSet, caller: Caller, control: Parts, wanted: str) -> Mapping[str, str]:
    if not wire.flag(wanted, "show_secrets"):
        return {}
    caller.whole_organization(app.organization.slug)
    return control.safe.opened(app, found)


def _wire(secret: Secret, values: Mapping[str, str]) -> dict[str, Any]:
    wire_form = {
        "name": secret.name,
        "digest": secret.digest,
        "created_at": rfc3339(secret.created_ms),
        "updated_at": rfc3339(secret.updated_ms),
    }
    return wire_form | ({"value": values[secret.name]} if secret.name in values else {})
