"""What a client reads when the edge itself answers: what happened, why, and what to do next, in plain words.

The codes are those of Fly's proxy (reference edge-network, 8.4), so that what is known about them applies here too.
"""

from __future__ import annotations

from dataclasses import dataclass
from http import HTTPStatus


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """An answer of the edge's own. `retry_after_s` 0 means that none is given."""

    status: int
    what: str
    why: str = ""
    next: str = ""
    code: str = ""
    retry_after_s: int = 0


def render(
    failure: Failure, *, request_id: bytes, head_only: bool = False, keep_alive: bool = False, minor: int = 1
) -> bytes:
    """The whole response."""
    lines = [failure.what[:1].upper() + failure.what[1:] + "."]
    if failure.why:
        lines.append(f"Why: {failure.why}.")
    if failure.next:
        lines.append(f"Next: {failure.next}.")
    code = f" ({failure.code})" if failure.code else ""
    lines.append(f"Request: {request_id.decode()}{code}")
    body = ("\n".join(lines) + "\n").encode()
    head = [
        f"HTTP/1.1 {failure.status} {HTTPStatus(failure.status).phrase}",
        "content-type: text/plain; charset=utf-8",
        f"content-length: {len(body)}",
        "cache-control: no-store",
        "server: Caddisfly",
        "via: 1.1 fly.io",
        f"fly-request-id: {request_id.decode()}",
    ]
    if failure.retry_after_s:
        head.append(f"retry-after: {failure.retry_after_s}")
    if not keep_alive:
        head.append("connection: close")
    elif not minor:
        head.append("connection: keep-alive")
    rendered = "\r\n".join(head).encode() + b"\r\n\r\n"
    return rendered if head_only else rendered + body


def redirect(location: bytes, *, request_id: bytes, keep_alive: bool, minor: int) -> bytes:
    """301 to the same thing over https."""
    connection = b"connection: close\r\n" if not keep_alive else b"" if minor else b"connection: keep-alive\r\n"
    return (
        b"HTTP/1.1 301 Moved Permanently\r\nlocation: %b\r\ncontent-length: 0\r\nserver: Caddisfly\r\n"
        b"via: 1.1 fly.io\r\nfly-request-id: %b\r\n%b\r\n" % (location, request_id, connection)
    )
