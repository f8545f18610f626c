"""A command in a Machine with its streams open, as if it ran here. Caddisfly's own: Fly's API has none.

Both ends give credit: at most `WINDOW` bytes are under way in a direction until the other end says that it has taken
some. So whoever writes more than nobody reads waits, as at a pipe, and like at one, who both writes much and reads must
do so from two threads or tasks. What the command prints is fetched before it is asked for, up to that bound, so that a
reader who takes its time is not mistaken for one that is gone.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit, urlunsplit

from websockets.asyncio.client import ClientConnection as AsyncConnection
from websockets.asyncio.client import connect as connect_async
from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from caddisfly.client import errors
from caddisfly.client.calls import Call
from caddisfly.client.transport import Target

STDIN, STDOUT, STDERR = 0, 1, 2
_CHUNK = 32 * 1024
_TAKEN_EVERY = 64 * 1024
_MESSAGE_MAX = 1 << 20
_OPEN_S = 45.0
_CLOSE_S = 5.0

Output = tuple[int, bytes]


class SessionLost(errors.RetryableError):
    """It broke off. The command was hung up, or will be within seconds; what it did until then is done."""


class _Progress:
    """What is known of a session: the part of both clients that does no I/O."""

    def __init__(self) -> None:
        self.pieces: deque[Output] = deque()
        self.credit = 0
        self.exit_code: int | None = None
        self.problem: errors.ApiError | None = None
        self.over = False
        self._owed = 0

    def feed(self, message: str | bytes) -> None:
        if isinstance(message, bytes):
            self.pieces.append((message[0], message[1:]))
            return
        told = json.loads(message)
        kind = told.get("type")
        if kind == "started":
            self.credit += int(told["window"])
        elif kind == "taken":
            self.credit += int(told["bytes"])
        elif kind == "exit":
            self.exit_code = int(told["exit_code"])
        elif kind == "error":
            reason, next = str(told.get("why") or ""), str(told.get("next") or "")
            self.problem = SessionLost(str(told.get("error") or "the session failed"), reason=reason, next=next)

    def end(self) -> None:
        self.over = True
        if self.exit_code is None and self.problem is None:
            self.problem = SessionLost("the connection broke off while the command ran")

    def next(self) -> Output | None:
        """None once there is no more. Raises what ended the session, if that was not the command."""
        if self.pieces:
            return self.pieces.popleft()
        if self.problem is not None:
            raise self.problem
        return None

    def room_for(self, size: int) -> Callable[[], bool]:
        """Whether so much input may be sent, or nobody wants any."""
        return lambda: self.over or self.credit >= size

    def owed(self, piece: Output | None) -> int:
        """Of how many bytes to tell now that they are taken."""
        self._owed += len(piece[1]) if piece is not None else 0
        if self._owed < _TAKEN_EVERY:
            return 0
        owed, self._owed = self._owed, 0
        return owed


class Attachment:
    """Use it in a `with` block: leaving it hangs up a command that still runs."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection = connection
        self._progress = _Progress()
        self._changed = threading.Condition()
        self._writing = threading.Lock()
        self._pump = threading.Thread(target=self._receive, name="attachment", daemon=True)
        self._pump.start()

    @classmethod
    def open(cls, target: Target, call: Call) -> Attachment:
        """Returns once the command runs. Raises `ApiError`."""
        url = _address(target, call)
        with _understood(target):
            return cls(connect(url, **_options(target, url)))

    def __enter__(self) -> Attachment:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and when that is not known."""
        return self._progress.exit_code

    def read(self) -> Output | None:
        """What the command prints next: 1 or 2, for which output, and bytes. None at its end. Raises `SessionLost`."""
        with self._changed:
            self._changed.wait_for(lambda: self._progress.pieces or self._progress.over)
            piece = self._progress.next()
        if owed := self._progress.owed(piece):
            self._tell({"type": "taken", "bytes": owed})
        return piece

    def __iter__(self) -> Iterator[Output]:
        while (piece := self.read()) is not None:
            yield piece

    def write(self, data: bytes) -> None:
        """Give it input; waits while it has not taken what it got before. After its end, input is dropped."""
        with self._writing:
            for at in range(0, len(data), _CHUNK):
                piece = data[at : at + _CHUNK]
                with self._changed:
                    self._changed.wait_for(self._progress.room_for(len(piece)))
                    if self._progress.over:
                        return
                    self._progress.credit -= len(piece)
                self._send(bytes([STDIN]) + piece)

    def end_input(self) -> None:
        """No more input. In a terminal it is as if Ctrl-D were typed."""
        with self._writing:
            self._send(bytes([STDIN]))

    def resize(self, columns: int, rows: int) -> None:
        self._tell({"type": "resize", "columns": columns, "rows": rows})

    def signal(self, name: str) -> None:
        """Send the command a signal, such as SIGTERM."""
        self._tell({"type": "signal", "signal": name})

    def close(self) -> None:
        self._connection.close()
        self._pump.join(_CLOSE_S)

    def _tell(self, message: dict[str, Any]) -> None:
        self._send(json.dumps(message))

    def _send(self, message: str | bytes) -> None:
        try:
            self._connection.send(message)
        except ConnectionClosed:
            return  # `read` tells how it ended

    def _receive(self) -> None:
        try:
            for message in self._connection:
                with self._changed:
                    self._progress.feed(message)
                    self._changed.notify_all()
        except ConnectionClosed as error:
            _understand(self._progress, error)
        finally:
            with self._changed:
                self._progress.end()
                self._changed.notify_all()


class AsyncAttachment:
    """Use it in an `async with` block: leaving it hangs up a command that still runs."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self._progress = _Progress()
        self._changed = asyncio.Condition()
        self._writing = asyncio.Lock()
        self._pump = asyncio.create_task(self._receive(), name="attachment")

    @classmethod
    async def open(cls, target: Target, call: Call) -> AsyncAttachment:
        """Returns once the command runs. Raises `ApiError`."""
        url = _address(target, call)
        with _understood(target):
            return cls(await connect_async(url, **_options(target, url)))

    async def __aenter__(self) -> AsyncAttachment:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def exit_code(self) -> int | None:
        """None while it runs, and when that is not known."""
        return self._progress.exit_code

    async def read(self) -> Output | None:
        """What the command prints next: 1 or 2, for which output, and bytes. None at its end. Raises `SessionLost`."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._progress.pieces or self._progress.over)
            piece = self._progress.next()
        if owed := self._progress.owed(piece):
            await self._tell({"type": "taken", "bytes": owed})
        return piece

    async def __aiter__(self) -> AsyncIterator[Output]:
        while (piece := await self.read()) is not None:
            yield piece

    async def write(self, data: bytes) -> None:
        """Give it input; waits while it has not taken what it got before. After its end, input is dropped."""
        async with self._writing:
            for at in range(0, len(data), _CHUNK):
                piece = data[at : at + _CHUNK]
                async with self._changed:
                    await self._changed.wait_for(self._progress.room_for(len(piece)))
                    if self._progress.over:
                        return
                    self._progress.credit -= len(piece)
                await self._send(bytes([STDIN]) + piece)

    async def end_input(self) -> None:
        """No more input. In a terminal it is as if Ctrl-D were typed."""
        async with self._writing:
            await self._send(bytes([STDIN]))

    async def resize(self, columns: int, rows: int) -> None:
        await self._tell({"type": "resize", "columns": columns, "rows": rows})

    async def signal(self, name: str) -> None:
        """Send the command a signal, such as SIGTERM."""
        await self._tell({"type": "signal", "signal": name})

    async def close(self) -> None:
        await self._connection.close()
        await asyncio.wait((self._pump,), timeout=_CLOSE_S)

    async def _tell(self, message: dict[str, Any]) -> None:
        await self._send(json.dumps(message))

    async def _send(self, message: str | bytes) -> None:
        try:
            await self._connection.send(message)
        except ConnectionClosed:
            return  # `read` tells how it ended

    async def _receive(self) -> None:
        try:
            async for message in self._connection:
                async with self._changed:
                    self._progress.feed(message)
                    self._changed.notify_all()
        except ConnectionClosed as error:
            _understand(self._progress, error)
        finally:
            async with self._changed:
                self._progress.end()
                self._changed.notify_all()


def _address(target: Target, call: Call) -> str:
    parts = urlsplit(target.url(call))
    return urlunsplit(parts._replace(scheme="wss" if parts.scheme == "https" else "ws"))


def _options(target: Target, url: str) -> dict[str, Any]:
    headers = target.headers()
    return {
        "additional_headers": {name: value for name, value in headers.items() if name != "user-agent"},
        "user_agent_header": headers["user-agent"],
        "ssl": ssl.create_default_context() if url.startswith("wss:") else None,
        "proxy": None,
        "compression": None,
        "open_timeout": _OPEN_S,
        "close_timeout": _CLOSE_S,
        "max_size": _MESSAGE_MAX,
        "max_queue": None,
    }


@contextmanager
def _understood(target: Target) -> Iterator[None]:
    """What went wrong while connecting, as an `ApiError`."""
    try:
        yield
    except InvalidStatus as error:
        response = error.response
        raise errors.of_response(
            response.status_code,
            bytes(response.body or b""),
            request_id=response.headers.get("fly-request-id", ""),
            retry_after=response.headers.get("retry-after", ""),
        ) from error
    except (InvalidHandshake, OSError) as error:
        raise errors.ConnectionFailed(
            f"{target.base_url} does not answer: {str(error) or type(error).__name__}"
        ) from error


def _understand(progress: _Progress, error: ConnectionClosed) -> None:
    if progress.problem is None and error.rcvd is not None and error.rcvd.reason:
        progress.problem = SessionLost("the session broke off", reason=error.rcvd.reason)
