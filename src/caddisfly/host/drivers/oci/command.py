"""Commands inside a live sandbox: their own process, both outputs apart, bounded in time and in size."""

from __future__ import annotations

import asyncio
import logging
import subprocess
from pathlib import Path

from caddisfly.host.drivers.driver import Command, CommandResult
from caddisfly.host.drivers.oci.entry import Entry
from caddisfly.host.drivers.oci.runtime import Runtime, environment
from caddisfly.model.errors import DeadlineExceeded

log = logging.getLogger(__name__)

OUTPUT_MAX = 1024 * 1024
"""Bytes kept of each output. What a command prints beyond it is read and dropped, so that it is not blocked."""


async def execute(
    runtime: Runtime, id: str, command: Command, *, directory: Path, groups: tuple[Path, ...]
) -> CommandResult:
    """Run it and wait. Raises `DeadlineExceeded` when it outlived its time, `InvalidArgument` when it is not there."""
    entry = Entry.make(runtime, id, directory, {"args": list(command.argv), "terminal": False})
    try:
        process = await asyncio.create_subprocess_exec(
            *entry.arguments(),
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
                await entry.end(process)
        if (refusal := entry.refusal(code, err.decode(errors="replace"))) is not None:
            raise refusal
        return CommandResult(exit_code=code, stdout=out, stderr=err)
    finally:
        entry.forget()


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
