"""Request heads: what a client wrote, checked, and rewritten for a Machine.

Everything after method and target is one value, `RequestFields`, because it repeats: a browser or an API client sends
the same headers again with each request of a connection. A connection therefore keeps its last header block and what
came of it, and a repeated block costs one comparison of bytes. Nothing is shared between connections.

Whatever could be read in two ways is refused with 400 and the connection is closed (request smuggling). What passes is
written anew from what was parsed; a client's bytes are never handed on as they came.
"""

from __future__ import annotations

from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from enum import Enum, auto
from functools import lru_cache

from caddisfly.edge.grammar import HOST, LEAD, LENGTH, fields, words

CHUNKED = -1
_NAME_MAX = 262
"""Bytes of a host name (255), a colon and a port, and more than any header is called."""

STEERING = frozenset(
    (
        b"fly-prefer-region",
        b"fly-force-region",
        b"fly-prefer-instance-id",
        b"fly-force-instance-id",
        b"fly-replay-cache-control",
    )
)
"""The only `fly-*` headers that a client may send (reference edge-network, 4.3 and 4.4)."""

_HANDLED = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"connection",
        b"keep-alive",
        b"proxy-connection",
        b"proxy-authorization",
        b"te",
        b"trailer",
        b"upgrade",
        b"http2-settings",
        b"via",
        b"x-forwarded-for",
        b"x-forwarded-proto",
        b"x-forwarded-ssl",
        b"x-forwarded-port",
        b"x-request-start",
    )
)
"""Never copied: hop-by-hop, framing, or written by us."""

_SINGLE = frozenset((b"host", b"content-length", b"transfer-encoding"))
_NO_WORDS: frozenset[bytes] = frozenset()


class _Treatment(Enum):
    """What is done with a header."""

    COPY = auto()
    """Handed on, unless `Connection` names it."""
    KEEP = auto()
    """Handed on in any case."""
    SINGLE = auto()
    """Understood; a second one is refused."""
    LIST = auto()
    """Understood; several are one list."""
    EXPECT = auto()
    DROP = auto()


_COPY = _Treatment.COPY


