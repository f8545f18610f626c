"""A command on its way into a sandbox, and how it is found again to be ended.

The runtime's own `exec` leaves the command running when it is killed itself, so the command's process is known by a pid
file and is ended with everything it started. The file outlives the agent: the next one ends what nobody waits for.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
import signal
import time
import uuid
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caddisfly.host.drivers.oci.runtime import Runtime, end
from caddisfly.model.errors import InvalidArgument, Problem

log = logging.getLogger(__name__)

_REAP_S = 2.0
_NOT_FOUND_CODES = (1, 126, 127, 128, 255)
_NOT_FOUND_WORDS = ("executable file", "no such file", "not found", "permission denied")
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CLOCK_SLACK_S = 1.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One command in one sandbox. `directory` is the sandbox's, `name` is used once."""

    runtime: Runtime
    id: str
    directory: Path
    name: str

    @classmethod
    def make(cls, runtime: Runtime, id: str, directory: Path, process: dict[str, Any]) -> Entry:
        """`process` is what differs from the sandbox's first one, as a bundle says it."""
        entry = cls(runtime, id, directory, uuid.uuid4().hex[:16])
        specification: dict[str, Any] = json.loads((directory / "config.json").read_text())["process"]
        entry.process_file.write_text(json.dumps(specification | process))
        return entry

    @property
    def process_file(self) -> Path:
        return self.directory / f"exec-{self.name}.json"

    @property
    def pid_file(self) -> Path:
        return self.directory / f"exec-{self.name}.pid"

    def arguments(self, *options: str) -> tuple[str, ...]:
        """What runs it."""
        pid = "--internal-pid-file" if self.in_guest else "--pid-file"
        words = ("exec", *options, f"--process={self.process_file}", f"{pid}={self.pid_file}", self.id)
        return (str(self.runtime.maker), *self.runtime.options, *words)

    @property
    def in_guest(self) -> bool:
        """Whether its processes have no numbers on the host."""
        return self.runtime.name == "runsc"

    @property
    def begun(self) -> bool:
        """Whether its program runs or has run."""
        return self.pid() is not None

    def pid(self) -> int | None:
        """The host's number of its first process; the guest's own where the host has none."""
        try:
            return int(self.pid_file.read_text())
        except (FileNotFoundError, ValueError):
            return None

    def refusal(self, code: int, said: str) -> InvalidArgument | None:
        """What it means that it ended with this code, if that means that there was no such program."""
        words = said.lower()
        if code not in _NOT_FOUND_CODES or self.begun or not any(word in words for word in _NOT_FOUND_WORDS):
            return None
        program = json.loads(self.process_file.read_text())["args"][0]
        return InvalidArgument(f"cannot run {program!r}", why=said.strip()[-500:])

    async def signal(self, number: int, *, family: bool = False) -> None:
        """Signal its first process; with `family`, also all that come from it."""
        pid = self.pid()
        if pid is None:
            return
        if self.in_guest:
            await self._signal_in_guest(pid, number, family=family)
        else:
            signal_tree(pid, number) if family else _send(pid, number)

    async def _signal_in_guest(self, pid: int, number: int, *, family: bool) -> None:
        try:
            pids = [pid, *(await self._children_in_guest(pid) if family else ())]
            for one in pids:
                await self.runtime.run("kill", f"--pid={one}", self.id, str(number), timeout_s=_REAP_S)
        except Problem as error:
            log.debug("exec.not_signalled", extra={"sandbox": self.id, "reason": str(error)})

    async def _children_in_guest(self, pid: int) -> list[int]:
        lines = (await self.runtime.run("ps", self.id, timeout_s=_REAP_S)).splitlines()[1:]
        parents = {int(words[1]): int(words[2]) for line in lines if len(words := line.split()) > 2}
        found = [pid]
        for one in found:
            found += [child for child, parent in parents.items() if parent == one and child not in found]
        return found[1:]

    async def end(self, process: asyncio.subprocess.Process) -> None:
        """Kill it and let the runtime, its parent, reap it: an orphan would hold the sandbox until init does."""
        await self.signal(signal.SIGKILL, family=True)
        try:
            async with asyncio.timeout(_REAP_S):
                await process.wait()
        except TimeoutError:
            await end(process)

    def forget(self) -> None:
        self.process_file.unlink(missing_ok=True)
        self.pid_file.unlink(missing_ok=True)


def leftovers(runtime: Runtime, directory: Path) -> Iterator[Entry]:
    """Commands in this sandbox that somebody began who is not there any more."""
    for file in directory.glob("exec-*.json"):
        yield Entry(runtime, directory.name, directory, file.stem.removeprefix("exec-"))


async def end_leftover(entry: Entry, members: Collection[int]) -> None:
    """Kill it, if it is still the same: `members` are the processes of its sandbox, none of a guest's."""
    pid = entry.pid()
    if pid is not None and (entry.in_guest or (pid in members and _as_old_as(pid, entry.pid_file))):
        log.info("exec.left_over", extra={"sandbox": entry.id, "pid": pid})
        await entry.signal(signal.SIGKILL, family=True)
    entry.forget()


def _as_old_as(pid: int, file: Path) -> bool:
    """Whether the process was there when the file was written: its number may have been taken over by another."""
    try:
        ticks = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
        uptime_s = float(Path("/proc/uptime").read_text().split()[0])
        age_s = uptime_s - ticks / _TICKS_PER_S
        return age_s + _CLOCK_SLACK_S >= time.time() - file.stat().st_mtime
    except (FileNotFoundError, ProcessLookupError):
        return False


def signal_tree(root: int, number: int) -> None:
    """Signal a process and all that come from it, parents first."""
    pending = [root]
    while pending:
        pid = pending.pop()
        try:
            for task in Path(f"/proc/{pid}/task").iterdir():
                pending += [int(child) for child in (task / "children").read_text().split()]
        except (FileNotFoundError, ProcessLookupError):
            continue
        _send(pid, number)


def _send(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
