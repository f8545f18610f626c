"""Commands inside a microVM: through the guest's sshd, over a port of its own, never over the Machine's network.

One connection for each microVM, opened when it is first needed and kept: an sshd that nobody needs costs a guest 6 MB
and, without KVM, a second. Every command runs in a control group of the guest by which it is ended, with everything
that it has started.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import shlex
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from socket import MSG_PEEK, socket
from tempfile import TemporaryDirectory

import asyncssh

from caddisfly.host import guest
from caddisfly.host.drivers.driver import Attach, Command, CommandResult
from caddisfly.host.drivers.microvm.doorway import USER, Authorities
from caddisfly.host.drivers.microvm.session import GuestSession
from caddisfly.model.errors import DeadlineExceeded, InvalidArgument, Unavailable

log = logging.getLogger(__name__)
asyncssh.set_log_level("WARNING")

OUTPUT_MAX = 1 << 20
"""Bytes kept of each output. What a command prints beyond it is read and dropped, so that it is not blocked."""

_ENTER_S = 30.0
_END_S = 5.0
_LOOK_S = 0.01
_STALE_MAX = 4 << 20
_CHUNK = 64 * 1024
_SHELLS = ("/bin/bash", "/bin/sh")
_GROUPS = "/sys/fs/cgroup/app"
_NOT_RUN = b"unshare: failed to execute "


class Entrance:
    """The way into one microVM. `open_stream` connects, and tells the guest to say a word and then be sshd."""

    def __init__(
        self, directory: Path, authorities: Authorities, open_stream: Callable[[str], Awaitable[socket]]
    ) -> None:
        self._directory, self._authorities, self._open = directory, authorities, open_stream
        self._connection: asyncssh.SSHClientConnection | None = None
        self._lock = asyncio.Lock()

    async def execute(self, command: Command) -> CommandResult:
        """Run it. Raises `DeadlineExceeded` when it outlived its time, `InvalidArgument` when it is not there."""
        connection = await self._connected()
        group = f"{_GROUPS}/x{secrets.token_hex(8)}"
        line = f"/enter {group} {shlex.join(command.argv)}; code=$?; rmdir {group} 2>/dev/null; exit $code"
        try:
            async with asyncio.timeout(command.timeout_s):
                code, out, err = await _run(connection, line, command.stdin)
        except TimeoutError as error:
            await self._end(connection, group)
            raise DeadlineExceeded(
                f"command outlived its timeout of {command.timeout_s:g} s", next="give a longer timeout"
            ) from error
        except BaseException as error:
            if not connection.is_closed():
                await self._end(connection, group)
            if isinstance(error, (asyncssh.Error, OSError)):
                raise Unavailable("the microVM let go of a command", why=str(error)) from error
            raise
        if code in (126, 127) and err.startswith(_NOT_RUN):
            raise InvalidArgument(f"cannot run {command.argv[0]!r}", why=err.decode(errors="replace").strip()[-500:])
        return CommandResult(exit_code=code, stdout=out, stderr=err)

    async def ask(self, line: str, stdin: bytes, *, timeout_s: float) -> bytes:
        """What a line of ours prints, which is run as the guest's root and not where the Machine's program runs."""
        connection = await self._connected()
        try:
            async with asyncio.timeout(timeout_s):
                return (await _run(connection, line, stdin))[1]
        except (asyncssh.Error, OSError) as error:
            raise Unavailable("the microVM does not answer", why=str(error) or "in time") from error

    async def attach(self, wanted: Attach) -> GuestSession:
        """Begin it. Raises `InvalidArgument` for a program, or a shell, that is not there."""
        given = {"AS_TERM": wanted.term if wanted.window else ""} | (await self._account(wanted.user))
        argv = await self._found(wanted)
        connection = await self._connected()
        group = f"{_GROUPS}/x{secrets.token_hex(8)}"
        names = "".join(f"{name}={shlex.quote(value)} " for name, value in given.items() if value)
        line = f"{names}/enter {group} {shlex.join(argv)}; code=$?; rmdir {group} 2>/dev/null; exit $code"
        window = wanted.window
        try:
            process = await connection.create_process(
                line,
                encoding=None,
                request_pty="force" if window else False,
                term_type=wanted.term if window else None,
                term_size=(window.columns, window.rows) if window else (),
            )
        except (asyncssh.Error, OSError) as error:
            raise Unavailable("the microVM did not take a command", why=str(error)) from error

        async def order(line: str) -> None:
            with suppress(asyncssh.Error, OSError, TimeoutError):
                async with asyncio.timeout(_END_S):
                    await connection.run(line)

        return GuestSession(process, group, terminal=window is not None, order=order)

    async def _account(self, user: str) -> dict[str, str]:
        """Who a user is, by the guest's own files."""
        if not user:
            return {}
        with TemporaryDirectory() as place:
            (Path(place) / "etc").mkdir()
            for name in ("passwd", "group"):
                with suppress(InvalidArgument):  # without a `cat` only numbers are known
                    asked = Command(argv=("/bin/cat", f"/etc/{name}"), timeout_s=_ENTER_S)
                    (Path(place) / "etc" / name).write_bytes((await self.execute(asked)).stdout)
            uid, gid, _, home = guest.user_in(Path(place), user)
        return {"AS_USER": f"{uid}:{gid}", "AS_HOME": home}

    async def _found(self, wanted: Attach) -> tuple[str, ...]:
        """What is to be run, once it is known to be there, as far as the image has a shell to ask."""
        if not wanted.argv:
            for shell in _SHELLS:
                with suppress(InvalidArgument):
                    await self.execute(Command(argv=(shell, "-c", "true"), timeout_s=_ENTER_S))
                    return (shell,)
            raise InvalidArgument("there is no shell in the image", next="name a program that is there")
        try:
            asked = Command(argv=("/bin/sh", "-c", 'command -v "$0"', wanted.argv[0]), timeout_s=_ENTER_S)
            code = (await self.execute(asked)).exit_code
        except InvalidArgument:
            return wanted.argv  # nobody to ask: it shows
        if code:
            raise InvalidArgument(f"cannot run {wanted.argv[0]!r}", why="it is not in the image, or not executable")
        return wanted.argv

    async def close(self) -> None:
        """Leave. Commands that run end."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.abort()
            await connection.wait_closed()

    async def _connected(self) -> asyncssh.SSHClientConnection:
        async with self._lock:
            if self._connection is None or self._connection.is_closed():
                self._connection = await self._enter()
            return self._connection

    async def _enter(self) -> asyncssh.SSHClientConnection:
        organization = (self._directory / "organization").read_text()
        key, certificate = self._authorities.pass_for(organization)
        word = secrets.token_hex(8)
        stream = await self._open(word)
        try:
            async with asyncio.timeout(_ENTER_S):
                await _skip(stream, f"{word}\n".encode())
                return await asyncssh.connect(
                    host=self._directory.name,
                    sock=stream,
                    username=USER,
                    client_keys=[(key, certificate)],
                    known_hosts=None,  # it is the process that holds the guest's memory that is at the other end
                    agent_path=None,
                    config=None,
                    compression_algs=None,
                )
        except (asyncssh.Error, OSError, TimeoutError) as error:
            stream.close()
            raise Unavailable("the microVM cannot be entered", why=str(error) or "its sshd does not answer") from error

    async def _end(self, connection: asyncssh.SSHClientConnection, group: str) -> None:
        """Kill whatever is in it."""
        with suppress(asyncssh.Error, OSError, TimeoutError):
            async with asyncio.timeout(_END_S):
                await connection.run(f"echo 1 > {group}/cgroup.kill; sleep 0.1; rmdir {group}")


async def _skip(stream: socket, mark: bytes) -> None:
    """Drop what comes before and with the mark, and nothing after it. Raises `OSError` when too much comes."""
    loop = asyncio.get_running_loop()
    dropped = 0
    while True:
        arrived = asyncio.Event()
        loop.add_reader(stream, arrived.set)
        try:
            await arrived.wait()
        finally:
            loop.remove_reader(stream)
        data = stream.recv(_CHUNK, MSG_PEEK)
        at = data.find(mark)
        if at >= 0:
            stream.recv(at + len(mark))
            return
        dropped += len(stream.recv(max(1, len(data) - len(mark) + 1)) if len(data) >= len(mark) else b"")
        if not data or dropped > _STALE_MAX:
            raise OSError("it does not say the word")
        if len(data) < len(mark):
            await asyncio.sleep(_LOOK_S)


async def _run(connection: asyncssh.SSHClientConnection, line: str, stdin: bytes) -> tuple[int, bytes, bytes]:
    """Its exit code and both outputs."""
    process = await connection.create_process(line, encoding=None)
    # Its own `close` waits for the command to end, which is what may never happen.
    out, err, _ = await asyncio.gather(_bounded(process.stdout), _bounded(process.stderr), _feed(process.stdin, stdin))
    status = (await process.wait()).exit_status
    return status if status is not None else 255, out, err


async def _bounded(stream: asyncssh.SSHReader[bytes]) -> bytes:
    kept = bytearray()
    while chunk := await stream.read(_CHUNK):
        kept += chunk[: OUTPUT_MAX - len(kept)]
    return bytes(kept)


async def _feed(stream: asyncssh.SSHWriter[bytes], data: bytes) -> None:
    try:
        stream.write(data)
        await stream.drain()
        stream.write_eof()
    except (BrokenPipeError, ConnectionResetError):
        log.debug("exec.stdin_closed")  # the command did not want it
