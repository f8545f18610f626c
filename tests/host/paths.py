"""I6: a Machine's events are a path of the state graph."""

from __future__ import annotations

from caddisfly.model.machine import Machine

FOLLOWS: dict[str, set[str]] = {
    "": {"launch/created"},
    "launch/created": {"start/starting", "exit/stopped", "update/replacing", "destroy/destroying"},
    "start/starting": {"start/started", "exit/stopped", "resume/started", "resume/failed"},
    "start/started": {
        "exit/stopped",
        "stop/stopping",
        "restart/restarting",
        "update/replacing",
        "suspend/suspending",
        "destroy/destroying",
    },
    "suspend/suspending": {"suspend/suspended", "suspend/failed", "resume/started", "destroy/destroying"},
    "suspend/suspended": {
        "start/starting",
        "stop/stopping",
        "restart/restarting",
        "update/replacing",
        "destroy/destroying",
    },
    "suspend/failed": {"stop/stopping"},
    "resume/started": {
        "exit/stopped",
        "stop/stopping",
        "restart/restarting",
        "update/replacing",
        "suspend/suspending",
        "destroy/destroying",
    },
    "resume/failed": {
        "exit/stopped",  # its memory is gone
        "start/starting",  # its host could not: it is still suspended
        "stop/stopping",
        "restart/restarting",
        "update/replacing",
        "destroy/destroying",
    },
    "stop/stopping": {"exit/stopped", "start/starting", "destroy/destroying", "update/replacing"},
    "restart/restarting": {
        "exit/stopped",
        "start/started",
        "stop/stopping",
        "restart/restarting",  # asked for while its policy waits for the next try
        "destroy/destroying",
        "update/replacing",
    },
    "update/replacing": {"exit/stopped", "update/replaced", "update/failed", "destroy/destroying"},
    "update/replaced": {"start/started", "start/starting", "stop/stopping", "update/replacing", "destroy/destroying"},
    "update/failed": {
        "exit/stopped",
        "start/starting",
        "start/started",  # its policy was about to try again
        "stop/stopping",
        "restart/restarting",
        "update/replacing",
        "suspend/suspending",
        "destroy/destroying",
    },
    "exit/stopped": {
        "start/starting",
        "start/started",
        "restart/restarting",
        "stop/stopping",  # of one that has failed
        "update/replacing",
        "update/replaced",
        "update/failed",  # it ended while the image was fetched
        "destroy/destroying",
        "destroy/destroyed",
        "exit/stopped",
    },
    "destroy/destroying": {"exit/stopped", "destroy/destroyed"},
    "destroy/destroyed": set(),
}

ASIDE = "quarantine"
"""Type of the event that tells of trouble in between; it leads to no other state."""


def assert_path(machine: Machine) -> None:
    before = ""
    for event in reversed(machine.events):
        if event.type == ASIDE:
            continue
        now = f"{event.type}/{event.status}"
        assert now in FOLLOWS[before], f"{now} after {before or 'nothing'}"
        before = now
    ids = [event.id for event in reversed(machine.events)]
    assert ids == sorted(ids)
