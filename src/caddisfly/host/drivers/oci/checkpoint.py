"""Suspend under gVisor: `runsc checkpoint`, and what must be sure before it may be asked for.

runsc writes no sandbox to disk that has an end of a TCP connection, and one that it refuses is lost: its kernel dies
of the refusal. Nor can a sandbox be asked which connections it has: its /proc/net/tcp leaves out what was accepted, and
what was closed but lingers. So it is put together, and believed only when nothing contradicts it:

1. The host's connection tracking has seen every packet, and says which ends may still be open (`Traffic`).
2. The sandbox counts how many connections are established inside, also those that it has with itself: none may be.
3. Connections that it began itself may linger unseen for a minute, if they were with itself; so it must not have begun
   any for so long.
4. From before that was asked no new connection is let through, then the sandbox is paused, and the host is asked again.

Until all is sure it runs on, and anyone who needs it meanwhile has it. What does not come to be sure in `drain_s` is
not tried: the caller stops the Machine instead, which loses nothing unsaid.

The checkpoint is a process of its own that outlives an agent: it holds a lock while it works, and leaves the file
`complete` beside what it wrote when it came to its end.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import platform
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from caddisfly.host.drivers.driver import Bind, Command, CommandResult, NotSuspended
from caddisfly.host.drivers.oci.runtime import Runtime, end, environment
from caddisfly.model.errors import FailedPrecondition, Internal

log = logging.getLogger(__name__)

_LINGERS_S = 62.0
_LOOK_FIRST_S, _LOOK_MAX_S = 0.1, 1.0
_CHECKPOINT_TIMEOUT_S = 120.0
TOOL = Path("/bin/busybox")
_TOOL_INSIDE = "/fly/busybox"
BIND = Bind(source=TOOL, target=_TOOL_INSIDE)
_VIEW = Command(
    argv=(_TOOL_INSIDE, "cat", "/proc/net/snmp", "/proc/net/tcp", "/proc/net/tcp6"),
    timeout_s=10.0,
)
_LISTENS, _CLOSED = "0A", "07"
_LOOPBACK4, _LOOPBACK6 = "0100007F", "00000000000000000000000001000000"
_COMPLETE = "complete"
# Not before the lock is free: an agent that died may have left one at work.
_SCRIPT = 'test -e "$0" || { "$@" && : > "$0"; }'


class Traffic(Protocol):
    """What the network knows of a sandbox, by its id."""

    async def hush(self, id: str) -> None: ...

    async def unhush(self, id: str) -> None: ...

    async def attempts(self, id: str) -> int: ...

    async def open_connections(self, id: str) -> tuple[str, ...]: ...


@dataclass(frozen=True, slots=True)
class Quiet:
    """How it is made sure that a sandbox has no connections. `drain_s`: how long those that it has may take to end."""

    traffic: Traffic
    drain_s: float


Execute = Callable[[str, Command], Awaitable[CommandResult]]


def has_tool() -> bool:
    """Whether the host's busybox runs in any root, because it needs no libraries."""
    try:
        with TOOL.open("rb") as file:
            return b"/ld-linux" not in file.read(4096)
    except OSError:
        return False


def build(name: str) -> str:
    """What a snapshot depends on: this very gVisor, and what this computer's CPU can do."""
    binary = shutil.which(name.rpartition("/")[2])
    release = os.stat(binary) if binary is not None else None
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    able = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    program = f"{name} of {release.st_size} bytes, {release.st_mtime_ns}" if release else f"no {name}"
    return f"{program}, {platform.machine()} {hashlib.sha256(able.encode()).hexdigest()[:12]}"


