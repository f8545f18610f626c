"""Bodies in and out. Clients send JSON with or without saying so, or nothing at all, and must get JSON back.

FastAPI's own reading of bodies insists on a content type and answers 422 with a shape of its own, so it is not used.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

from fastapi import Request, Response
from pydantic import BaseModel, ValidationError

from caddisfly.model.errors import InvalidArgument

Body = TypeVar("Body", bound=BaseModel)

_TRUE, _FALSE = ("1", "true", "t", "yes"), ("0", "false", "f", "no", "")


def reply(value: Any, status: int = 200) -> Response:
    return Response(json.dumps(value, separators=(",", ":"), ensure_ascii=False), status, media_type="application/json")


async def read(request: Request, kind: type[Body]) -> Body:
    """The body as `kind`. JSON null means absent, no body means an empty object. Raises `InvalidArgument`."""
    raw = await read_object(request)
    try:
        return kind.model_validate({name: value for name, value in raw.items() if value is not None})
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        raise InvalidArgument(f"invalid {field}, {first['msg'].lower()}") from error


async def read_object(request: Request) -> dict[str, Any]:
    body = await request.body()
    if not body.strip():
        return {}
    try:
        value = json.loads(body, parse_constant=_no_constant)
        if b"\\ud" in body.lower():
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair is no text
    except (ValueError, RecursionError) as error:
        raise InvalidArgument("the body is not JSON", why=str(error)[:200]) from error
    if not isinstance(value, dict):
        raise InvalidArgument(f"the body must be a JSON object, not {type(value).__name__}")
    return value


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def flag(value: str, name: str) -> bool:
    """A boolean of a query: `kill=false` is sent explicitly. Raises `InvalidArgument`."""
    if value.lower() in _TRUE:
        return True
    if value.lower() in _FALSE:
        return False
    raise InvalidArgument(f"invalid {name}, must be true or false, got {value!r}")


def whole(value: str, name: str, *, default: int) -> int:
    """A number of a query. Raises `InvalidArgument`."""
    if not value:
        return default
    if not value.isascii() or not value.removeprefix("-").isdecimal() or len(value) > 18:
        raise InvalidArgument(f"invalid {name}, must be a whole number, got {value!r}")
    return int(value)
