"""The states of a Machine (reference machines-api, 4.1), and what it means to wait for one."""

from __future__ import annotations

from typing import Final

CREATED: Final = "created"
STARTING: Final = "starting"
STARTED: Final = "started"
STOPPING: Final = "stopping"
STOPPED: Final = "stopped"
RESTARTING: Final = "restarting"
REPLACING: Final = "replacing"
UPDATING: Final = "updating"
SUSPENDING: Final = "suspending"
SUSPENDED: Final = "suspended"
FAILED: Final = "failed"
DESTROYING: Final = "destroying"
DESTROYED: Final = "destroyed"

ALIVE: Final = frozenset(
    (
        CREATED,
        STARTING,
        STARTED,
        STOPPING,
        STOPPED,
        RESTARTING,
        REPLACING,
        UPDATING,
        SUSPENDING,
        SUSPENDED,
        FAILED,
    )
)
SETTLED: Final = frozenset((STARTED, STOPPED, SUSPENDED, FAILED, DESTROYED))
STARTABLE: Final = frozenset((STOPPED, SUSPENDED, FAILED))
HOST_AWAY: Final = ("unknown", "unreachable")
"""What `host_status` says of a host that does not answer."""
WAITABLE: Final = ("started", "stopped", "suspended", "destroyed", "failed", "settled")


def reached(state: str, wanted: frozenset[str]) -> bool:
    """Whether someone who waits for any of `wanted` is served by `state`."""
    return state in wanted or ("settled" in wanted and state in SETTLED)