class Suspending:
    """One suspend of one sandbox, by one agent."""

    def __init__(
        self,
        id: str,
        *,
        directory: Path,
        runtime: Runtime,
        quiet: Quiet,
        execute: Execute,
        timeout_s: float,
    ) -> None:
        """`directory` is where the driver keeps what it knows of the sandbox."""
        self._id, self._runtime, self._traffic, self._execute = id, runtime, quiet.traffic, execute
        self._directory, self._timeout_s, self._drain_s = directory, timeout_s, quiet.drain_s
        self._needed = asyncio.Event()
        self._sure = False
        self._begun: tuple[int, float] | None = None
        """How many connections it had begun, and since when it has not begun another."""

    def keep_running(self) -> bool:
        """Whether it is not too late."""
        if not self._sure:
            self._needed.set()
        return not self._sure

    async def run(self, directory: Path) -> None:
        """Write it to `directory`. Raises `NotSuspended` while it runs on, `Internal` when it is lost."""
        complete, lock = directory / _COMPLETE, self._directory / "checkpoint.lock"
        again = lock.exists()
        await asyncio.to_thread(_wait_for, lock)
        if complete.exists():
            return
        if again and await self._status() == "paused":  # by an agent that died
            await self._runtime.run("resume", self._id, timeout_s=self._timeout_s)
        try:
            await self._become_sure()
            await self._checkpoint(directory, complete, lock)
        finally:
            await self._traffic.unhush(self._id)

    async def _become_sure(self) -> None:
        until, pause_s = time.monotonic() + self._drain_s, _LOOK_FIRST_S
        while True:
            doubt = await self._doubt()
            if not doubt:
                return
            await self._traffic.unhush(self._id)
            log.debug("checkpoint.not_sure", extra={"sandbox": self._id, "reason": doubt})
            if time.monotonic() + pause_s > until:
                raise NotSuspended(
                    "unable to suspend machine: gVisor keeps no open TCP connections and no commands from outside",
                    why=doubt,
                    next="end them, or stop the machine instead",
                )
            try:
                async with asyncio.timeout(pause_s):
                    await self._needed.wait()
            except TimeoutError:
                pause_s = min(pause_s * 2, _LOOK_MAX_S)
            else:
                raise NotSuspended("it was needed before its memory was on disk")

    async def _doubt(self) -> str:
        """Why it may have an end of a connection. Empty: it has none, is paused, and cannot get any."""
        found = await self._traffic.open_connections(self._id)
        if found:
            return found[0]
        await self._traffic.hush(self._id)
        doubt = self._inside((await self._execute(self._id, _VIEW)).stdout.decode(errors="replace")) or self._busy()
        if doubt or self._needed.is_set():
            return doubt or "it was needed"
        await self._runtime.run("pause", self._id, timeout_s=self._timeout_s)
        try:
            found = await self._traffic.open_connections(self._id)
            tried = await self._traffic.attempts(self._id)
            doubt = found[0] if found else "it began a connection in this moment" if tried else self._busy()
            self._sure = not doubt
            return doubt
        finally:
            if not self._sure:
                await self._runtime.run("resume", self._id, timeout_s=self._timeout_s)

    def _busy(self) -> str:
        """Its streams belong to somebody outside, and would be gone."""
        return "a command runs in it" if any(self._directory.glob("exec-*.json")) else ""

    def _inside(self, text: str) -> str:
        """What its own kernel says against it."""
        tables = [line.split() for line in text.splitlines()]
        names, values, *_ = [words[1:] for words in tables if words[:1] == ["Tcp:"]] or [[], []]
        counts = dict(zip(names, values, strict=True))
        try:
            established, begun = int(counts["CurrEstab"]), int(counts["ActiveOpens"])
        except KeyError:
            return "its kernel does not say how many connections it has"
        now = time.monotonic()
        if self._begun is None or self._begun[0] != begun:
            self._begun = (begun, now)
        if established:
            return f"{established} ends of connections are established inside"
        for words in tables:
            if len(words) > 3 and words[0].endswith(":") and words[0][:-1].isdigit():
                other = words[2].partition(":")[0]
                if words[3] not in (_LISTENS, _CLOSED) and other not in (_LOOPBACK4, _LOOPBACK6):
                    return f"a connection to {words[2]} is in state {words[3]}"
        if begun and now - self._begun[1] < _LINGERS_S:
            return "it began a connection less than a minute ago"
        return ""

    async def _status(self) -> str:
        record = json.loads(await self._runtime.run("state", self._id, timeout_s=self._timeout_s))
        return str(record["status"])

    async def _checkpoint(self, directory: Path, complete: Path, lock: Path) -> None:
        command = [str(self._runtime.command), *self._runtime.options, "checkpoint", f"--image-path={directory}"]
        process = await asyncio.create_subprocess_exec(
            *("flock", "--close", str(lock), "/bin/sh", "-c", _SCRIPT, str(complete)),
            *(*command, self._id),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
            start_new_session=True,
        )
        try:
            async with asyncio.timeout(_CHECKPOINT_TIMEOUT_S):
                _, said = await process.communicate()
        except TimeoutError as error:
            await end(process)
            raise Internal("its memory could not be written", why="it took too long") from error
        if process.returncode:
            why = said.decode(errors="replace").strip()[-2000:]
            log.error("checkpoint.failed", extra={"sandbox": self._id, "reason": why})
            raise Internal("its memory could not be written", why="gVisor refused, and its sandbox is lost")


def _wait_for(lock: Path) -> None:
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    finally:
        os.close(descriptor)


def unavailable(name: str, quiet: Quiet | None) -> str:
    """Why sandboxes of this runtime cannot be suspended here; empty when they can."""
    if name != "runsc":
        return f"{name} cannot write memory to disk; it can be paused"
    if quiet is None:
        return "nobody here knows its connections"
    return "" if has_tool() else f"{TOOL} is not static: apt-get install busybox-static"


def must_be(reason: str) -> None:
    if reason:
        raise FailedPrecondition(
            "unable to suspend machine: its host cannot keep memory on disk", why=reason, next="stop it instead"
        )
