"""Logs, at the address and in the form that `fly logs` reads (reference edge-network, 8.3)."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import APIRouter, Query, Response
from starlette.responses import StreamingResponse

from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.reach import Parts, ThisApp

router = APIRouter(prefix="/api/v1/apps/{app}", tags=["logs"], responses=shapes.ERRORS)


@router.get("/logs", name="Logs_read", responses=shapes.gives(shapes.LogsReply), response_model=None)
async def read_logs(
    app: ThisApp,
    control: Parts,
    region: str = "",
    instance: Annotated[str, Query(description="Id of a machine.")] = "",
    next_token: Annotated[str, Query(description="Of the last reply. Empty: the newest lines of a day.")] = "",
    follow: Annotated[str, Query(description="true streams lines as they come, one JSON object per line.")] = "",
) -> Response:
    if wire.flag(follow, "follow"):
        control.bus.client  # noqa: B018 # say 503 now: once the stream has begun it is too late

        async def stream() -> AsyncIterator[bytes]:
            async for line in control.logs.follow(app, region=region, instance=instance):
                entry = {"id": line.id, "attributes": line.attributes}
                yield json.dumps(entry, separators=(",", ":")).encode() + b"\n"

        return StreamingResponse(stream(), media_type="application/x-ndjson")
    lines, token = await control.logs.page(app, region=region, instance=instance, token=next_token)
    return wire.reply(
        {
            "data": [{"id": line.id, "type": "log", "attributes": line.attributes} for line in lines],
            "meta": {"next_token": token},
        }
    )
