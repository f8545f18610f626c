"""Whether a Machine is well with its new version: a pure judgement of what the API says, asked again and again.

Fly waits for the whole timeout while a Machine crashes before its eyes (superfly/flyctl#2653). Here every answer that
time cannot change is final at once:

- it ended with an error, or was killed for its memory: what happens at boot happens at every boot;
- it keeps ending, with success, though its policy starts it again;
- it ended with success though it should serve;
- a check gets an answer that says the question is wrong: `404`, `401`, a redirect. Who answers is up.
- nothing listens where its checks look, and something else listens elsewhere.

A refused connection alone is not final: it may be about to listen.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caddisfly.launch.events import exit_of, undone
from caddisfly.model.check import PASSING

SURE_AFTER = 3
"""So many times in a row a check must get the same final answer before it counts."""
_HTTP_STATUS = re.compile(r"status (\d{3})\b")
_FINAL_STATUS = frozenset((301, 302, 303, 307, 308, 400, 401, 403, 404, 405, 406, 410, 421, 426, 451))
_UPS = ("started",)

Wire = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Pending:
    """Not yet; `step` is what it waits for."""

    step: str
    started: bool = False


@dataclass(frozen=True, slots=True)
class Passed:
    note: str = ""


@dataclass(frozen=True, slots=True)
class Failed:
    """It will not be well. `why` is what was seen."""

    what: str
    why: str = ""


Verdict = Pending | Passed | Failed


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a Machine should become. `since` is the id of the newest event before, `version` empty for any."""

    config: Wire
    since: str
    version: str = ""
    look_s: float = 0.0
    """How long it must stay up when it has no checks, in seconds."""

    @property
    def checks(self) -> int:
        services = self.config.get("services") or ()
        return len(self.config.get("checks") or ()) + sum(len(one.get("checks") or ()) for one in services)

    @property
    def serves(self) -> bool:
        return bool(self.checks or self.config.get("services"))


def judge(machine: Wire, expected: Expectation, *, up_s: float = 0.0, hopeless: str = "") -> Verdict:
    """`up_s` is for how long it has been seen up, `hopeless` what was found out beside (`Watch`)."""
    if expected.version and machine.get("instance_id") != expected.version:
        return _other_version(machine)
    fresh = _since(machine.get("events") or (), expected.since)
    exits = [exit_of(event) for event in fresh if event.get("type") == "exit"]
    exits = [one for one in exits if not one.get("requested_stop")]
    state = str(machine.get("state", ""))
    if state == "failed" and (not exits or exits[0].get("error")):
        return Failed("it could not be started", _reason(exits[0]) if exits else "no reason was given")
    for one in exits:
        if reason := _reason(one):
            return Failed("the app appears to be crashing", reason)
    if len(exits) > 1:
        return Failed("the app keeps ending", f"{len(exits)} times with exit code 0, and is started again each time")
    if state in ("stopped", "destroyed") and exits:
        if expected.serves:
            return Failed("the app ended", "with exit code 0, though it has services or checks")
        return Passed("it ran and ended with exit code 0")
    if state not in _UPS:
        return Pending(state or "unknown")
    return _checked(machine, expected, up_s=up_s, hopeless=hopeless)


def _checked(machine: Wire, expected: Expectation, *, up_s: float, hopeless: str) -> Verdict:
    if not expected.checks:
        if up_s >= expected.look_s:
            return Passed()
        return Pending("started, watching whether it stays up", started=True)
    checks = list(machine.get("checks") or ())
    passing = [check for check in checks if check.get("status") == PASSING]
    if len(passing) >= expected.checks and len(passing) == len(checks):
        return Passed(f"{len(passing)} of {expected.checks} checks passing")
    if hopeless:
        return Failed("a check cannot pass", hopeless)
    return Pending(f"{len(passing)} of {expected.checks} checks passing", started=True)


def failing(machine: Wire) -> list[str]:
    """What its checks that do not pass say, a line each."""
    return [
        f"check {check.get('name', '')} is {check.get('status', '')}: {check.get('output', '')}".rstrip(": ")
        for check in machine.get("checks") or ()
        if check.get("status") != PASSING
    ]


def final_answer(machine: Wire) -> str:
    """What a check got that time will not change. Empty: nothing of the kind."""
    for check in machine.get("checks") or ():
        output = str(check.get("output", ""))
        status = _HTTP_STATUS.match(output)
        if check.get("status") == "critical" and status and int(status[1]) in _FINAL_STATUS:
            return f"check {check.get('name', '')} gets {output}"
    return ""


def listens_elsewhere(processes: Sequence[Wire], ports: Sequence[int]) -> str:
    """What to say when nothing listens on `ports` for everybody, and something does elsewhere; else empty.

    `processes` are those of the API's `ps` (reference machines-api, M17).
    """
    found = {
        str(socket.get("address", ""))
        for process in processes
        for socket in process.get("listen_sockets") or ()
        if socket.get("proto", "tcp").startswith("tcp")
    }
    if not ports or not found:
        return ""
    missing = [port for port in ports if not any(_open(address, port) for address in found)]
    if not missing:
        return ""
    return (
        f"nothing listens on 0.0.0.0:{missing[0]}, where requests go; it listens on {', '.join(sorted(found))}. "
        f"Make the app listen on 0.0.0.0:{missing[0]}, or correct internal_port"
    )


def _open(address: str, port: int) -> bool:
    host, _, number = address.rpartition(":")
    return number == str(port) and host.strip("[]") not in ("127.0.0.1", "::1")


def _since(events: Sequence[Wire], id: str) -> list[Wire]:
    """Newest first, those after the event `id`."""
    fresh = []
    for event in events:
        if event.get("id") == id:
            break
        fresh.append(event)
    return fresh


def _reason(left: Wire) -> str:
    """Why an exit is a bad one; empty for a good one."""
    if left.get("oom_killed"):
        return "it ran out of memory"
    if left.get("error"):
        return str(left["error"])
    code = int(left.get("exit_code") or 0)
    return f"its main process ended with exit code {code}" if code else ""


def _other_version(machine: Wire) -> Failed:
    if (why := undone(machine)) is not None:
        return Failed("the update was undone", why)
    return Failed("it was changed by somebody else meanwhile")
