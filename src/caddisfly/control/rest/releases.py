"""Releases of an app. Fly has them in other APIs of its own; the members of a release are called as there."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Request, Response

from caddisfly.control.records.releases import STATUSES, TTL_DEFAULT_S, TTL_MAX_S, Change, Draft, Release
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Caller, Parts, ThisApp
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import rfc3339

router = APIRouter(prefix="/v1/apps/{app}/releases", tags=["releases"], responses=shapes.ERRORS)

STRATEGIES = ("ROLLING", "CANARY", "BLUEGREEN", "IMMEDIATE", "ROLLING_ONE", "SIMPLE")
_LIMIT_DEFAULT, _LIMIT_MAX = 25, 200
_Version = Annotated[str, Path(description="A number; `current`, the newest that is complete; `latest`, the newest.")]
_Number = Annotated[str, Path(alias="version", description="A number.")]


@router.get("", name="Releases_list", responses=shapes.gives(shapes.ReleasesReply), response_model=None)
async def list_releases(app: ThisApp, control: Parts, limit: str = "") -> Response:
    """Newest first."""
    count = wire.whole(limit, "limit", default=_LIMIT_DEFAULT)
    if not 1 <= count <= _LIMIT_MAX:
        raise InvalidArgument(f"invalid limit, must be from 1 to {_LIMIT_MAX}, got {count}")
    return wire.reply({"releases": [_shown(one) for one in await control.releases.of(app.id, limit=count)]})


@router.post(
    "",
    name="Releases_create",
    status_code=201,
    responses=shapes.gives(shapes.BegunRelease, 201),
    response_model=None,
    openapi_extra=shapes.takes(shapes.CreateRelease),
)
async def create_release(
    request: Request,
    app: ThisApp,
    caller: Caller,
    control: Parts,
    key: Annotated[str, Header(alias="idempotency-key", max_length=200, description="Makes one, not two.")] = "",
) -> Response:
    """409 while another is under way. Without a change for `ttl` seconds it is under way no more."""
    body = await wire.read(request, shapes.CreateRelease)
    strategy = body.strategy.upper() or STRATEGIES[0]
    if strategy not in STRATEGIES:
        raise InvalidArgument(f"invalid strategy {body.strategy!r}", next=f"one of {', '.join(STRATEGIES).lower()}")
    draft = Draft(
        image_ref=_text(body.image, "image"),
        strategy=strategy,
        definition=body.definition,
        progress=body.progress,
        description=_text(body.description, "description"),
        reason=_text(body.reason, "reason"),
        ttl_s=_ttl(body.ttl) or TTL_DEFAULT_S,
    )
    made = await control.releases.begin(app.id, draft, user_id=caller.lasting(app).user_id, key=key)
    return wire.reply({**_shown(made), "nonce": made.nonce}, 201)


@router.get("/{version}", name="Releases_show", responses=shapes.gives(shapes.WholeRelease), response_model=None)
async def show_release(app: ThisApp, control: Parts, version: _Version) -> Response:
    return wire.reply(_shown(await control.releases.find(app.id, version)))


@router.patch(
    "/{version}",
    name="Releases_update",
    responses=shapes.gives(shapes.WholeRelease),
    response_model=None,
    openapi_extra=shapes.takes(shapes.ReleaseChange),
)
async def change_release(request: Request, app: ThisApp, control: Parts, version: _Number) -> Response:
    """Only with the nonce that its making gave. Moves on when it expires; one that has ended does not change."""
    body = await wire.read(request, shapes.ReleaseChange)
    if body.status is not None and body.status not in STATUSES:
        raise InvalidArgument(f"invalid status {body.status!r}", next=f"one of {', '.join(STATUSES)}")
    number = wire.whole(version, "version", default=0)
    change = Change(
        status=body.status,
        error=None if body.error is None else _text(body.error, "error"),
        progress=body.progress,
        ttl_s=_ttl(body.ttl),
    )
    return wire.reply(_shown(await control.releases.change(app.id, number, change, nonce=body.nonce)))


def _shown(release: Release) -> dict[str, Any]:
    user = release.user
    wire_form = {
        "id": release.id,
        "version": release.version,
        "status": release.status,
        "stable": release.status == "complete",
        "in_progress": release.in_progress,
        "strategy": release.strategy,
        "image_ref": release.image_ref,
        "description": release.description,
        "reason": release.reason,
        "error": release.error,
        "user": None if user is None else {"id": user.id, "email": user.email, "name": user.name},
        "created_at": rfc3339(release.created_ms),
        "updated_at": rfc3339(release.updated_ms),
        "expires_at": rfc3339(release.expires_ms) if release.in_progress else None,
    }
    if release.definition is None:
        return wire_form
    return {**wire_form, "definition": release.definition, "progress": release.progress}


def _ttl(seconds: int | None) -> int | None:
    return min(seconds, TTL_MAX_S) if seconds else None


def _text(text: str, name: str) -> str:
    if "\0" in text:  # which PostgreSQL keeps in no text
        raise InvalidArgument(f"invalid {name}, it has a zero byte")
    return text
