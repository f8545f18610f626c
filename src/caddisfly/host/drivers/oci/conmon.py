"""conmon, the shim that stays with each sandbox: it holds the console, the log and the exit code.

It costs 0.3 MB of its own memory and outlives whoever started it. Its traces are files, so that an agent that comes
back later reads the same as the one that left: `conmon.pid`, `pid`, `exit/<id>`.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
from collections.abc import Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from caddisfly.host.drivers.driver import Sandbox
from caddisfly.host.drivers.oci.runtime import end, environment
from caddisfly.model.errors import DeadlineExceeded, FailedPrecondition, Internal

_BINARY = "conmon"


class Maker(Protocol):
    """What conmon calls to make a sandbox: an OCI runtime, or what behaves like one."""

    @property
    def name(self) -> str: ...

    @property
    def maker(self) -> Path: ...

    @property
    def options(self) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Shim:
    """The files of one sandbox's conmon."""

    id: str
    directory: Path

    @property
    def bundle(self) -> Path:
        return self.directory

    @property
    def pid_file(self) -> Path:
        return self.directory / "pid"

    @property
    def exit_file(self) -> Path:
        return self.directory / "exit" / self.id

    @property
    def control(self) -> Path:
        """The fifo on which it takes orders, such as to open its log file again."""
        return self.directory / "ctl"

    def pid(self) -> int | None:
        """The sandbox's first process, as the host numbers it."""
        return _number(self.pid_file)

    def exit_code(self) -> int | None:
        return _number(self.exit_file)

    def own_pid(self) -> int | None:
        """conmon's own process, None when it is gone. A number taken over by another process does not count."""
        pid = _number(self.directory / "conmon.pid")
        if pid is None:
            return None
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError):
            return None
        return pid if self.id.encode() in words else None

    async def create(
        self,
        runtime: Maker,
        sandbox: Sandbox,
        *,
        groups: tuple[Path, ...],
        timeout_s: float,
        descriptors: tuple[int, ...] = (),
        memory: Path | None = None,
    ) -> int:
        """Create the sandbox under a new conmon. Returns its first process's pid. Raises with the runtime's words.

        The sandbox inherits `descriptors`. With `memory` it goes on from there, and runs when this returns.
        """
        (self.directory / "exit").mkdir(exist_ok=True)
        reader, writer = os.pipe()
        arguments = [
            *(_BINARY, "--api-version", "1", "-c", self.id, "-u", self.id, "-n", self.id, "-b", str(self.bundle)),
            *("-r", str(runtime.maker), "-p", str(self.pid_file), "-P", str(self.directory / "conmon.pid")),
            *("-l", f"k8s-file:{sandbox.log}", "--exit-dir", str(self.exit_file.parent)),
            *("--socket-dir-path", str(self.directory), "--log-level", "error"),
            *(("--log-size-max", str(sandbox.log_max_bytes)) if sandbox.log_max_bytes else ()),
            *(("--terminal",) if sandbox.tty else ()),
            *(("--restore", str(memory)) if memory is not None else ()),
            *(f"--runtime-arg={option}" for option in runtime.options),
        ]
        try:
            process = await asyncio.create_subprocess_exec(
                *arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(writer, *descriptors),
                env={**environment(groups), "_OCI_SYNCPIPE": str(writer)},
                start_new_session=True,
                cwd=self.directory,  # where it leaves its notes, such as the file `oom`
            )
        except FileNotFoundError as error:
            os.close(reader)
            raise FailedPrecondition("conmon is not installed", next="apt-get install conmon") from error
        finally:
            os.close(writer)
        try:
            answer = await _first_line(reader, timeout_s=timeout_s)
        except TimeoutError as error:
            await end(process)
            raise DeadlineExceeded(f"{runtime.name} create took longer than {timeout_s:g} s") from error
        await process.wait()
        return _created_pid(answer, runtime)


def _created_pid(answer: bytes, runtime: Maker) -> int:
    try:
        record = json.loads(answer)
        pid = int(record["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise Internal(
            f"conmon gave no answer for {runtime.name} create", why=answer.decode(errors="replace")
        ) from error
    if pid <= 0:
        raise Internal(f"{runtime.name} create failed", why=str(record.get("message", "")).strip()[-2000:])
    return pid


async def _first_line(descriptor: int, *, timeout_s: float) -> bytes:
    loop = asyncio.get_running_loop()
    stream = asyncio.StreamReader()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(stream), os.fdopen(descriptor, "rb", buffering=0)
    )
    try:
        async with asyncio.timeout(timeout_s):
            return await stream.readline()
    finally:
        transport.close()


async def gone(pid: int) -> None:
    """Return once the process has ended, whoever its parent is."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await ended.wait()
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


async def unless_gone(pid: int, work: Coroutine[None, None, None]) -> bool:
    """Whether it was done before the process ended.

    conmon keeps the sockets open that a process inherits, so who waits for an answer there would wait in vain.
    """
    doing, end = asyncio.create_task(work), asyncio.create_task(gone(pid))
    try:
        await asyncio.wait((doing, end), return_when=asyncio.FIRST_COMPLETED)
        if doing.done():
            doing.result()
            return True
        return False
    finally:
        doing.cancel()
        end.cancel()
        await asyncio.gather(doing, end, return_exceptions=True)


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (FileNotFoundError, ValueError):
        return None
