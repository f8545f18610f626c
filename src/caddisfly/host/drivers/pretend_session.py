"""A command with its streams open that nobody runs: a shell that knows the few commands of `pretend`, and `cat`.

In a terminal it does what a terminal's driver and a shell's line editor do between them, and no more: what is typed is
shown, Enter runs it, Ctrl-C interrupts it, Ctrl-D ends the shell. `stty size` tells the size of the window.
"""

from __future__ import annotations

import asyncio
import shlex
import signal
from collections.abc import Coroutine
from typing import Any

from caddisfly.host.drivers import pretend
from caddisfly.host.drivers.driver import STDERR, STDOUT, Attach, Command, Sandbox, Window

_PROMPT = b"pretend$ "
_CTRL_C, _CTRL_D, _BACKSPACE = 3, 4, (8, 127)
_ENTER = (10, 13)
_LINE_MAX = 4096
_QUEUE = 8
_LONGEST_S = 86_400.0


class PretendSession:
    """A `Session` of driver.py, in a sandbox that only seems to be one."""

    def __init__(self, sandbox: Sandbox, wanted: Attach, *, code: int) -> None:
        """`code` is that of every command, or 0."""
        self._sandbox, self._wanted, self._code = sandbox, wanted, code
        self._window = wanted.window
        self._typed: asyncio.Queue[bytes] = asyncio.Queue(_QUEUE)
        self._printed: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(_QUEUE)
        self._running: asyncio.Task[int] | None = None
        self._main = asyncio.create_task(self._run(), name=f"pretend-{sandbox.id}")

    async def read(self) -> tuple[int, bytes] | None:
        return await self._printed.get()

    async def write(self, data: bytes) -> None:
        """Ctrl-C does not wait in line behind what nobody reads."""
        if self._window is not None and _CTRL_C in data and self._running is not None:
            self._running.cancel()
        await self._or_ended(self._typed.put(data))

    async def end_input(self) -> None:
        await self._or_ended(self._typed.put(b"" if self._window is None else bytes([_CTRL_D])))

    def resize(self, window: Window) -> None:
        self._window = window

    async def signal(self, number: int) -> None:
        if not self._main.done():
            self._code = 128 + number
            self._main.cancel()

    def kill(self) -> None:
        """Its sandbox has ended."""
        self._code = 128 + signal.SIGKILL
        self._main.cancel()

    async def wait(self) -> int:
        await asyncio.wait((self._main,))
        return self._code if self._main.cancelled() else self._main.result()

    async def close(self) -> None:
        self._main.cancel()
        await asyncio.gather(self._main, return_exceptions=True)

    async def _or_ended(self, work: Coroutine[Any, Any, None]) -> None:
        doing = asyncio.create_task(work)
        await asyncio.wait((doing, self._main), return_when=asyncio.FIRST_COMPLETED)
        doing.cancel()

    async def _run(self) -> int:
        try:
            code = await self._program()
        except asyncio.CancelledError:
            if self._printed.full():
                self._printed.get_nowait()
            self._printed.put_nowait(None)
            raise
        await self._printed.put(None)
        return self._code or code

    async def _program(self) -> int:
        argv = self._wanted.argv or ("sh",)
        if pretend.is_shell(argv[0]) and not {"-c", "-lc"} & set(argv[1:]):
            return await (self._script() if self._window is None else self._prompt())
        if pretend.name(argv[0]) == "cat" and self._window is None:
            return await self._cat()
        return await self._execute(argv)

    async def _cat(self) -> int:
        for file in self._wanted.argv[1:]:
            if file not in ("-", "--"):
                await self._print(STDERR, f"cat: {file}: No such file or directory\n".encode())
                return 1
        while data := await self._typed.get():
            await self._print(STDOUT, data)
        return 0

    async def _script(self) -> int:
        """Lines as they come, without a prompt."""
        code, rest, ended = 0, b"", False
        while not ended:
            data = await self._typed.get()
            ended = not data
            *lines, rest = (rest + data).split(b"\n") if data else (rest, b"")
            for line in lines:
                code, left = await self._line(line.decode(errors="replace"), code)
                if left:
                    return code
        return code

    async def _prompt(self) -> int:
        await self._print(STDOUT, b"caddis dev runs nothing: this shell only pretends\r\n" + _PROMPT)
        code, line = 0, bytearray()
        while True:
            for byte in await self._typed.get():
                if byte == _CTRL_D and not line:
                    await self._print(STDOUT, b"exit\r\n")
                    return code
                if byte == _CTRL_C:
                    line.clear()
                    code = 130
                    await self._print(STDOUT, b"^C\r\n" + _PROMPT)
                elif byte in _BACKSPACE:
                    if line:
                        line.pop()
                        await self._print(STDOUT, b"\b \b")
                elif byte in _ENTER:
                    await self._print(STDOUT, b"\r\n")
                    code, left = await self._line(line.decode(errors="replace"), code)
                    line.clear()
                    if left:
                        return code
                    await self._print(STDOUT, _PROMPT)
                elif byte >= 32 and len(line) < _LINE_MAX:
                    line.append(byte)
                    await self._print(STDOUT, bytes([byte]))

    async def _line(self, line: str, code: int) -> tuple[int, bool]:
        """Run a line of a shell: the code, and whether it leaves the shell."""
        words = line.split()
        if not words:
            return code, False
        if words[0] == "exit":
            return (int(words[1]) & 255 if words[1:] and words[1].isdecimal() else code), True
        self._running = asyncio.create_task(self._execute(("sh", "-c", line)))
        try:
            await asyncio.wait((self._running,))
        finally:
            self._running.cancel()
        if self._running.cancelled():
            return 130, False
        return self._running.result(), False

    async def _execute(self, argv: tuple[str, ...]) -> int:
        if shlex.join(argv[-1:]).strip("'") == "stty size" or argv == ("stty", "size"):
            return await self._size()
        command = Command(argv=argv, timeout_s=_LONGEST_S)
        result = await pretend.execute(self._sandbox, command)
        for number, data in ((STDOUT, result.stdout), (STDERR, result.stderr)):
            if data:
                await self._print(number, data if self._window is None else data.replace(b"\n", b"\r\n"))
        return result.exit_code

    async def _size(self) -> int:
        if self._window is None:
            await self._print(STDERR, b"stty: standard input: Not a tty\n")
            return 1
        await self._print(STDOUT, f"{self._window.rows} {self._window.columns}\r\n".encode())
        return 0

    async def _print(self, number: int, data: bytes) -> None:
        await self._printed.put((STDOUT if self._window is not None else number, data))
