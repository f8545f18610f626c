"""The computer that is measured on: what it is, how busy it is, and whether it is free for a platform.

Machines' namespaces, control groups and links belong to the computer, and an agent takes down what belongs to none of
its own Machines (docs/decisions/0006). So a bench beside a running platform would either be refused half-way or, beside
one whose Machines were left running for an upgrade, end them. Both are found out before anything is started.
"""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

from caddisfly.host.drivers.oci.cgroups import ControlGroups, layout
from caddisfly.model.errors import FailedPrecondition

AGENT_LOCK = Path("/run/caddisfly-agent.lock")
"""What an agent holds while it lives."""
BUSY = 0.7
"""One-minute load from which on times say more about the neighbours than about what is measured."""


def facts() -> dict[str, Any]:
    """What was measured on, taken before anything is started. Numbers of one computer mean little without it."""
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30)
    return {
        "cores": os.cpu_count(),
        "memory_gb": round(memory_gb, 1),
        "kernel": os.uname().release,
        "load_before": os.getloadavg()[0],
    }


def refuse_if_taken(*, lock: Path = AGENT_LOCK, groups: ControlGroups | None = None) -> None:
    """Raises `FailedPrecondition` when a platform runs here, or Machines of one that was stopped without them."""
    if (pid := _holder(lock)) is not None:
        raise FailedPrecondition(
            "a platform runs on this computer already",
            why=f"its agent is process {pid}, and the bench needs the computer to itself",
            next="caddis down, then try again",
        )
    groups = groups or ControlGroups(layout())
    running = sorted(id for id in groups.known() if groups.processes(id))
    if running:
        raise FailedPrecondition(
            "Machines run on this computer",
            why=f"{len(running)} of a platform that was stopped without them, such as {running[0]}; "
            "the bench's own platform would end them",
            next="caddis up, then caddis down, which stops them",
        )


def _holder(lock: Path) -> str | None:
    """Who holds a lock, None when nobody does."""
    try:
        file = lock.open()
    except FileNotFoundError:
        return None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "unknown"
    return None
