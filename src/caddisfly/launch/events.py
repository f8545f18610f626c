"""What the events of a Machine say, newest first as the API has them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Machine = Mapping[str, Any]


def newest(machine: Machine) -> str:
    """The id of its newest event; empty when it has none."""
    return str(next((event["id"] for event in machine.get("events") or ()), ""))


def exit_of(event: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an exit event says, in the older wrapping too; empty for other events."""
    request = event.get("request") or {}
    left: Mapping[str, Any] = request.get("exit_event") or (request.get("MonitorEvent") or {}).get("exit_event") or {}
    return left


def last_exit(machine: Machine) -> Mapping[str, Any] | None:
    """How it ended last; None when it never has."""
    event = next((event for event in machine.get("events") or () if event.get("type") == "exit"), None)
    return None if event is None else exit_of(event)


def undone(machine: Machine) -> str | None:
    """Why its newest update was taken back, when it was."""
    update = next((event for event in machine.get("events") or () if event.get("type") == "update"), None)
    if update is None or update.get("status") != "failed":
        return None
    return str((update.get("request") or {}).get("error", ""))
