"""What became of a Machine that was made, changed or started. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caddisfly.launch.events import last_exit
from caddisfly.model import states
from caddisfly.model.check import PASSING
from caddisfly.model.errors import Problem

Machine = Mapping[str, Any]


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
    left = last_exit(machine) or {}
    code = left.get("exit_code", 0)
    if state != "failed" and (left.get("requested_stop") or (not code and not left.get("error"))):
        return None  # many programs answer a signal with another code than 0
    if left.get("oom_killed"):
        reason = "it ran out of memory"
    else:
        reason = left.get("error") or f"its main process ended with exit code {code}"
    return f"{machine['id']} did not stay up, it is {state}", reason


def trouble(machine: Machine) -> str | None:
    """Why a Machine does not do its work as it should, in one sentence; None when it does, or need not."""
    if machine.get("host_status") in states.HOST_AWAY:
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


def unhealthy(machine: Machine) -> list[Mapping[str, Any]]:
    """Its checks that do not pass."""
    return [check for check in machine.get("checks") or () if check.get("status") != PASSING]


def plain(output: object) -> str:
    """The beginning of what an app said, without what a terminal would obey."""
    text = str(output or "")[:200]
    return "".join(character if character.isprintable() else " " for character in text).strip()
