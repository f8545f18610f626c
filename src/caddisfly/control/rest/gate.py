"""What happens to every request before and after the routes: its id, its size, its path.

Plain ASGI, not Starlette's base class for middleware, which would put a queue between the route and the socket.
"""

from __future__ import annotations

import logging
from collections.abc import MutableMapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from caddisfly.control.rest import failures
from caddisfly.model import ids

log = logging.getLogger(__name__)

_ANSWERS = ("http.response.start", "websocket.accept", "websocket.http.response.start")


class Gate:
    """Wraps the routes. `region` is the suffix of request ids; `max_body_bytes` bounds what is read into memory."""

    def __init__(self, app: ASGIApp, *, region: str, max_body_bytes: int) -> None:
        self._app, self._region, self._max = app, region, max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        request_id = f"{ids.ulid()}-{self._region}"
        scope.setdefault("state", {})["request_id"] = request_id
        _without_trailing_slash(scope)

        async def send_with_id(message: Message) -> None:
            if message["type"] in _ANSWERS:
                message["headers"] = [*message.get("headers", ()), (b"fly-request-id", request_id.encode())]
            await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"0")
        if length.isdigit() and int(length) > self._max:
            answer = failures.too_large(self._max)
            answer.headers["connection"] = "close"  # what follows is not read
            await answer(scope, receive, send_with_id)
            return
        try:
            await self._app(scope, self._counted(receive), send_with_id)
        except Exception:
            # It was answered already, by the outermost handler of the routes; a stream that broke off is cut here.
            log.exception("rest.bug", extra={"request_id": request_id, "path": scope["path"]})

    def _counted(self, receive: Receive) -> Receive:
        taken = 0

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            if message["type"] == "http.request":
                taken += len(message.get("body", b""))
                if taken > self._max:
                    raise failures.TooLarge(self._max)
            return message

        return counted


def _without_trailing_slash(scope: MutableMapping[str, Any]) -> None:
    """`/v1/apps/` is `/v1/apps`. A redirect would lose the body of a POST, and fly-go counts it as an error."""
    path: str = scope["path"]
    if len(path) > 1 and path.endswith("/"):
        scope["path"] = path.rstrip("/") or "/"
