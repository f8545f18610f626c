"""tini, the first process of every sandbox: it reaps orphans and passes signals on.

The kernel drops a signal to the first process of a PID namespace unless that process has asked for it. `runc start` and
its like return before the first program has even been executed, so a stop that came at once would be lost. A sandbox
counts as started only once tini holds the signals.
"""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

from caddisfly.model.errors import DeadlineExceeded

INIT = "/fly/init"
"""Where it is shown inside. Not in `/.fly`, which is a directory of the host, shown read-only."""
INIT_BINARY = Path("/usr/bin/tini-static")
_LOOK_EVERY_S = 0.001
_IGNORED_BY_TINI = 1 << (signal.SIGTTIN - 1) | 1 << (signal.SIGTTOU - 1)


async def holds_signals(pid: int, *, timeout_s: float) -> None:
    """Return once the process is tini and takes signals, or has ended. Raises `DeadlineExceeded`."""
    try:
        async with asyncio.timeout(timeout_s):
            while not _ready(pid):  # noqa: ASYNC110 - the kernel tells of an exec to nobody but a tracer
                await asyncio.sleep(_LOOK_EVERY_S)
    except TimeoutError as error:
        raise DeadlineExceeded(f"a sandbox's init did not come up within {timeout_s:g} s") from error


def _ready(pid: int) -> bool:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return True
    status = dict(line.split(":\t", 1) for line in lines if ":\t" in line)
    if status["State"].startswith(("Z", "X")):
        return True
    # A runtime's own init has another name. tini ignores these two right after it has blocked what it passes on, and
    # that stays to be seen, unlike the blocked set, which is empty whenever tini waits for a signal.
    ignored = int(status["SigIgn"], 16)
    return status["Name"] == Path(INIT).name and ignored & _IGNORED_BY_TINI == _IGNORED_BY_TINI
