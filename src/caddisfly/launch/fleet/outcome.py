"""What became of a Machine that was made, changed or started. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caddisfly.model.check import PASSING
from caddisfly.model.errors import Problem

Machine = Mapping[str, Any]
UNKNOWN = ("unknown", "unreachable")
"""What `host_status` says of a host that does not answer."""


SUSPENDED = "caddis_suspended"
"""Metadata of a Machine that was suspended with its app: what it was."""


class Failed(Problem):
    """The call was good, what came of it is not."""

    code = "failed"


def failure(machine: Machine) -> tuple[str, str] | None:
    """What went wrong and why, from its newest exit; None when it runs, or has ended well."""
    state = machine["state"]
    if state not in ("stopped", "failed", "destroyed"):
        return None
    exits = (event for event in machine.get("events") or () if event["type"] == "exit")
    left = exit_of(next(exits, {}))
    code = left.get("exit_code", 0)
    if state != "failed" and (left.get("requested_stop") or (not code and not left.get("error"))):
        return None  # many programs answer a signal with another code than 0
    if left.get("oom_killed"):
        reason = "it ran out of memory"
    else:
        reason = left.get("error") or f"its main process ended with exit code {code}"
    return f"{machine['id']} did not stay up, it is {state}", reason


def exit_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an exit event says, in the older wrapping too; empty for other events."""
    request = event.get("request") or {}
    left: Mapping[str, Any] = request.get("exit_event") or (request.get("MonitorEvent") or {}).get("exit_event") or {}
    return left


def trouble(machine: Machine) -> str | None:
    """Why a Machine does not do its work as it should, in one sentence; None when it does, or need not."""
    if machine.get("host_status") in UNKNOWN:
        return "its host does not answer; this is the last that is known of it"
    if (problem := failure(machine)) is not None:
        return problem[1]
    if machine["state"] == "restarting":
        return "it ended by itself and is being started again"
    if machine["state"] == "started" and unhealthy(machine):
        return "; ".join(f"{one['name']} is {one['status']}: {plain(one.get('output'))}" for one in unhealthy(machine))
    if machine["state"] == "started" and machine.get("cordoned"):
        return "it is cordoned and gets no requests"
    return None


def undone(machine: Machine) -> str | None:
    """Why its newest update was taken back, when it was."""
    newest = next((event for event in machine.get("events") or () if event["type"] == "update"), None)
    if newest is None or newest["status"] != "failed":
        return None
    return str((newest.get("request") or {}).get("error", ""))


def unhealthy(machine: Machine) -> list[Mapping[str, Any]]:
    """Its checks that do not pass."""
    return [check for check in machine.get("checks") or () if check.get("status") != PASSING]


def plain(output: object) -> str:
    """The beginning of what an app said, without what a terminal would obey."""
    text = str(output or "")[:200]
    return "".join(character if character.isprintable() else " " for character in text).strip()
