"""Commands inside a live sandbox: their own process, both outputs apart, bounded in time and in size.

The runtime's own `exec` leaves the command running when it is killed itself, so the command's process is known by a pid
file and is killed with everything it started.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import subprocess
import uuid
from pathlib import Path
from typing import Any

from caddisfly.host.drivers.driver import Command, CommandResult
from caddisfly.host.drivers.oci.runtime import Runtime, end, environment
from caddisfly.model.errors import DeadlineExceeded, InvalidArgument, Problem

log = logging.getLogger(__name__)

OUTPUT_MAX = 1024 * 1024
"""Bytes kept of each output. What a command prints beyond it is read and dropped, so that it is not blocked."""

_REAP_S = 2.0
_COMMAND_NOT_FOUND = ("executable file", "no such file", "not found", "permission denied")


async def execute(
    runtime: Runtime, id: str, command: Command, *, directory: Path, groups: tuple[Path, ...]
) -> CommandResult:
    """Run it and wait. Raises `DeadlineExceeded` when it outlived its time, `InvalidArgument` when it is not there."""
    specification: dict[str, Any] = json.loads((directory / "config.json").read_text())["process"]
    specification |= {"args": list(command.argv), "terminal": False}
    name = uuid.uuid4().hex
    guest_kernel = runtime.name == "runsc"  # its processes have no numbers on the host
    process_file, pid_file = directory / f"exec-{name}.json", directory / f"exec-{name}.pid"
    process_file.write_text(json.dumps(specification))
    try:
        process = await asyncio.create_subprocess_exec(
            str(runtime.maker),
            *runtime.options,
            "exec",
            f"--process={process_file}",
            f"{'--internal-pid-file' if guest_kernel else '--pid-file'}={pid_file}",
            id,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(groups),
        )
        try:
            async with asyncio.timeout(command.timeout_s):
                out, err, _ = await asyncio.gather(
                    _bounded(process.stdout), _bounded(process.stderr), _feed(process.stdin, command.stdin)
                )
                code = await process.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(
                f"command outlived its timeout of {command.timeout_s:g} s", next="give a longer timeout"
            ) from error
        finally:
            if process.returncode is None:
                if guest_kernel:
                    await _kill_in_guest(runtime, id, pid_file)
                await _end(process, None if guest_kernel else pid_file)
        said = err.decode(errors="replace").lower()
        if (
            code in (1, 126, 127, 128, 255)
            and not pid_file.exists()
            and any(word in said for word in _COMMAND_NOT_FOUND)
        ):
            raise InvalidArgument(f"cannot run {command.argv[0]!r}", why=said.strip()[-500:])
        return CommandResult(exit_code=code, stdout=out, stderr=err)
    finally:
        process_file.unlink(missing_ok=True)
        pid_file.unlink(missing_ok=True)


async def _bounded(stream: asyncio.StreamReader | None) -> bytes:
    assert stream is not None
    kept = bytearray()
    while chunk := await stream.read(65536):
        kept += chunk[: OUTPUT_MAX - len(kept)]
    return bytes(kept)


async def _feed(stream: asyncio.StreamWriter | None, data: bytes) -> None:
    assert stream is not None
    try:
        stream.write(data)
        await stream.drain()
        stream.close()
        await stream.wait_closed()
    except (BrokenPipeError, ConnectionResetError):
        log.debug("exec.stdin_closed")  # the command did not want it


async def _kill_in_guest(runtime: Runtime, id: str, pid_file: Path) -> None:
    """gVisor kills one process, not what it started."""
    try:
        await runtime.run("kill", f"--pid={int(pid_file.read_text())}", id, "KILL", timeout_s=_REAP_S)
    except (Problem, FileNotFoundError, ValueError) as error:
        log.warning("exec.not_killed", extra={"sandbox": id, "reason": str(error)})


async def _end(process: asyncio.subprocess.Process, pid_file: Path | None) -> None:
    """Kill the command and let the runtime, its parent, reap it: an orphan would hold the sandbox until init does."""
    if pid_file is not None:
        _kill_tree(pid_file)
    try:
        async with asyncio.timeout(_REAP_S):
            await process.wait()
    except TimeoutError:
        await end(process)


def _kill_tree(pid_file: Path) -> None:
    try:
        root = int(pid_file.read_text())
    except (FileNotFoundError, ValueError):
        return
    pending = [root]
    while pending:
        pid = pending.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += [int(child) for child in (task / "children").read_text().split()]
            os.kill(pid, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            continue
