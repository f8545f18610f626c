"""One request and its answer: the joint between a client's connection and a Machine's.

    start ──▶ attached ──▶ answered ──▶ over          the hot path: every arrow is a callback, none a task
      │          ▲ │
      ▼          │ ▼ (nothing answered yet, and the request may be repeated)
     delivery ───┘                                     waking, connecting, trying again: one task

Bodies are streamed both ways. Whoever reads too slowly has the other side's reading paused, so an exchange holds at
most a write buffer each way, plus the part of a request body that is remembered for another try.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Set as AbstractSet
from typing import TYPE_CHECKING

from caddisfly.edge import balance
from caddisfly.edge.chunked import LAST, BadChunk, Chunked, frame
from caddisfly.edge.delivery import deliver, unknown_host
from caddisfly.edge.errors import Failure, redirect, render
from caddisfly.edge.frames import GOING_AWAY, Frames
from caddisfly.edge.request_head import CHUNKED, RequestFields
from caddisfly.edge.response_head import UNTIL_CLOSE, ResponseHead

if TYPE_CHECKING:
    from caddisfly.edge.candidate import Candidate
    from caddisfly.edge.client_side import Client
    from caddisfly.edge.context import Edge
    from caddisfly.edge.upstream import Upstream

log = logging.getLogger(__name__)

_IDEMPOTENT = frozenset((b"GET", b"HEAD", b"OPTIONS", b"TRACE", b"PUT", b"DELETE"))
_ACME = b"/.well-known/acme-challenge/"


class Exchange:
    """`tunnel` is true after a 101: from then on bytes are only passed on."""

    # Defaults of the class, so that a request which needs none of them sets none of them.
    upstream: Upstream | None = None
    task: asyncio.Task[None] | None = None
    tunnel = False
    attempts = 0
    excluded: AbstractSet[Candidate] = frozenset()
    _request_left = 0
    _request_chunks: Chunked | None = None
    _kept: list[bytes] | None = None
    _kept_bytes = 0
    _replayable = True
    _answered = False
    _response_left = 0
    _response_chunks: Chunked | None = None
    _reframe = False
    _keep_alive = False
    _over = False
    _frames: Frames | None = None
    _parting = False
    parted = False
    """Whether the client of a WebSocket was told that the app goes away."""

    def __init__(self, edge: Edge, client: Client, fields: RequestFields, method: bytes, target: bytes) -> None:
        self.edge, self.client, self.fields, self.method, self.target = edge, client, fields, method, target
        self.id = edge.ids.next()
        self.started_us = edge.ids.now_us
        length = fields.length
        self.request_done = length == 0
        if length:
            self._request_left = length
            if length == CHUNKED:
                self._request_chunks = Chunked()

    def start(self) -> None:
        """Send it on now if that is possible, else begin a delivery."""
        edge = self.edge
        route = edge.routes.find(self.fields.host)
        if route is None and edge.routes.ready.is_set():
            self.fail(unknown_host(self.fields.host))
            return
        if route is not None:
            if route.force_https and not self.target.startswith(_ACME):
                self._redirect()
                return
            candidate = balance.pick(route.candidates)
            if candidate is not None:
                upstream = candidate.take(edge.now, idle_max_s=self.idle_max_s)
                if upstream is not None:
                    if route.startable and candidate.load >= candidate.soft:
                        edge.wake.in_background(route)
                    candidate.load += 1
                    self.attach(upstream)
                    return
        self.task = edge.loop.create_task(deliver(self), name="edge-delivery")

    @property
    def idle_max_s(self) -> float:
        """How long a connection may have waited to carry this request."""
        settings = self.edge.settings
        return settings.pool_idle_s if self.method in _IDEMPOTENT else settings.pool_idle_unsafe_s

    def attach(self, upstream: Upstream) -> None:
        """Send what there is of the request to a Machine. Its load is already counted."""
        self.upstream = upstream
        self.task = None
        fields = self.fields
        head = b"%b %b HTTP/1.1\r\n%b%bfly-request-id: %b\r\nx-request-start: t=%d\r\n\r\n" % (
            self.method,
            self.target,
            fields.block,
            b"" if fields.upgrade else upstream.candidate.connection_line,
            self.id,
            self.started_us,
        )
        upstream.send(self, b"".join((head, *self._kept)) if self._kept else head)
        if self.client.write_paused:
            upstream.transport.pause_reading()
        if not self.request_done:
            self.client.unhold()

    # The request's body

    def request_data(self, data: bytes) -> bytes:
        """Take what the client sent. Returns what lies behind the end of this request."""
        if self.tunnel:
            assert self.upstream is not None
            self.upstream.transport.write(data)
            return b""
        if self.request_done:
            return data
        rest: bytes | None
        if self._request_chunks is None:
            left = self._request_left
            piece, rest = (data, None) if len(data) < left else (data[:left], data[left:])
            self._request_left = left - len(piece)
        else:
            try:
                payload, rest = self._request_chunks.feed(data)
            except BadChunk as error:
                self._bad_request(str(error))
                return b""
            piece = frame(payload)
            if rest is not None:
                piece += LAST
        self._pass_on(piece)
        if rest is None:
            return b""
        self.request_done = True
        return rest

    def _pass_on(self, piece: bytes) -> None:
        if self._replayable and not self._answered:
            self._remember(piece)
        upstream = self.upstream
        if upstream is not None:
            upstream.transport.write(piece)
            if upstream.write_paused:
                self.client.hold()
        elif self._kept_bytes >= self.edge.settings.held_body_bytes:
            self.client.hold()

    def _remember(self, piece: bytes) -> None:
        edge, size = self.edge, len(piece)
        fits = (
            self._kept_bytes + size <= edge.settings.replay_request_bytes
            and edge.remembered_bytes + size <= edge.settings.replay_total_bytes
        )
        if not fits and self.upstream is not None:
            self._forget()
            return
        if self._kept is None:
            self._kept = []
        self._kept.append(piece)
        self._kept_bytes += size
        edge.remembered_bytes += size

    def _forget(self) -> None:
        self._replayable = False
        self._kept = None
        self.edge.remembered_bytes -= self._kept_bytes
        self._kept_bytes = 0

    def _bad_request(self, why: str) -> None:
        self._drop_upstream()
        self.fail(Failure(status=400, what="the request body cannot be read", why=why))

    # The response

    def interim(self, head: ResponseHead) -> None:
        """A 1xx: HTTP/1.0 has none, everybody else gets it."""
        if self.fields.minor:
            self.client.transport.write(head.interim + b"\r\n")

    def response_head(self, head: ResponseHead, rest: bytes) -> None:
        status, length = head.status, head.length
        upstream = self.upstream
        assert upstream is not None
        if status == 101:
            self._begin_tunnel(head, rest)
            return
        self._answered = True
        if self._kept is not None:
            self._forget()
        minor = self.fields.minor
        keep = self.fields.keep_alive and self.request_done and not self.edge.draining
        if not head.keep_alive or not upstream.candidate.pooled:
            upstream.usable = False
        bodiless = status == 204 or status == 304 or self.method == b"HEAD"
        extra = b"\r\n\r\n"
        if bodiless:
            length = 0
        elif length < 0:
            if length == UNTIL_CLOSE:
                upstream.usable = False
            if minor:
                self._reframe = True
                extra = b"\r\ntransfer-encoding: chunked\r\n\r\n"
            else:
                keep = False
        if not keep:
            extra = b"\r\nconnection: close" + extra
        elif not minor:
            extra = b"\r\nconnection: keep-alive" + extra
        self._keep_alive = keep
        self._response_left = length
        write = self.client.transport.write
        if length == 0:
            write(head.lead + self.id + extra)
            self._finish(rest)
        elif length == len(rest):
            write(b"".join((head.lead, self.id, extra, rest)))
            self._finish(b"")
        else:
            if length == CHUNKED:
                self._response_chunks = Chunked()
            write(head.lead + self.id + extra)
            if rest:
                self.response_data(rest)

    def response_data(self, data: bytes) -> None:
        client = self.client
        if self.tunnel:
            if self._frames is not None:
                data = self._followed(data)
            client.transport.write(data)
            return
        if client.half_closed:
            client.deadline = self.edge.now + self.edge.settings.half_closed_timeout_s
        left = self._response_left
        if left > 0:
            size = len(data)
            if size < left:
                self._response_left = left - size
                client.transport.write(data)
            else:
                client.transport.write(data if size == left else data[:left])
                self._finish(data[left:])
            return
        if self._response_chunks is None:
            client.transport.write(frame(data) if self._reframe else data)
            return
        try:
            payload, rest = self._response_chunks.feed(data)
        except BadChunk as error:
            self._cut("PU02", f"its body is malformed: {error}")
            return
        piece = frame(payload) if self._reframe else payload
        if rest is not None and self._reframe:
            piece += LAST
        if piece:
            client.transport.write(piece)
        if rest is not None:
            self._finish(rest)

    def bad_response(self, why: str) -> None:
        """The app's head cannot be understood."""
        self._drop_upstream()
        self.fail(
            Failure(
                status=502,
                code="PU02",
                what="the app's answer is not valid HTTP",
                why=why,
                next="look at the app: this is its bug, not the platform's",
            )
        )

    def _begin_tunnel(self, head: ResponseHead, rest: bytes) -> None:
        if not self.fields.upgrade:
            self.bad_response("it switched protocols without being asked")
            return
        self._answered = self.tunnel = True
        upgrade = head.upgrade or self.fields.upgrade
        assert self.upstream is not None
        if self.upstream.candidate.autostops and upgrade.lower() == b"websocket":
            self._frames = Frames()
            self._frames.feed(rest)
        self.client.transport.write(
            b"%b%b\r\nconnection: upgrade\r\nupgrade: %b\r\n\r\n%b" % (head.lead, self.id, upgrade, rest)
        )
        self.client.begin_tunnel()

    @property
    def websocket(self) -> bool:
        """Whether it can be ended in a way that its client understands."""
        return self._frames is not None

    def part(self) -> None:
        """Tell the client of a WebSocket that the app goes away: it answers, and both sides close."""
        assert self._frames is not None
        if not self._parting:
            self._parting = True
            self.client.transport.write(self._followed(b""))

    def _followed(self, data: bytes) -> bytes:
        """What the client gets of what the app sends. After the goodbye, nothing."""
        frames = self._frames
        assert frames is not None
        if not self._parting:
            frames.feed(data)
            return data
        if self.parted:
            return b""
        rest = data[: frames.feed(data, only_one=True)]
        self.parted = frames.between
        return rest + GOING_AWAY if self.parted else rest

    # Ends

    def upstream_eof(self) -> bool:
        """Half-close of a tunnel. Returns whether the Machine's side stays open for the other half."""
        if self.client.half_closed:
            return False
        self.client.transport.write_eof()
        self.client.upstream_ended = True
        return True

    def upstream_lost(self, upstream: Upstream, error: Exception | None) -> None:
        """The Machine's connection is gone, with or without an error."""
        self.upstream = None
        upstream.candidate.release()
        if self.tunnel:
            self._close_with_client()
        elif self._answered:
            if self._response_left == UNTIL_CLOSE and error is None:
                if self._reframe:
                    self.client.transport.write(LAST)
                self._over = True
                self.client.exchange_over(self, keep_alive=self._keep_alive and self.request_done)
            else:
                self._cut("PC03" if error else "PU02", "the app's connection ended in the middle of its answer")
        elif self.method in _IDEMPOTENT and self._replayable and not upstream.answering:
            if not upstream.reused:
                self.exclude(upstream.candidate)
            self.attempts += 1
            self.task = self.edge.loop.create_task(deliver(self), name="edge-delivery")
        else:
            self.fail(self._unanswered(upstream, error))

    def exclude(self, candidate: Candidate) -> None:
        """Do not try this one again for this request."""
        self.excluded = self.excluded | {candidate}

    def _unanswered(self, upstream: Upstream, error: Exception | None) -> Failure:
        if not self._replayable:
            code, why = "PA01", "its body is too large to be remembered for another try"
        elif upstream.answering:
            code, why = "PU02", "a part of an answer had come"
        else:
            code, why = ("PC03" if error else "PU02"), f"a {self.method.decode()} may have had effect already"
        return Failure(
            status=502,
            code=code,
            what="the app closed the connection without an answer",
            why=f"it was not sent again: {why}",
            next="try again if that is safe; the app's log may say why it stopped",
        )

    def client_lost(self) -> None:
        """The client is gone: nobody wants the answer."""
        self._drop_upstream()
        self._settle()

    def _drop_upstream(self) -> None:
        upstream, self.upstream = self.upstream, None
        if upstream is not None:
            if self.tunnel:
                upstream.close()  # what the client sent before it left is still delivered
            else:
                upstream.abort()
            upstream.candidate.release()

    def _settle(self) -> None:
        self._over = True
        if self._kept is not None:
            self._forget()
        task, self.task = self.task, None
        if task is not None and task is not asyncio.current_task(self.edge.loop):
            task.cancel()

    def _finish(self, surplus: bytes) -> None:
        upstream, self.upstream = self.upstream, None
        assert upstream is not None
        if surplus or not self.request_done:
            upstream.usable = False
        if self.client.write_paused:
            upstream.transport.resume_reading()
        upstream.park(self.edge.now)
        upstream.candidate.release()
        self._over = True
        self.client.exchange_over(self, keep_alive=self._keep_alive and self.request_done)

    def _close_with_client(self) -> None:
        self._settle()
        self.client.exchange_over(self, keep_alive=False)

    def _cut(self, code: str, why: str) -> None:
        """End an answer that cannot be completed so that the client sees that it is not complete."""
        self._drop_upstream()
        self._log(502, code, why)
        self._close_with_client()

    def fail(self, failure: Failure) -> None:
        """Answer in the edge's own words; or, after the app's first byte, only end."""
        if self._over:
            return
        if self._answered:
            self._cut(failure.code, failure.what)
            return
        self._log(failure.status, failure.code, failure.why or failure.what)
        keep = self.fields.keep_alive and self.request_done and not self.edge.draining
        self.client.transport.write(
            render(
                failure,
                request_id=self.id,
                head_only=self.method == b"HEAD",
                keep_alive=keep,
                minor=self.fields.minor,
            )
        )
        self._settle()
        self.client.exchange_over(self, keep_alive=keep)

    def _redirect(self) -> None:
        keep = self.fields.keep_alive and self.request_done and not self.edge.draining
        location = b"https://%b%b" % (self.fields.host, self.target)
        self.client.transport.write(redirect(location, request_id=self.id, keep_alive=keep, minor=self.fields.minor))
        self._settle()
        self.client.exchange_over(self, keep_alive=keep)

    def _log(self, status: int, code: str, why: str) -> None:
        # Anybody can ask for names that do not exist, as often as they like: that is no event.
        log.log(
            logging.DEBUG if status < 500 else logging.WARNING,
            "edge.failed",
            extra={
                "request": self.id.decode(),
                "host": self.fields.host.decode(),
                "status": status,
                "code": code,
                "reason": why,
                "attempts": self.attempts,
            },
        )
