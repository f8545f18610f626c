"""A client's connection: requests come in here, one at a time, in order, however they were sent.

A client that pipelines has its next requests left in the buffer, and its reading paused, until the present one is
answered. Time-outs are one number, `deadline`, that a sweep compares with the clock.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, cast

from caddisfly.edge.errors import Failure, render
from caddisfly.edge.exchange import Exchange
from caddisfly.edge.grammar import BARE_LF
from caddisfly.edge.request_head import Origin, Refusal, RequestFields, parse_fields, parse_lead

if TYPE_CHECKING:
    from caddisfly.edge.context import Edge

log = logging.getLogger(__name__)

_WHAT = {
    400: "this request cannot be understood",
    405: "this method is not served",
    408: "the request did not arrive in time",
    417: "this expectation cannot be met",
    431: "the request's headers are too large",
    505: "this HTTP version is not spoken here",
}


class Client(asyncio.Protocol):
    """`half_closed` once the client said that it sends no more; `write_paused` while it reads too slowly."""

    __slots__ = (
        "_advancing",
        "_buffer",
        "_closing",
        "_edge",
        "_exchange",
        "_fields",
        "_head_begun",
        "_held",
        "_origin",
        "_tail",
        "deadline",
        "half_closed",
        "transport",
        "upstream_ended",
        "write_paused",
    )

    def __init__(self, edge: Edge) -> None:
        self._edge = edge
        self._exchange: Exchange | None = None
        self._buffer = b""
        self._tail = b""
        self._fields: RequestFields | None = None
        self._advancing = self._closing = self._head_begun = self._held = False
        self.half_closed = self.write_paused = self.upstream_ended = False
        self.deadline = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        edge, settings = self._edge, self._edge.settings
        peer = transport.get_extra_info("peername")
        address = str(peer[0]).removeprefix("::ffff:") if peer else "unknown"
        self._origin = Origin(
            address.encode(), settings.region.encode(), settings.external_port, settings.header_count_max
        )
        self.transport.set_write_buffer_limits(high=settings.write_buffer_bytes)
        edge.clients.add(self)
        self.deadline = edge.now + settings.head_timeout_s

    def data_received(self, data: bytes) -> None:
        exchange = self._exchange
        if exchange is None:
            if self._closing:
                return
            end = data.find(b"\r\n\r\n")
            if end > 0 and end == len(data) - 4 and not self._buffer and data[0] != 13:
                self._begin(data, end)  # exactly one head and no more: by far the most frequent
                return
            self._advance(self._buffer + data if self._buffer else data)
            return
        if exchange.request_done and not exchange.tunnel:
            self._stash(data)
            return
        rest = exchange.request_data(data)
        if rest:
            self._take_rest(rest)

    def _take_rest(self, rest: bytes) -> None:
        if self._exchange is not None:
            self._stash(rest)
        elif not self._closing:
            self._advance(rest)

    def _stash(self, data: bytes) -> None:
        self._buffer = self._buffer + data if self._buffer else data
        self.hold()

    def _advance(self, data: bytes) -> None:
        """Begin as many requests as `data` holds and their answers allow: one, but for those that we answer."""
        searched = max(0, len(self._buffer) - 3)
        self._buffer = b""
        self._advancing = True
        while data and self._exchange is None and not self._closing:
            end = data.find(b"\r\n\r\n", searched)
            searched = 0
            if end < 0:
                self._wait_for_more(data)
                break
            if data[0] == 13 and data.startswith(b"\r\n"):  # one empty line before a request is tolerated
                data = data[2:]
                if not data.startswith(b"\r\n"):
                    continue
            data = self._begin(data, end)
        else:
            if data and not self._closing:
                self._stash(data)
        self._advancing = False

    def _begin(self, data: bytes, end: int) -> bytes:
        """Start the request whose head ends at `end`. Returns what follows the request."""
        edge = self._edge
        try:
            if end > edge.settings.head_max_bytes:
                raise Refusal(431, f"more than {edge.settings.head_max_bytes} bytes")
            split = data.find(b"\r\n", 0, end + 2) - 8
            if split < 4:
                raise Refusal(400, "the request line is malformed")
            tail = data[split : end + 4]
            fields = self._fields
            if tail != self._tail or fields is None:
                fields = parse_fields(tail, self._origin)
                self._tail, self._fields = tail, fields
            method, target = parse_lead(data[:split], fields)
        except Refusal as refusal:
            self._refuse(refusal)
            return b""
        self.deadline = 0.0
        self._head_begun = False
        exchange = self._exchange = Exchange(edge, self, fields, method, target)
        exchange.start()
        rest = data[end + 4 :]
        if rest and self._exchange is exchange:
            return exchange.request_data(rest)
        return rest

    def _wait_for_more(self, data: bytes) -> None:
        edge = self._edge
        if len(data) > edge.settings.head_max_bytes:
            self._refuse(Refusal(431, f"more than {edge.settings.head_max_bytes} bytes"))
        elif BARE_LF.search(data):
            self._refuse(Refusal(400, "a line ends without a carriage return"))
        else:
            self._buffer = data
            if not self._head_begun:
                self._head_begun = True
                self.deadline = edge.now + edge.settings.head_timeout_s

    def _refuse(self, refusal: Refusal) -> None:
        request_id = self._edge.ids.next()
        log.warning(
            "edge.refused",
            extra={
                "request": request_id.decode(),
                "status": refusal.status,
                "reason": refusal.why,
                "client": self._origin.client_ip.decode(),
            },
        )
        failure = Failure(status=refusal.status, what=_WHAT[refusal.status], why=refusal.why)
        self.transport.write(render(failure, request_id=request_id))
        self._linger()

    def exchange_over(self, exchange: Exchange, *, keep_alive: bool) -> None:
        """The present exchange has ended, its answer is written."""
        if self._exchange is not exchange:
            return
        self._exchange = None
        if exchange.tunnel:
            self.close()
            return
        if not keep_alive:
            if exchange.request_done or self.half_closed:
                self.close()
            else:
                self._linger()
            return
        edge = self._edge
        self.deadline = edge.now + edge.settings.idle_timeout_s
        if self._advancing:
            return
        if self._buffer:
            buffer, self._buffer = self._buffer, b""
            self._advance(buffer)
            if self._exchange is None and not self._closing and self.half_closed:
                self.close()
                return
        elif self.half_closed or edge.draining:
            self.close()
            return
        if self._held and (not self._buffer or self._exchange is None):
            self.unhold()

    def begin_tunnel(self) -> None:
        """Both sides agreed to leave HTTP: pass on what came early, and read on."""
        buffer, self._buffer = self._buffer, b""
        exchange = self._exchange
        assert exchange is not None
        if buffer:
            exchange.request_data(buffer)
        self.unhold()

    @property
    def exchange(self) -> Exchange | None:
        """The request that is under way."""
        return self._exchange

    # Flow

    def hold(self) -> None:
        """Do not read on: what was read has nowhere to go yet."""
        self._held = True
        self.transport.pause_reading()

    def unhold(self) -> None:
        if self._held and not self.half_closed and not self._closing and not self.transport.is_closing():
            self._held = False
            self.transport.resume_reading()

    def pause_writing(self) -> None:
        self.write_paused = True
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.transport.pause_reading()

    def resume_writing(self) -> None:
        self.write_paused = False
        if self._exchange is not None and self._exchange.upstream is not None:
            self._exchange.upstream.transport.resume_reading()

    # Ends

    def eof_received(self) -> bool:
        exchange = self._exchange
        self.half_closed = True
        if exchange is None or self.upstream_ended:
            return False
        if exchange.tunnel:
            assert exchange.upstream is not None
            exchange.upstream.transport.write_eof()
            return True
        if not exchange.request_done:
            return False
        self.deadline = self._edge.now + self._edge.settings.half_closed_timeout_s
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self._closing = True
        self._edge.left(self)
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            exchange.client_lost()

    def expire(self) -> None:
        """`deadline` has passed."""
        self.deadline = 0.0
        if self._buffer and self._exchange is None and not self._closing:
            self._refuse(Refusal(408, "the headers took too long"))
        elif self._closing:
            self.transport.abort()
        else:
            self.close()

    def leave(self) -> None:
        """The edge stops: an idle connection goes now, a busy one after its answer."""
        if self._exchange is None and not self._buffer:
            self.close()

    def close(self) -> None:
        self._closing = True
        self.transport.close()

    def _linger(self) -> None:
        """Close, but read on a little: a reset would destroy the answer that is on its way."""
        self._closing = True
        self._buffer = b""
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        self.transport.resume_reading()
        self.deadline = self._edge.now + self._edge.settings.linger_timeout_s
