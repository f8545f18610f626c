"""Tokens narrowed to one app, for CI and for other people (reference machines-api, A5).

Making one is Fly's call. Listing and revoking are ours: Fly has them in its GraphQL, and a token that cannot be taken
back should not be given away.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Request, Response

from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Caller, Parts, ThisApp
from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import rfc3339, wall_ms

router = APIRouter(prefix="/v1/apps/{app}", tags=["tokens"], responses=shapes.ERRORS)

_DEFAULT = "175200h"  # twenty years, as Fly has it: who wants less says so
_NAME = "flyctl deploy token"


@router.post(
    "/deploy_token",
    name="App_create_deploy_token",
    responses=shapes.gives(shapes.DeployTokenReply),
    response_model=None,
    openapi_extra=shapes.takes(shapes.DeployTokenBody),
)
async def create_deploy_token(request: Request, app: ThisApp, caller: Caller, control: Parts) -> Response:
    """It is shown this once, and ends no later than the token that asks for it. It is its maker's: who leaves the
    organization takes the tokens along."""
    body = await wire.read(request, shapes.DeployTokenBody)
    length = Duration.parse(body.expiry or _DEFAULT, field="expiry")
    if length <= 0:
        raise InvalidArgument(f"invalid expiry, must be longer than nothing, got {length}", next='send "24h"')
    maker = caller.lasting(app)
    ends_ms = wall_ms() + int(length) // 1_000_000
    id, secret = await control.accounts.create_token(
        name=body.name or _NAME,
        user_id=maker.user_id,
        org_id=app.organization.id,
        app_id=app.id,
        expires_ms=ends_ms if maker.expires_ms is None else min(ends_ms, maker.expires_ms),
    )
    return wire.reply({"token": f"FlyV1 {secret}", "id": id})


@router.get(
    "/deploy_tokens",
    name="App_list_deploy_tokens",
    responses=shapes.gives(shapes.DeployTokensReply),
    response_model=None,
)
async def list_deploy_tokens(app: ThisApp, control: Parts) -> Response:
    stored = await control.accounts.tokens_of_app(app.id)
    return wire.reply(
        {
            "tokens": [
                {
                    "id": token.id,
                    "name": token.name,
                    "prefix": token.prefix,
                    "user": token.user_email,
                    "created_at": rfc3339(token.created_ms),
                    "expires_at": _moment(token.expires_ms),
                    "last_used_at": _moment(token.last_used_ms),
                }
                for token in stored
            ]
        }
    )


@router.delete(
    "/deploy_tokens/{token}",
    name="App_revoke_deploy_token",
    responses=shapes.gives(shapes.OkReply),
    response_model=None,
)
async def revoke_deploy_token(
    app: ThisApp, control: Parts, token: Annotated[str, Path(description="Id of the token")]
) -> Response:
    """At once here, and at other controls when they look at it anew (`token_cache_s`)."""
    await control.accounts.revoke_token(token, app_id=app.id)
    control.verifier.forget(token)
    return wire.reply({"ok": True})


def _moment(ms: int | None) -> Any:
    return None if ms is None else rfc3339(ms)
