"""A command in a guest with its streams open, and with a terminal where one is wanted.

The terminal is the guest's: its sshd makes it, so that what runs in it finds it in its own `/dev/pts`. Flow control is
SSH's: who does not read lets the command wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import asyncssh

from caddisfly.host.drivers.driver import STDERR, STDOUT, Window
from caddisfly.model.errors import Unavailable

_CHUNK = 32 * 1024
_QUEUE = 4
_LOOK_S, _REST_S = 0.02, 0.3
_CTRL_D = b"\x04"


class GuestSession:
    """A `Session` of driver.py. `order` runs a line in the guest as its root, beside the command."""

    def __init__(
        self,
        process: asyncssh.SSHClientProcess[bytes],
        group: str,
        *,
        terminal: bool,
        order: Callable[[str], Awaitable[None]],
    ) -> None:
        self._process, self._group, self._terminal, self._order = process, group, terminal, order
        self._printed: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(_QUEUE)
        self._reading = asyncio.create_task(self._read_all(), name=f"guest-session-{group.rpartition('/')[2]}")

    async def read(self) -> tuple[int, bytes] | None:
        found = await self._printed.get()
        if found is None:
            self._printed.put_nowait(None)  # who asks again is told again
        return found

    async def _read_all(self) -> None:
        streams = [(STDOUT, self._process.stdout)]
        if not self._terminal:
            streams.append((STDERR, self._process.stderr))
        passing = [asyncio.create_task(self._pass_on(number, stream)) for number, stream in streams]
        try:
            # SSH tells how a command ended before its outputs do, and asyncssh has no event for it.
            while self._process.returncode is None and not all(task.done() for task in passing):  # noqa: ASYNC110
                await asyncio.sleep(_LOOK_S)
            # What is still open is held by something that it left in the background.
            await asyncio.wait(passing, timeout=_REST_S)
        finally:
            for task in passing:
                task.cancel()
            await asyncio.gather(*passing, return_exceptions=True)
        await self._printed.put(None)

    async def _pass_on(self, number: int, stream: asyncssh.SSHReader[bytes]) -> None:
        try:
            while data := await stream.read(_CHUNK):
                await self._printed.put((number, data))
        except (asyncssh.Error, OSError):
            return  # the guest has ended; `wait` says so

    async def write(self, data: bytes) -> None:
        try:
            self._process.stdin.write(data)
            await self._process.stdin.drain()
        except (BrokenPipeError, ConnectionResetError, asyncssh.Error):
            return  # it does not want it

    async def end_input(self) -> None:
        if self._terminal:
            await self.write(_CTRL_D)
            return
        try:
            self._process.stdin.write_eof()
        except (BrokenPipeError, ConnectionResetError, asyncssh.Error):
            return  # it has ended

    def resize(self, window: Window) -> None:
        if not self._process.is_closing():
            self._process.change_terminal_size(window.columns, window.rows)

    async def signal(self, number: int) -> None:
        await self._order(f"kill -{number} $(head -n 1 {self._group}/cgroup.procs)")

    async def wait(self) -> int:
        """Raises `Unavailable` when the guest went away with it."""
        while self._process.returncode is None:
            if self._process.channel.is_closing() or self._process.channel.get_connection().is_closed():
                raise Unavailable("the microVM let go of a command", why="the way to its guest was closed")
            await asyncio.sleep(_LOOK_S)
        number = self._process.returncode
        return 128 - number if number < 0 else number

    async def close(self) -> None:
        """As a terminal that is gone: SIGHUP first, and after a moment the end of all that it has started."""
        if self._process.exit_status is None and self._process.exit_signal is None:
            await self._order(
                f"kill -HUP $(cat {self._group}/cgroup.procs); sleep 1; echo 1 > {self._group}/cgroup.kill; "
                f"sleep 0.1; rmdir {self._group}"
            )
        self._process.close()
        self._reading.cancel()
        await asyncio.gather(self._reading, return_exceptions=True)
