"""Response heads: what an app answered, checked, and rewritten for the client.

An app is as little trusted as a client: an answer that could be cut in two ways would let one app write into another
app's answer on a connection that a client uses for both. Like request headers, a repeated block is understood once.
"""

from __future__ import annotations

from dataclasses import dataclass

from caddisfly.edge.grammar import LENGTH, STATUS, fields, words

CHUNKED = -1
UNTIL_CLOSE = -2

_DROPPED = frozenset(
    (
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
        b"content-length",
        b"server",
        b"via",
        b"fly-request-id",
    )
)


class BadResponse(Exception):
    """The app's answer is not HTTP. The text says what is wrong."""


@dataclass(slots=True)
class ResponseHead:
    """`length` is the body's bytes, `CHUNKED` or `UNTIL_CLOSE`; a bodiless status is for the reader to know.

    Not frozen only because of what that costs on the hot path: nobody changes one.
    """

    status: int
    length: int
    keep_alive: bool
    upgrade: bytes
    interim: bytes
    """Status line and the app's header lines: enough for a 1xx."""
    lead: bytes
    """All up to `fly-request-id: `, whose value is the request's."""


def parse_response(block: bytes) -> ResponseHead:
    """Understand a whole head with its empty line. Raises `BadResponse`."""
    match = STATUS.match(block)
    if match is None:
        raise BadResponse("its status line is malformed")
    minor, status = int(match[1]), int(match[2])
    found = fields(block, match.end(), len(block) - 2)
    if found is None:
        raise BadResponse("a header line is malformed")
    lengths: set[bytes] = set()
    encodings: list[bytes] = []
    connection: set[bytes] = set()
    via: list[bytes] = []
    upgrade = b""
    for name, value in found:
        if name.lower() == b"connection":
            connection.update(words(value))
    lines = [b"HTTP/1.1 %d %b\r\n" % (status, match[3] or b"")]
    for name, value in found:
        lower = name.lower()
        if lower not in _DROPPED:
            if lower not in connection:
                lines.append(b"%b: %b\r\n" % (name, value))
        elif lower == b"content-length":
            lengths.add(value.rstrip(b" \t"))
        elif lower == b"transfer-encoding":
            encodings.append(value.rstrip(b" \t").lower())
        elif lower == b"via":
            via.append(value.rstrip(b" \t"))
        elif lower == b"upgrade":
            upgrade = value.rstrip(b" \t")
    length = _length(lengths, encodings)
    interim = b"".join(lines)
    if length >= 0 and status != 204:
        lines.append(b"content-length: %d\r\n" % length)
    lines.append(b"server: Caddisfly\r\nvia: %b\r\nfly-request-id: " % b", ".join((*via, b"1.1 fly.io")))
    keep_alive = minor == 1 and b"close" not in connection and not (lengths and encodings)
    return ResponseHead(status, length, keep_alive, upgrade, interim, b"".join(lines))


def _length(lengths: set[bytes], encodings: list[bytes]) -> int:
    if encodings:
        if encodings != [b"chunked"]:
            raise BadResponse("its transfer-encoding is not chunked")
        return CHUNKED
    if not lengths:
        return UNTIL_CLOSE
    value = lengths.pop()
    if lengths or LENGTH.fullmatch(value) is None:
        raise BadResponse("its content-length is not one plain number")
    return int(value)
