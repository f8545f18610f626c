"""A command in a Machine with its streams open, over a WebSocket (docs/console.md has the protocol).

Control only passes on. Credit is given by the two ends, so neither a program that floods nor a client that does not
read makes anything grow here, and what a client says is always heard at once, also that it is gone.
"""

from __future__ import annotations

import asyncio
import json
import logging
from typing import Annotated, Any

from fastapi import APIRouter, Query, Response, WebSocket
from starlette.websockets import WebSocketDisconnect

from caddisfly.bus import contract
from caddisfly.bus.line import WINDOW, Line
from caddisfly.control.control import Control
from caddisfly.control.rest import shapes, wire
from caddisfly.control.rest.machine_actions import SIGNALS
from caddisfly.control.rest.reach import LeaseNonce, Parts, ThisApp, ThisMachine
from caddisfly.model.app import App
from caddisfly.model.errors import InvalidArgument, PermissionDenied, Problem, Unauthenticated, Unavailable
from caddisfly.model.failure import body_of

log = logging.getLogger(__name__)

router = APIRouter(prefix="/v1/apps/{app}/machines/{machine}", tags=["machines"], responses=shapes.ERRORS)

_SIDE_MAX = 10_000
_ALLOWED_EVERY_S = 30.0
_TOKEN_ENDED, _NOT_UNDERSTOOD, _FAILED = 4401, 1008, 1011


@router.get("/exec/stream", name="Machines_attach", status_code=101, response_model=None)
async def explain(machine: ThisMachine) -> Response:
    """A WebSocket: runs `command` (one word each) and carries its streams. See docs/console.md."""
    raise InvalidArgument("this address speaks WebSocket", next="ask for it with Upgrade: websocket")


@router.websocket("/exec/stream")
async def attach(
    websocket: WebSocket,
    app: ThisApp,
    machine: ThisMachine,
    control: Parts,
    command: Annotated[list[str] | None, Query()] = None,
    tty: str = "",
    cols: str = "",
    rows: str = "",
    term: str = "",
    user: str = "",
    container: str = "",
    stop_after: str = "",
    nonce: LeaseNonce = "",
) -> None:
    words = tuple(command or ())
    if "\x00" in "".join((*words, term, user, container)):
        raise InvalidArgument("invalid command, it has a NUL")
    terminal = wire.flag(tty, "tty")
    wanted = contract.AttachMachine(
        machine_id=machine.id,
        subject="",
        command=words,
        columns=_side(wire.whole(cols, "cols", default=80), "cols") if terminal else 0,
        rows=_side(wire.whole(rows, "rows", default=24), "rows") if terminal else 0,
        term=term,
        user=user,
        container=container,
        stop_after=wire.flag(stop_after, "stop_after"),
        nonce=nonce,
    )
    relay = _Relay(websocket)
    async with control.sessions.open(machine, wanted, taken=relay.taken) as line:
        await websocket.accept()
        await relay.run(line, lambda: _allowed(websocket, control, app))


def _side(value: Any, name: str) -> int:
    if not isinstance(value, int) or not 1 <= value <= _SIDE_MAX:
        raise InvalidArgument(f"invalid {name}, must be a whole number from 1 to {_SIDE_MAX}")
    return value


async def _allowed(websocket: WebSocket, control: Control, app: App) -> None:
    """Raises as soon as the token does not reach the app any more: a session may last longer than a right."""
    while True:
        await asyncio.sleep(_ALLOWED_EVERY_S)
        try:
            access = await control.verifier.verify(websocket.headers.get("authorization", ""))
        except Unavailable:
            continue  # who was let in stays in while nobody can tell
        access.check(app)


class _Relay:
    """Between a WebSocket and a line."""

    def __init__(self, websocket: WebSocket) -> None:
        self._websocket = websocket
        self._taken = 0
        self._credit = asyncio.Event()

    def taken(self, count: int) -> None:
        self._taken += count
        self._credit.set()

    async def run(self, line: Line, allowed: Any) -> None:
        """Until the command has ended, or one of the ends is gone."""
        await self._say({"type": "started", "window": WINDOW})
        works = [self._to_client(line), self._from_client(line), self._give_credit(), allowed()]
        tasks = [asyncio.create_task(work, name=f"relay-{line.name}") for work in works]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        except WebSocketDisconnect:
            log.debug("attach.client_gone", extra={"machine": line.name})
        except Problem as problem:
            await self._end_with(problem)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _end_with(self, problem: Problem) -> None:
        code = _FAILED
        if isinstance(problem, InvalidArgument):
            code = _NOT_UNDERSTOOD
        elif isinstance(problem, Unauthenticated | PermissionDenied):
            code = _TOKEN_ENDED
        try:
            await self._say({"type": "error", **body_of(problem)})
            await self._websocket.close(code)
        except (WebSocketDisconnect, RuntimeError) as error:  # gone meanwhile
            log.debug("attach.client_gone", extra={"reason": str(error)})

    async def _to_client(self, line: Line) -> None:
        while True:
            channel, data = await line.receive()
            if channel == contract.EXIT:
                await self._say({"type": "exit", "exit_code": int(data)})
                await self._websocket.close()
                return
            await self._websocket.send_bytes(bytes([channel]) + data)

    async def _from_client(self, line: Line) -> None:
        while True:
            message = await self._websocket.receive()
            if message["type"] == "websocket.disconnect":
                return
            if (data := message.get("bytes")) is not None:
                await self._typed(line, data)
            else:
                await self._told(line, message.get("text") or "")

    async def _typed(self, line: Line, data: bytes) -> None:
        if data[:1] != bytes([contract.STDIN]):
            raise InvalidArgument("a binary message must begin with the byte 0, for standard input")
        if len(data) - 1 > line.room:
            raise InvalidArgument("more input than there is credit for", next=f"at most {WINDOW} bytes, until taken")
        await line.send(contract.STDIN, data[1:])

    async def _told(self, line: Line, text: str) -> None:
        try:
            message = json.loads(text)
            kind = message["type"]
            if kind == "taken":
                await line.taken(max(0, int(message["bytes"])))
            elif kind == "resize":
                columns, rows = _side(message["columns"], "columns"), _side(message["rows"], "rows")
                await line.tell({"type": "resize", "columns": columns, "rows": rows})
            elif kind == "signal" and message["signal"] in SIGNALS:
                await line.tell({"type": "signal", "signal": message["signal"]})
            else:
                raise InvalidArgument("not understood", why=f"{text[:100]!r} is no message of this protocol")
        except (ValueError, KeyError, TypeError, OverflowError) as error:
            raise InvalidArgument("not understood", why=f"{text[:100]!r}: {error}") from error

    async def _give_credit(self) -> None:
        while True:
            await self._credit.wait()
            self._credit.clear()
            count, self._taken = self._taken, 0
            await self._say({"type": "taken", "bytes": count})

    async def _say(self, message: dict[str, Any]) -> None:
        await self._websocket.send_text(json.dumps(message, separators=(",", ":")))
