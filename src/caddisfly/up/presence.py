"""Who runs the platform on this computer now: one lock, one record of processes.

The lock (`up.lock`, flock) is held by the supervisor and by nothing else, so the kernel releases it however the
supervisor ends. The record (`up.json`) names every child with its start time, so that a supervisor that was killed can
be followed by one that knows what it left behind, and never kills a stranger that was given a recycled pid.
"""

from __future__ import annotations

import fcntl
import json
import os
import select
import signal
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_LEFTOVER_TERM_S = 10.0


@dataclass(frozen=True, slots=True)
class Process:
    """A process, told apart from a later one with the same pid by `started`, in clock ticks since boot."""

    pid: int
    started: int

    @classmethod
    def of(cls, pid: int) -> Process | None:
        """The process that has this pid now; None when there is none, or only its corpse."""
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
        except OSError:
            return None
        fields = stat[stat.rindex(")") + 2 :].split()
        return None if fields[0] in "ZX" else cls(pid, int(fields[19]))

    @property
    def alive(self) -> bool:
        return Process.of(self.pid) == self

    @property
    def uptime_s(self) -> float:
        boot = float(Path("/proc/uptime").read_text().split()[0])
        return max(0.0, boot - self.started / os.sysconf("SC_CLK_TCK"))

    def end(self, *, timeout_s: float) -> None:
        """SIGTERM, and SIGKILL when that did not help in time. Returns when it is gone."""
        try:
            descriptor = os.pidfd_open(self.pid)
        except ProcessLookupError:
            return
        try:
            if not self.alive:
                return
            for number, patience_s in ((signal.SIGTERM, timeout_s), (signal.SIGKILL, 10.0)):
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, number)
                with suppress(ProcessLookupError):
                    signal.pidfd_send_signal(descriptor, signal.SIGCONT)  # a stopped process cannot obey
                if gone(descriptor, patience_s):
                    return
        finally:
            os.close(descriptor)


def gone(descriptor: int, timeout_s: float) -> bool:
    """Whether the process behind a pidfd ends within this time."""
    waiter = select.poll()
    waiter.register(descriptor, select.POLLIN)
    return bool(waiter.poll(timeout_s * 1000))


def lock(run_dir: Path) -> int | None:
    """The descriptor that holds the platform of this directory, or None when somebody else does."""
    run_dir.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(run_dir / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor


def held(run_dir: Path) -> bool:
    """Whether a supervisor holds the lock now."""
    if not (run_dir / "up.lock").exists():
        return False
    descriptor = lock(run_dir)
    if descriptor is None:
        return True
    os.close(descriptor)
    return False


def write(run_dir: Path, record: dict[str, Any]) -> None:
    fresh = run_dir / ".up.json"
    fresh.write_text(json.dumps(record, indent=1))
    fresh.replace(run_dir / "up.json")


def read(run_dir: Path) -> dict[str, Any]:
    """What the newest supervisor wrote; empty when there is nothing readable."""
    try:
        record: dict[str, Any] = json.loads((run_dir / "up.json").read_text())
    except (OSError, ValueError):
        return {}
    return record


def recorded(record: dict[str, Any]) -> list[tuple[str, Process]]:
    """The children of a record, those without a process left out."""
    return [
        (part["name"], Process(part["pid"], part["started"])) for part in record.get("parts", ()) if part.get("pid")
    ]


def end_leftovers(run_dir: Path) -> list[str]:
    """End what a killed supervisor left behind; call with the lock held. Returns the names of what still ran.

    They are ended, not adopted: nobody holds their pipes or exit codes any more, each of them is built to be killed at
    any moment, and the Machines are nobody's children.
    """
    left = [(name, process) for name, process in recorded(read(run_dir)) if process.alive]
    _end_all([process for _, process in reversed(left)])
    return [name for name, _ in left]


def _end_all(processes: Iterable[Process]) -> None:
    deadline = time.monotonic() + _LEFTOVER_TERM_S
    for process in processes:
        process.end(timeout_s=max(0.1, deadline - time.monotonic()))