class Refusal(Exception):
    """A request that is not passed on: the status to answer, and why in plain words. The connection is closed."""

    def __init__(self, status: int, why: str) -> None:
        super().__init__(why)
        self.status, self.why = status, why


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a request came in. `port` is the external port that the listener stands for."""

    client_ip: bytes
    region: bytes
    port: int
    header_count_max: int
    lines: bytes = field(init=False)
    """The headers that say so: the same for every request of a connection."""

    def __post_init__(self) -> None:
        lines = (
            b"x-forwarded-proto: http\r\nx-forwarded-ssl: off\r\nfly-client-ip: %b\r\n"
            b"fly-forwarded-proto: http\r\nfly-forwarded-ssl: off\r\nfly-forwarded-port: %d\r\nfly-region: %b\r\n"
        )
        object.__setattr__(self, "lines", lines % (self.client_ip, self.port, self.region))


@dataclass(slots=True)
class RequestFields:
    """A header block, understood. `length` is the body's bytes, or `CHUNKED`.

    Not frozen only because that would make a quarter of the cost of parsing: nobody changes one.
    """

    minor: int
    host: bytes
    """Normalised: lower case, no port, no trailing dot."""
    authority: bytes
    """As the client wrote it."""
    length: int
    keep_alive: bool
    upgrade: bytes
    block: bytes
    """The header lines for the Machine, all but those that differ for each request."""


def parse_lead(lead: bytes, request: RequestFields) -> tuple[bytes, bytes]:
    """Method and origin-form target from `GET /path `. Raises `Refusal`."""
    match = LEAD.fullmatch(lead)
    if match is None:
        raise Refusal(400, "the request line is malformed")
    method, target = match.groups()
    if target[0] == 47:  # "/"
        return method, target
    if method == b"CONNECT":
        raise Refusal(405, "this is not a forward proxy: CONNECT is not served")
    if target == b"*" and method == b"OPTIONS":
        return method, target
    scheme, _, rest = target.partition(b"://")
    if scheme.lower() not in (b"http", b"https") or not rest:
        raise Refusal(400, "the request target is neither a path nor an http URL")
    for index, byte in enumerate(rest):
        if byte in b"/?#":
            authority, path = rest[:index], rest[index:]
            break
    else:
        authority, path = rest, b"/"
    if len(authority) > _NAME_MAX or normalise_host(authority) != request.host:
        raise Refusal(400, "the URL in the request line and the Host header name different hosts")
    return method, path if path.startswith(b"/") else b"/" + path


@lru_cache(maxsize=4096)
def normalise_host(authority: bytes) -> bytes:
    """Lower case, no port, no trailing dot. Raises `Refusal`."""
    match = HOST.fullmatch(authority)
    if match is None:
        raise Refusal(400, "the Host header is not a host name")
    host: bytes = match[1].lower()
    return host.removesuffix(b".")


@lru_cache(maxsize=4096)
def _treatment(name: bytes) -> tuple[_Treatment, bytes]:
    """What is done with a header of this name, and the name in lower case."""
    lower = name.lower()
    # Apps behind CGI-like gateways read `Fly_Client_IP` as `Fly-Client-IP`: judge both alike.
    meaning = lower.replace(b"_", b"-")
    if lower in _SINGLE:
        return _Treatment.SINGLE, lower
    if meaning in _HANDLED:
        return (_Treatment.LIST if meaning == lower else _Treatment.DROP), lower
    if meaning.startswith(b"fly-"):
        return (_Treatment.KEEP if lower in STEERING else _Treatment.DROP), lower
    return (_Treatment.EXPECT if lower == b"expect" else _Treatment.COPY), lower


def parse_fields(tail: bytes, origin: Origin) -> RequestFields:
    """Understand `HTTP/1.1` CRLF, header lines, CRLF. Raises `Refusal`."""
    version = tail[:10]
    if version not in (b"HTTP/1.1\r\n", b"HTTP/1.0\r\n"):
        raise Refusal(505 if version[:5] == b"HTTP/" else 400, "only HTTP/1.0 and HTTP/1.1 are spoken here")
    minor = version[7] - 48
    found = fields(tail, 10, len(tail) - 2)
    if found is None:
        raise Refusal(400, "a header line is malformed")
    if len(found) > origin.header_count_max:
        raise Refusal(431, f"more than {origin.header_count_max} header lines")
    copied: list[tuple[bytes, bytes]] = []
    lines: list[bytes] = []
    single: dict[bytes, bytes] = {}
    lists: dict[bytes, list[bytes]] = {}
    for name, value in found:
        if len(name) > _NAME_MAX:  # names are remembered, so they must not be large
            raise Refusal(431, f"a header name is longer than {_NAME_MAX} bytes")
        treatment, lower = _treatment(name)
        if treatment is _COPY:
            copied.append((lower, b"%b: %b\r\n" % (name, value)))
        elif treatment is _Treatment.SINGLE:
            if lower in single:
                raise Refusal(400, f"more than one {lower.decode()} header")
            single[lower] = value.rstrip(b" \t")
        elif treatment is _Treatment.LIST:
            lists.setdefault(lower, []).append(value.rstrip(b" \t"))
        elif treatment is _Treatment.KEEP:
            lines.append(b"%b: %b\r\n" % (name, value.rstrip(b" \t")))
        elif treatment is _Treatment.EXPECT:
            if value.rstrip(b" \t").lower() != b"100-continue":
                raise Refusal(417, "the only expectation known is 100-continue")
            if minor:
                lines.append(b"expect: 100-continue\r\n")
    connection = set(words(b",".join(lists[b"connection"]))) if b"connection" in lists else _NO_WORDS
    lines += [line for lower, line in copied if lower not in connection]
    return _compose(minor, single, lists, connection, lines, origin)


def _compose(
    minor: int,
    single: dict[bytes, bytes],
    lists: dict[bytes, list[bytes]],
    connection: AbstractSet[bytes],
    lines: list[bytes],
    origin: Origin,
) -> RequestFields:
    authority = single.get(b"host", b"")
    if not authority:
        raise Refusal(400, "the Host header is missing")
    if len(authority) > _NAME_MAX:
        raise Refusal(400, "the Host header is not a host name")
    host = normalise_host(authority)
    length = _length(minor, single)
    if length:
        framing = b"transfer-encoding: chunked\r\n" if length == CHUNKED else b"content-length: %d\r\n" % length
        lines.append(framing)
    elif b"content-length" in single:
        lines.append(b"content-length: 0\r\n")
    upgrade = b", ".join(lists.get(b"upgrade", ()))
    # h2c would open a second protocol inside a connection that is routed by its first request.
    if b"upgrade" not in connection or b"h2c" in words(upgrade) or not minor or length:
        upgrade = b""
    if upgrade:
        lines.append(b"connection: upgrade\r\nupgrade: %b\r\n" % upgrade)
    # Fly appends the app's own public address last; an app here has none yet.
    forwarded = lists.get(b"x-forwarded-for")
    via = lists.get(b"via")
    port = authority.rpartition(b":")[2]
    if b"x-forwarded-port" in lists:
        port = lists[b"x-forwarded-port"][0]
    elif not port.isdigit():
        port = b"%d" % origin.port
    lines.append(
        b"x-forwarded-for: %b%b\r\nx-forwarded-port: %b\r\nvia: %b1.%d fly.io\r\n%b"
        % (
            b"%b, " % b", ".join(forwarded) if forwarded else b"",
            origin.client_ip,
            port,
            b"%b, " % b", ".join(via) if via else b"",
            minor,
            origin.lines,
        )
    )
    keep_alive = b"close" not in connection and (minor == 1 or b"keep-alive" in connection)
    block = b"host: %b\r\n%b" % (authority, b"".join(lines))
    return RequestFields(minor, host, authority, length, keep_alive, upgrade, block)


def _length(minor: int, single: dict[bytes, bytes]) -> int:
    encoding, length = single.get(b"transfer-encoding"), single.get(b"content-length")
    if encoding is not None:
        if length is not None:
            raise Refusal(400, "both content-length and transfer-encoding")
        if encoding.lower() != b"chunked" or not minor:
            raise Refusal(400, "the only transfer-encoding understood is chunked, in HTTP/1.1")
        return CHUNKED
    if length is None:
        return 0
    if LENGTH.fullmatch(length) is None:
        raise Refusal(400, "content-length is not a plain number")
    return int(length)
