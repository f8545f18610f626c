"""Every failure in one shape: `{"error", "status"?, "why"?, "next"?}` (reference machines-api, 1.5).

`error` carries Fly's text and nothing else, because clients look for it; what would help a person beyond that stands
in `why` and `next`. `status` is a string or absent: a number there breaks fly-go.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException

from caddisfly.control.rest.wire import reply
from caddisfly.model.errors import Internal, InvalidArgument, Problem
from caddisfly.model.failure import body_of, status_of

log = logging.getLogger(__name__)

_RETRY_AFTER_S = {"unavailable": "2", "resource_exhausted": "1"}


def response(problem: Problem, *, more: Mapping[str, str] | None = None) -> Response:
    """`more` goes into the body beside what is always there."""
    body = {**body_of(problem), **(more or {})}
    answer = reply({name: value for name, value in body.items() if value}, status_of(problem))
    if problem.code in _RETRY_AFTER_S:
        answer.headers["retry-after"] = _RETRY_AFTER_S[problem.code]
    if problem.code == "unauthenticated":
        answer.headers["www-authenticate"] = "Bearer"
    return answer


class TooLarge(HTTPException):
    """The body is longer than `limit` bytes."""

    def __init__(self, limit: int) -> None:
        super().__init__(413)
        self.limit = limit


def too_large(limit: int) -> Response:
    return reply({"error": "request body too large", "why": f"the limit is {limit} bytes"}, 413)


def install(app: FastAPI) -> None:
    @app.exception_handler(Problem)
    async def on_problem(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, Problem)
        if problem.code == "unknown":
            log.error("rest.internal", extra={"path": request.url.path, "reason": str(problem)})
        return response(problem)

    @app.exception_handler(RequestValidationError)
    async def on_invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        field = ".".join(str(part) for part in first["loc"][1:])
        return response(InvalidArgument(f"invalid {field}, {str(first['msg']).lower()}"))

    @app.exception_handler(HTTPException)
    async def on_http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        if isinstance(error, TooLarge):
            return too_large(error.limit)
        if error.status_code == HTTPStatus.NOT_FOUND:
            return Response("404 page not found", 404, media_type="text/plain")
        text = HTTPStatus(error.status_code).phrase.lower()
        answer = reply({"error": text}, error.status_code)
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def on_bug(_: Request, __: Exception) -> Response:
        """The cause is in the log (`gate.py`), never in the answer."""
        return response(Internal("internal error", next="give the fly-request-id to whoever runs this platform"))
