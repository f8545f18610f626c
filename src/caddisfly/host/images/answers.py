"""What a registry's answers mean: bodies with a bound, failures that may pass, and refusals in words.

The other side may be any server inside the operator's network, and what it answers is not for tenants: of its errors
only the code is shown, never the page.
"""

from __future__ import annotations

import contextlib
import json
import re

import httpx

from caddisfly.model.errors import Exhausted, InvalidArgument, Problem, Unavailable

UNAUTHORISED = "registry_unauthorised"
"""The status of the error that says so."""


class Transient(Exception):
    """Try again; after the last attempt it becomes an `Unavailable`."""

    def __init__(self, why: str, *, retry_after_s: float | None = None, limited: bool = False) -> None:
        super().__init__(why)
        self.retry_after_s = retry_after_s
        self.limited = limited


def raise_if_transient(response: httpx.Response) -> None:
    status = response.status_code
    if status == 429 or status >= 500:
        after = response.headers.get("Retry-After", "")
        raise Transient(
            "too many requests" if status == 429 else f"it answers {status}",
            retry_after_s=float(after) if after.isdigit() and len(after) < 9 else None,
            limited=status == 429,
        )


async def body_of(response: httpx.Response, max_bytes: int, *, strict: bool = True) -> bytes:
    data = bytearray()
    async for piece in response.aiter_bytes():
        data += piece
        if len(data) > max_bytes:
            if not strict:
                break
            raise InvalidArgument(
                "the registry's answer is too large", why=f"it has more than {max_bytes} bytes", status="too_large"
            )
    return bytes(data)


def error_code(body: bytes) -> str:
    """The first error code of a registry's JSON answer, and nothing else of it."""
    with contextlib.suppress(ValueError, LookupError, TypeError, RecursionError):
        code = json.loads(body)["errors"][0]["code"]
        if isinstance(code, str) and re.fullmatch(r"[A-Z_]{1,64}", code):
            return code
    return ""


def cause_of(error: httpx.TransportError) -> str:
    if isinstance(error, httpx.ConnectTimeout):
        return "it cannot be reached in time"
    if isinstance(error, httpx.TimeoutException):
        return "it stopped sending"
    return f"{type(error).__name__}: {error}"[:300]


def unavailable(registry: str, why: str, *, limited: bool = False) -> Problem:
    if limited:
        return Exhausted(
            f"registry {registry} limits this host",
            why=why,
            next="wait, or set credentials or a mirror for this registry",
            status="registry_limit",
        )
    return Unavailable(
        f"registry {registry} does not deliver",
        why=why,
        next="check the registry and the way to it; images that are on this host already still start",
        status="registry_unavailable",
    )


def unauthorised(registry: str, repository: str, why: str) -> InvalidArgument:
    return InvalidArgument(
        f"registry {registry} refuses access to {repository}: UNAUTHORIZED",
        why=why,
        next="the image may not exist, or it is private: set credentials for this registry",
        status=UNAUTHORISED,
    )
