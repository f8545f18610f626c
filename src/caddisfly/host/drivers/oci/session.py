"""Commands inside a live sandbox with their streams open, in a terminal or without one.

Without one, three pipes go straight to the runtime. A terminal is made in one of two ways, because of what runtimes do
with the one that they are started in: runc copies between that and the program's own and passes its size on, runsc lets
the program have it. crun 1.8 copies, but looks at the size only once, so it is asked to hand over the program's own.

Nothing is read from a command before somebody wants it: one that floods is held back by its own pipe.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import os
import pty
import signal
import socket
import struct
import subprocess
import termios
import tty
from collections.abc import Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

from caddisfly.host import guest, inroot
from caddisfly.host.drivers.driver import STDERR, STDOUT, Attach, Window
from caddisfly.host.drivers.oci.entry import Entry
from caddisfly.host.drivers.oci.pipe import End
from caddisfly.host.drivers.oci.runtime import Runtime, environment
from caddisfly.model.errors import DeadlineExceeded, Internal, InvalidArgument

_SHELLS = ("/bin/bash", "/usr/bin/bash", "/bin/sh", "/usr/bin/sh", "/bin/ash")
_LOOK_EVERY_S = 0.002
_LINGER_S = 0.5
"""How long output may come after the command's end, from what it left in the background with its streams."""
_GRACE_S = 1.0
"""Between SIGHUP and SIGKILL."""
_COMPLAINT_MAX = 4096
_CTRL_D = b"\x04"


async def attach(
    runtime: Runtime, id: str, wanted: Attach, *, directory: Path, groups: tuple[Path, ...], timeout_s: float
) -> OciSession:
    """Returns once the command runs. Raises `InvalidArgument` for a program or a user that is not there."""
    process = await asyncio.to_thread(_process, directory, wanted)
    session = OciSession(Entry.make(runtime, id, directory, process))
    try:
        async with asyncio.timeout(timeout_s):
            await session.begin(wanted, environment(groups))
    except TimeoutError as error:
        await session.close()
        raise DeadlineExceeded(f"{runtime.name} exec took longer than {timeout_s:g} s") from error
    except BaseException:
        await session.close()
        raise
    return session


def _process(directory: Path, wanted: Attach) -> dict[str, Any]:
    """What differs from the sandbox's own program."""
    config = json.loads((directory / "config.json").read_text())
    env = {name: value for name, _, value in (entry.partition("=") for entry in config["process"]["env"])}
    root = Path(config["root"]["path"])
    process: dict[str, Any] = {"args": list(wanted.argv or (_shell(root),)), "terminal": wanted.window is not None}
    if wanted.user:
        uid, gid, gids, home = guest.user_in(root, wanted.user)
        process["user"] = {"uid": uid, "gid": gid, "additionalGids": list(gids)}
        env["HOME"] = home
    if wanted.window is not None:
        process["consoleSize"] = {"width": wanted.window.columns, "height": wanted.window.rows}
        env["TERM"] = wanted.term
    return process | {"env": [f"{name}={value}" for name, value in env.items()]}


def _shell(root: Path) -> str:
    for shell in _SHELLS:
        if inroot.is_executable(root, shell):
            return shell
    raise InvalidArgument(
        "there is no shell in this image", why=f"none of {', '.join(_SHELLS)}", next="name a program that it has"
    )


