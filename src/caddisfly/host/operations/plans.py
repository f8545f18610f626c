"""The recipes: which steps each kind of operation takes, in order. This is the one place where they are listed.

A step is named here, defined in `steps/<name>.py`, and may be run again after a crash at any point inside it.
"""

from __future__ import annotations

from typing import Final

FETCH_IMAGE: Final = "fetch_image"
MOUNT_ROOT: Final = "mount_root"
ATTACH_NETWORK: Final = "attach_network"
START_SANDBOX: Final = "start_sandbox"
SIGNAL_SANDBOX: Final = "signal_sandbox"
AWAIT_EXIT: Final = "await_exit"
RELEASE_SANDBOX: Final = "release_sandbox"
BACK_OFF: Final = "back_off"
SAVE_MEMORY: Final = "save_memory"
PUT_AWAY: Final = "put_away"
SEAL_SNAPSHOT: Final = "seal_snapshot"
CHECK_SNAPSHOT: Final = "check_snapshot"
RESUME_SANDBOX: Final = "resume_sandbox"
DROP_SNAPSHOT: Final = "drop_snapshot"

_UP = (FETCH_IMAGE, MOUNT_ROOT, ATTACH_NETWORK, START_SANDBOX)
_DOWN = (SIGNAL_SANDBOX, AWAIT_EXIT, RELEASE_SANDBOX)

LAUNCH: Final = "launch"
PREPARE: Final = "prepare"
START: Final = "start"
REVIVE: Final = "revive"
STOP: Final = "stop"
RESTART: Final = "restart"
SETTLE: Final = "settle"
RETRY: Final = "retry"
REPLACE: Final = "replace"
RENEW: Final = "renew"
DESTROY: Final = "destroy"
PARK: Final = "park"
SUSPEND: Final = "suspend"
RESUME: Final = "resume"
COLD: Final = "cold"
DISCARD: Final = "discard"
SHED: Final = "shed"

STEPS: Final[dict[str, tuple[str, ...]]] = {
    LAUNCH: _UP,  # first start of a new Machine
    PREPARE: (FETCH_IMAGE,),  # a new Machine that is not to be started
    START: _UP,
    REVIVE: (RELEASE_SANDBOX, *_UP),  # the host was rebooted under it: its root is still there
    STOP: _DOWN,
    RESTART: (*_DOWN, *_UP),
    SETTLE: (RELEASE_SANDBOX,),  # it ended by itself and stays so
    RETRY: (RELEASE_SANDBOX, BACK_OFF, *_UP),  # it ended by itself and its policy starts it again
    REPLACE: (FETCH_IMAGE, *_DOWN, *_UP),  # a running Machine gets a new version
    RENEW: (FETCH_IMAGE,),  # a stopped Machine gets a new version
    DESTROY: _DOWN,
    PARK: _DOWN,
    SUSPEND: (DROP_SNAPSHOT, SAVE_MEMORY, PUT_AWAY, SEAL_SNAPSHOT),
    RESUME: (CHECK_SNAPSHOT, RESUME_SANDBOX, DROP_SNAPSHOT),
    COLD: (RELEASE_SANDBOX, *_UP),  # its memory was lost: it starts anew, on the root as it was
    DISCARD: (RELEASE_SANDBOX,),  # a suspended Machine is stopped
    SHED: (FETCH_IMAGE, RELEASE_SANDBOX),  # a suspended Machine gets a new version, and is stopped
}
STARTS: Final = frozenset((LAUNCH, START, REVIVE, RESTART, RETRY, REPLACE, RESUME, COLD))
"""Kinds that end with a running sandbox."""
STOPS: Final = frozenset((STOP, RESTART, REPLACE, DESTROY, PARK))
"""Kinds in which an exit was asked for."""
UPDATES: Final = frozenset((REPLACE, RENEW, SHED))
"""Kinds that change nothing before their image is there: until then they can be undone."""
