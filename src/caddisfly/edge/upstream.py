"""A connection to a Machine: it carries one request at a time and then waits for the next one."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING, cast

from caddisfly.edge.response_head import BadResponse, ResponseHead, parse_response

if TYPE_CHECKING:
    from caddisfly.edge.candidate import Candidate
    from caddisfly.edge.exchange import Exchange

_HEAD_MAX = 65536
_KEEPALIVE_IDLE_S = 15
_KEEPALIVE_INTERVAL_S = 5
_KEEPALIVE_PROBES = 3


class Upstream(asyncio.Protocol):
    """`usable` is false once anything happened that makes the next answer on it doubtful."""

    __slots__ = (
        "_buffer",
        "_head",
        "_last_block",
        "_last_head",
        "candidate",
        "carried",
        "exchange",
        "idle_since",
        "reused",
        "transport",
        "usable",
        "write_paused",
    )

    def __init__(self, candidate: Candidate) -> None:
        self.candidate = candidate
        self.exchange: Exchange | None = None
        self.transport: asyncio.Transport = None  # type: ignore[assignment]  # set before anybody has this object
        self.usable = True
        self.carried = False
        """Whether it has carried a request."""
        self.reused = False
        """Whether it had carried one before the present."""
        self.write_paused = False
        self.idle_since = 0.0
        self._head: ResponseHead | None = None
        self._buffer = b""
        self._last_block = b""
        self._last_head: ResponseHead | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        # A Machine that is cut off sends no FIN: without this, a request on it would wait for ever.
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, _KEEPALIVE_IDLE_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, _KEEPALIVE_INTERVAL_S)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _KEEPALIVE_PROBES)

    def data_received(self, data: bytes) -> None:
        exchange = self.exchange
        if exchange is None:  # nobody asked: whatever this is, it must not become somebody's answer
            self.close()
            return
        if self._head is not None:
            exchange.response_data(data)
            return
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        while True:
            end = data.find(b"\r\n\r\n") + 4
            if end < 4:
                if len(data) > _HEAD_MAX:
                    exchange.bad_response("its header block is larger than 64 KiB")
                    return
                self._buffer = data
                return
            block = data[:end]
            head = self._last_head
            if block != self._last_block or head is None:
                try:
                    head = parse_response(block)
                except BadResponse as error:
                    exchange.bad_response(str(error))
                    return
                self._last_block, self._last_head = block, head
            rest = data[end:]
            if head.status < 200 and head.status != 101:
                exchange.interim(head)
                if not rest or self.exchange is None:
                    return
                data = rest
                continue
            self._head = head
            exchange.response_head(head, rest)
            return

    @property
    def answering(self) -> bool:
        """Whether a part of a head has come."""
        return bool(self._buffer)

    def send(self, exchange: Exchange, data: bytes) -> None:
        """Begin to carry `exchange`, whose head is in `data`."""
        self.exchange = exchange
        self.reused, self.carried = self.carried, True
        self._head = None
        self.transport.write(data)

    def park(self, now: float) -> None:
        """Done with a request: wait for the next one, or close."""
        self.exchange = None
        candidate = self.candidate
        if not self.usable or candidate.retired or self.write_paused or self._buffer:
            self.close()
            return
        self.idle_since = now
        candidate.idle.append(self)

    def close(self) -> None:
        self.usable = False
        self.exchange = None
        self.transport.close()

    def abort(self) -> None:
        self.usable = False
        self.exchange = None
        self.transport.abort()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self.exchange is not None:
            self.exchange.client.hold()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self.exchange is not None:
            self.exchange.client.unhold()

    def eof_received(self) -> bool:
        if self.exchange is not None and self.exchange.tunnel:
            return self.exchange.upstream_eof()
        self.usable = False
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self.usable = False
        exchange, self.exchange = self.exchange, None
        if exchange is not None:
            exchange.upstream_lost(self, error)


async def connect(candidate: Candidate, *, timeout_s: float) -> Upstream:
    """Open a connection. Raises `OSError` or `TimeoutError`."""
    upstream = Upstream(candidate)
    try:
        async with asyncio.timeout(timeout_s):
            await asyncio.get_running_loop().create_connection(lambda: upstream, candidate.address, candidate.port)
    except BaseException:
        if upstream.transport is not None:  # it came up in the moment in which we gave up
            upstream.abort()
        raise
    return upstream