class OciSession:
    """A `Session` of drivers/driver.py."""

    def __init__(self, entry: Entry) -> None:
        self._entry = entry
        self._process: asyncio.subprocess.Process | None = None
        self._ended: asyncio.Task[int] | None = None
        self._terminal: End | None = None
        self._input: End | None = None
        self._ends: list[End] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._printed: asyncio.Queue[tuple[int, bytes] | None] = asyncio.Queue(maxsize=1)
        self._outputs: dict[int, End] = {}
        self._complaint = b""
        """What the runtime itself has to say."""

    async def begin(self, wanted: Attach, env: dict[str, str]) -> None:
        """Start the command, once."""
        if wanted.window is None:
            await self._with_pipes(env)
        elif self._entry.runtime.name == "crun":
            await self._with_its_own_terminal(wanted.window, env)
        else:
            await self._in_a_terminal(wanted.window, env)
        await self._until_it_runs()
        self._task(self._pump_all())

    async def _with_pipes(self, env: dict[str, str]) -> None:
        theirs, ours = os.pipe()
        self._input = self._own(ours)
        others = []
        for number in (STDOUT, STDERR):
            reading, writing = os.pipe()
            self._outputs[number] = self._own(reading)
            others.append(writing)
        try:
            await self._spawn(*self._entry.arguments(), stdin=theirs, stdout=others[0], stderr=others[1], env=env)
        finally:
            for descriptor in (theirs, *others):
                os.close(descriptor)

    async def _in_a_terminal(self, window: Window, env: dict[str, str]) -> None:
        master, slave = pty.openpty()
        self._show(master, window)
        if not self._entry.in_guest:
            tty.setraw(slave)  # the program's own does the rest, from the first byte on
        try:
            command = ("setsid", "--ctty", *self._entry.arguments())  # or it would not learn of a new size
            await self._spawn_aloud(*command, stdin=slave, stdout=slave, env=env)
        finally:
            os.close(slave)

    async def _with_its_own_terminal(self, window: Window, env: dict[str, str]) -> None:
        path = self._entry.directory / f"exec-{self._entry.name}.tty"
        with socket.socket(socket.AF_UNIX) as listener:
            listener.setblocking(False)
            listener.bind(str(path))
            try:
                listener.listen(1)
                command = self._entry.arguments("--tty", f"--console-socket={path}")
                await self._spawn_aloud(*command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, env=env)
                master = await self._handed_over(listener)
            finally:
                path.unlink()
        if master is not None:
            self._show(master, window)

    def _show(self, terminal: int, window: Window) -> None:
        self._terminal = self._input = self._outputs[STDOUT] = self._own(terminal)
        self.resize(window)

    async def _handed_over(self, listener: socket.socket) -> int | None:
        """The terminal that the runtime sends. None when it ends before."""
        assert self._ended is not None
        loop = asyncio.get_running_loop()
        coming = asyncio.create_task(loop.sock_accept(listener))
        try:
            await asyncio.wait((coming, self._ended), return_when=asyncio.FIRST_COMPLETED)
            if not coming.done():
                return None
            connection, _ = coming.result()
        finally:
            coming.cancel()
        with connection:
            connection.setblocking(True)
            _, descriptors, _, _ = await asyncio.to_thread(socket.recv_fds, connection, 4096, 1)
        return descriptors[0] if descriptors else None

    async def _spawn_aloud(self, *command: str, **streams: Any) -> None:
        """Spawn, and listen to what the runtime has to say for itself."""
        reading, writing = os.pipe()
        errors = self._own(reading)
        try:
            await self._spawn(*command, stderr=writing, **streams)
        finally:
            os.close(writing)
        self._task(self._listen(errors))

    async def _spawn(self, *command: str, **streams: Any) -> None:
        self._process = await asyncio.create_subprocess_exec(*command, **streams)
        self._ended = asyncio.create_task(self._process.wait(), name=f"ended-{self._entry.name}")

    def _task(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.create_task(work, name=f"session-{self._entry.name}"))

    def _own(self, descriptor: int) -> End:
        self._ends.append(End(descriptor))
        return self._ends[-1]

    async def _listen(self, end: End) -> None:
        while said := await end.read():
            self._complaint += said[: _COMPLAINT_MAX - len(self._complaint)]

    async def _until_it_runs(self) -> None:
        assert self._ended is not None
        while not self._entry.begun:
            if not self._ended.done():
                await asyncio.wait((self._ended,), timeout=_LOOK_EVERY_S)
                continue
            if self._entry.begun:
                return
            await asyncio.gather(*self._tasks, *(self._listen(end) for end in self._outputs.values()))
            said, code = self._complaint.decode(errors="replace"), self._ended.result()
            raise self._entry.refusal(code, said) or Internal(f"exec ended with {code}", why=said[-500:])

    async def _pump_all(self) -> None:
        await asyncio.gather(*(self._pump(number, end) for number, end in self._outputs.items()))
        await self._printed.put(None)

    async def _pump(self, number: int, end: End) -> None:
        assert self._ended is not None
        while True:
            reading = asyncio.create_task(end.read())
            try:
                await asyncio.wait((reading, self._ended), return_when=asyncio.FIRST_COMPLETED)
                if not reading.done():
                    await asyncio.wait((reading,), timeout=_LINGER_S)
                if not reading.done() or not (data := reading.result()):
                    return
            finally:
                reading.cancel()
            await self._printed.put((number, data))

    async def read(self) -> tuple[int, bytes] | None:
        return await self._printed.get()

    async def write(self, data: bytes) -> None:
        assert self._input is not None
        await self._input.write(data)

    async def end_input(self) -> None:
        assert self._input is not None
        if self._terminal is not None:
            await self._terminal.write(_CTRL_D)
        else:
            self._input.close()

    def resize(self, window: Window) -> None:
        if self._terminal is not None:
            size = struct.pack("HHHH", window.rows, window.columns, 0, 0)
            with suppress(OSError):  # its program has just ended
                fcntl.ioctl(self._terminal.descriptor, termios.TIOCSWINSZ, size)

    async def signal(self, number: int) -> None:
        if self._ended is not None and not self._ended.done():
            await self._entry.signal(number)

    async def wait(self) -> int:
        assert self._ended is not None
        return await asyncio.shield(self._ended)

    async def close(self) -> None:
        await self._cancel()
        try:
            if self._process is not None and self._ended is not None and not self._ended.done():
                for end in self._outputs.values():
                    self._task(_drop(end))  # a runtime that cannot get rid of output does not end
                await self._entry.signal(signal.SIGHUP, family=True)
                await asyncio.wait((self._ended,), timeout=_GRACE_S)
                if not self._ended.done():
                    await self._entry.end(self._process)
                await self._ended
        finally:
            await self._cancel()
            for end in self._ends:
                end.close()
            self._entry.forget()

    async def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _drop(end: End) -> None:
    while await end.read():
        continue
