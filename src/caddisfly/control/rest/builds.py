"""Builds of an app: ours, Fly's API has none. The context is pushed to the app's repository first."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Header, Path, Query, Request, Response
from starlette.responses import StreamingResponse

from caddisfly.bus import contract
from caddisfly.control.builds import new_id
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Parts, ThisApp

router = APIRouter(prefix="/v1/apps/{app}/builds", tags=["builds"], responses=shapes.ERRORS)

BuildId = Annotated[str, Path(alias="build", description="Id of the build")]


def _shown(reply: contract.BuildReply) -> dict[str, Any]:
    return {**reply.build, "ahead": reply.ahead}


@router.get("", name="Builds_list", responses=shapes.gives(shapes.BuildsReply), response_model=None)
async def list_builds(app: ThisApp, control: Parts) -> Response:
    """Newest first."""
    return wire.reply({"builds": await control.builds.of(app)})


@router.post(
    "",
    name="Builds_start",
    status_code=201,
    responses=shapes.gives(shapes.BuildReply, 201),
    response_model=None,
    openapi_extra=shapes.takes(shapes.StartBuild),
)
async def start_build(
    request: Request,
    app: ThisApp,
    control: Parts,
    key: Annotated[str, Header(alias="idempotency-key", max_length=200, description="Makes one build, not two")] = "",
) -> Response:
    body = await wire.read(request, shapes.StartBuild)
    record = contract.AppRecord(
        id=app.id,
        name=app.name,
        org_id=app.organization.id,
        org_slug=app.organization.slug,
        network_id=app.network_id,
    )
    reply = await control.builds.start(
        app,
        contract.StartBuild(
            build_id=new_id(app, key),
            app=record,
            context=body.context,
            dockerfile=body.dockerfile,
            target=body.target,
            args=body.args,
            labels=body.labels,
            secrets=body.secrets,
            no_cache=body.no_cache,
            tag=body.tag,
        ),
    )
    return wire.reply(_shown(reply), 201)


@router.get("/{build}", name="Builds_show", responses=shapes.gives(shapes.BuildReply), response_model=None)
async def show_build(app: ThisApp, control: Parts, build: BuildId) -> Response:
    return wire.reply(_shown(await control.builds.show(app, build)))


@router.post("/{build}/cancel", name="Builds_cancel", responses=shapes.gives(shapes.BuildReply), response_model=None)
async def cancel_build(app: ThisApp, control: Parts, build: BuildId) -> Response:
    """Answers when nothing of it runs any more. One that has ended stays as it is."""
    return wire.reply(_shown(await control.builds.cancel(app, build)))


@router.get("/{build}/logs", name="Builds_logs", responses=shapes.gives(shapes.BuildLogReply), response_model=None)
async def read_build_log(
    app: ThisApp,
    control: Parts,
    build: BuildId,
    offset: Annotated[str, Query(description="next_offset of the last reply. Empty: from the beginning.")] = "",
    wait: Annotated[str, Query(description="Seconds to hold an empty answer, at most 20.")] = "",
    follow: Annotated[str, Query(description="true streams lines as they come, one JSON object per line.")] = "",
) -> Response:
    begin = wire.whole(offset, "offset", default=0)
    if wire.flag(follow, "follow"):
        await control.builds.show(app, build)  # say 404 and 503 now: once the stream has begun it is too late

        async def stream() -> AsyncIterator[bytes]:
            async for line in control.builds.follow(app, build, offset=begin):
                yield json.dumps(line, separators=(",", ":")).encode() + b"\n"

        return StreamingResponse(stream(), media_type="application/x-ndjson")
    wait_s = wire.whole(wait, "wait", default=0)
    page = await control.builds.read_log(app, build, offset=begin, wait_s=wait_s)
    return wire.reply(page.model_dump(mode="json"))
