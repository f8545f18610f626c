"""`caddis machine why`: why a Machine is in its state, in plain language, and what to do next.

Everything is told from what the API says: the state, the events that led to it, the newest exit, the host, cordon,
Lease and checks. What they do not tell is not guessed. `explain` is pure, so that each story is one test.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from caddisfly.cli import apps, show, target
from caddisfly.cli.target import App, AsJson, MachineId
from caddisfly.launch.events import exit_of
from caddisfly.model import states

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json

_LINES = 5
_TOLD_WITH = (("launch", "created"), ("update", "replacing"))
_LONG_MS = {"updating": 600_000.0, "replacing": 600_000.0}
_LONG_ELSE_MS = 300_000.0
_RETRIES = 10
_HINTS = {126: "its command is not executable", 127: "its command is not in the image"}
_BY = {
    "user": "through the API, by a person or a program",
    "proxy": "by the edge",
    "flyd": "by the platform",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """`because` is sentences, the main reason first. `troubled` says that its last words may tell more."""

    state: str
    because: tuple[str, ...]
    next: str
    troubled: bool = False


def why(id: MachineId, app: App = "", json: AsJson = False) -> None:
    """Say why a Machine is in its state, and what to do."""
    from caddisfly.cli.machine_leases import held

    now_ms = time.time() * 1000
    with target.client() as client:
        name, machine = target.machine(client, app, id)
        account = explain(name, machine, held(client, name, id), now_ms)
        words = _last_words(client, name, id) if account.troubled else []
    if json:
        told = {"id": id, "app": name, "state": account.state, "because": account.because, "next": account.next}
        show.result({**told, "last_words": words})
        return
    show.line(f"{id} of {name} is {account.state}, since {show.ago(_since_ms(machine), now_ms)}.")
    for sentence in account.because:
        show.line(f"- {sentence}")
    if words:
        show.line("Its last words:")
        for word in words:
            show.line(f"    {word}")
    show.line(f"Next: {account.next}")


def _last_words(client: Client, app: str, id: str) -> list[str]:
    from caddisfly.client import ApiError

    try:
        return [str(entry.get("message", "")) for entry in client.logs.page(app, machine=id).entries[-_LINES:]]
    except ApiError as error:
        show.note(f"Its logs cannot be read: {error.text}")
        return []


def explain(app: str, machine: Json, lease: Json | None, now_ms: float) -> Account:
    facts = _Facts(app, machine, now_ms)
    told = _STORIES.get(facts.state, _passing)(facts)
    because, then = [*told.because, *_around(facts, lease)], told.next
    newest_update = facts.newest("update")
    if newest_update and newest_update.get("status") == "failed":
        because.append(f"Its last update failed and was undone: {_error(newest_update) or 'no reason is given'}.")
    if facts.host_is_away:
        because.insert(0, f"Its host is {machine['host_status']}: this is the last that is known of it.")
        then = "`caddis status` on the platform's computer shows its parts; a host that comes back tells how it is"
    elif machine.get("cordoned") and facts.state == "started":
        then = f"caddis machine uncordon {facts.id} -a {app}"
    elif facts.bad_checks and facts.state == "started":
        then = facts.logs
    return Account(state=facts.state, because=tuple(because), next=then, troubled=told.troubled)


@dataclass(frozen=True, slots=True)
class _Facts:
    app: str
    machine: Json
    now_ms: float

    @property
    def id(self) -> str:
        return str(self.machine["id"])

    @property
    def state(self) -> str:
        return str(self.machine["state"])

    @property
    def events(self) -> list[Json]:
        return list(self.machine.get("events") or ())

    @property
    def config(self) -> Mapping[str, Any]:
        config: Mapping[str, Any] = self.machine.get("config") or self.machine.get("incomplete_config") or {}
        return config

    @property
    def host_is_away(self) -> bool:
        return self.machine.get("host_status") in states.HOST_AWAY

    @property
    def policy(self) -> Mapping[str, Any]:
        policy: Mapping[str, Any] = self.config.get("restart") or {}
        return policy

    @property
    def woken_by_requests(self) -> bool:
        return any(service.get("autostart") for service in self.config.get("services") or ())

    @property
    def bad_checks(self) -> list[Json]:
        return [check for check in self.machine.get("checks") or () if check.get("status") != "passing"]

    @property
    def exit(self) -> Json:
        """How its main process ended last; empty when it never did."""
        newest = self.newest("exit")
        return dict(exit_of(newest)) if newest else {}

    def newest(self, *types: str) -> Json | None:
        return next((event for event in self.events if event["type"] in types), None)

    def failed(self, type: str) -> str:
        """The error of the newest event of a type; empty when that is none of a failure."""
        newest = self.newest(type)
        return str((newest.get("request") or {}).get("error") or "") if newest else ""

    @property
    def asked_to_run(self) -> Json | None:
        """What made it start last. A start by the platform mostly carries out what was asked for before it."""
        begins = (("start", "starting"), ("launch", "created"), ("restart", "restarting"), ("update", "replacing"))
        by_platform = None
        for event in self.events:
            if event["type"] == "stop":  # what was asked for before that has ended with it
                break
            if (event["type"], event["status"]) in begins:
                if (event["type"], event["source"]) != ("start", "flyd"):
                    return event
                by_platform = by_platform or event
        return by_platform

    @property
    def restarts(self) -> int:
        newest = self.newest("exit")
        return int(((newest or {}).get("request") or {}).get("restart_count") or 0)

    @property
    def start(self) -> str:
        return f"caddis machine start {self.id} -a {self.app}"

    @property
    def logs(self) -> str:
        return f"caddis logs -a {self.app} -i {self.id}"

    @property
    def repair(self) -> str:
        return f"{self.logs}; then correct it with caddis machine update {self.id} -a {self.app}"


@dataclass(frozen=True, slots=True)
class _Told:
    because: list[str]
    next: str
    troubled: bool = False


def _started(facts: _Facts) -> _Told:
    left = facts.exit
    asked = facts.asked_to_run
    because = [f"It was started {_by(asked)}."] if asked else ["It runs."]
    if left and left.get("restarting") and not left.get("requested_stop"):
        because.append(f"It has been restarted {_times(max(facts.restarts, 1))}: {_ending(left)}.")
        return _Told(because, facts.repair, troubled=True)
    return _Told(because, f"nothing; caddis machine status {facts.id} -a {facts.app} shows more")


def _stopped(facts: _Facts) -> _Told:
    newest, left = facts.newest("stop", "exit", "update", "launch"), facts.exit
    if newest is None:
        return _Told(["Nothing is known of how it came to this."], facts.start)
    if newest["type"] == "launch":
        return _Told(["It was made, but never started."], facts.start)
    if newest["type"] == "update":
        return _Told(["It was updated while it was stopped, or was not to be started again."], facts.start)
    if newest["type"] == "stop" or left.get("requested_stop"):
        return _asked_to_stop(facts)
    because = [f"Nobody stopped it: {_ending(left)}."]
    policy, failure = facts.policy.get("policy") or "on-failure", _is_failure(left)
    if policy == "no":
        because.append("Its restart policy is no, so it stays stopped.")
    elif policy == "on-failure" and not failure:
        because.append("That is no failure, and its restart policy is on-failure, so it stays stopped.")
    elif facts.restarts:
        most = facts.policy.get("max_retries") or _RETRIES
        because.append(f"It was restarted {_times(facts.restarts)} before; its policy allows {most}, then gives up.")
    return _Told(because, facts.repair if failure else facts.start, troubled=failure)


def _asked_to_stop(facts: _Facts) -> _Told:
    asked, unsaved = facts.newest("stop", "update", "restart") or {}, facts.failed("suspend")
    if unsaved and asked.get("source") == "flyd":
        return _Told([f"It was to be suspended, and was stopped instead: {unsaved}."], facts.start, troubled=True)
    if asked.get("source") == "proxy":
        because = ["The edge stopped it, because it had nothing to do (autostop).", *_reasons(asked)]
    elif asked.get("type") == "stop" and asked.get("source") == "flyd":
        return _Told(["The platform stopped it when it went down itself; it starts again with the platform."], "wait")
    else:
        because = [f"It was stopped {_by(asked)}."]
    if facts.exit.get("exit_code"):
        because.append(f"On its way out, {_ending(facts.exit)}.")
    if facts.woken_by_requests and not facts.machine.get("cordoned"):
        because.append("The next request for it starts it again (autostart).")
    return _Told(because, facts.start)


def _suspended(facts: _Facts) -> _Told:
    asked = next((event for event in facts.events if event["type"] == "suspend" and event["source"] != "flyd"), None)
    because = [f"It was suspended {_by(asked)}: its memory is kept, it uses no CPU.", *_reasons(asked)]
    if error := facts.failed("resume"):
        because.append(f"Its host could not resume it: {error}.")
    if facts.woken_by_requests and not facts.machine.get("cordoned"):
        because.append("The next request for it resumes it (autostart).")
    return _Told(because, facts.start)


def _failed(facts: _Facts) -> _Told:
    error = facts.exit.get("error")
    return _Told([f"It could not be started: {error}." if error else "It could not be started."], facts.repair, True)


def _destroyed(facts: _Facts) -> _Told:
    asked = next((event for event in facts.events if event["status"] == "destroying"), None)
    if asked and asked.get("source") != "user" and facts.config.get("auto_destroy"):
        because = ["It was to be destroyed when it ended (auto_destroy), and it has."]
    else:
        because = [f"It was destroyed {_by(asked)}."]
    if facts.exit:
        because.append(f"Before that, {_ending(facts.exit)}.")
    failure = bool(facts.exit) and not facts.exit.get("requested_stop") and _is_failure(facts.exit)
    return _Told(because, "caddis machine run makes a new one; this one does not come back", troubled=failure)


def _passing(facts: _Facts) -> _Told:
    """A state that ends by itself."""
    doing = {
        "created": "Its image is being prepared.",
        "starting": f"It is being started {_by(facts.asked_to_run)}.",
        "stopping": f"It is being stopped {_by(facts.newest('stop'))}.",
        "suspending": "Its memory is being written to disk.",
        "replacing": f"It is being updated {_by(facts.newest('update'))}.",
        "updating": f"It is being updated {_by(facts.newest('update'))}.",
        "destroying": f"It is being destroyed {_by(facts.newest('destroy'))}.",
    }
    troubled = facts.state == "restarting" and _is_failure(facts.exit) and not facts.exit.get("requested_stop")
    if troubled:
        because = [f"It is about to be started again, attempt {facts.restarts or 1}: {_ending(facts.exit)}."]
    else:
        because = [doing.get(facts.state, f"It is {facts.state}, which ends by itself.")]
    lasted_ms = facts.now_ms - _since_ms(facts.machine)
    if lasted_ms > _LONG_MS.get(facts.state, _LONG_ELSE_MS):
        because.append("That takes longer than it should.")
        return _Told(because, f"{facts.logs}; `caddis doctor` on the platform's computer", troubled=True)
    return _Told(
        because, facts.repair if troubled else f"caddis machine wait {facts.id} -a {facts.app}", troubled=troubled
    )


_STORIES: Mapping[str, Callable[[_Facts], _Told]] = {
    "started": _started,
    "stopped": _stopped,
    "suspended": _suspended,
    "failed": _failed,
    "destroyed": _destroyed,
}


def _around(facts: _Facts, lease: Json | None) -> list[str]:
    """What else keeps it from being what one expects of it."""
    found = [f"{warning}." for warning in _warnings(facts)]
    if facts.machine.get("cordoned") and facts.state != "destroyed":
        found.append("It is cordoned: no request reaches it or wakes it.")
    if facts.state == "started":
        for check in facts.bad_checks:
            output = str(check.get("output") or "").strip()[:200]
            found.append(
                f"Its check {check.get('name')} is {check.get('status')}" + (f": {output}." if output else ".")
            )
    if lease is not None:
        left = show.ago(facts.now_ms, float(lease.get("expires_at") or 0) * 1000)
        purpose = f" for {lease['description']!r}" if lease.get("description") else ""
        found.append(
            f"{lease.get('owner') or 'Somebody'} holds its lease{purpose}: for {left} nobody else may change it."
        )
    return found


def _warnings(facts: _Facts) -> list[str]:
    """What its present config asks for in vain."""
    told = next((event for event in facts.events if (event["type"], event["status"]) in _TOLD_WITH), None)
    return list(((told or {}).get("request") or {}).get("warnings") or ())


def _ending(left: Json) -> str:
    """`its main process ...`, to go on in a sentence."""
    if not left:
        return "how its main process ended is not known"
    if left.get("oom_killed"):
        return "it ran out of memory and was killed"
    if left.get("error"):
        return str(left["error"]).rstrip(".")
    code = int(left.get("exit_code") or 0)
    number = int(left.get("signal") or 0)
    number = number if number > 0 else code - 128
    if number in signal.valid_signals() and number > 0:
        return f"its main process was ended by {signal.Signals(number).name}"
    hint = f" ({_HINTS[code]})" if code in _HINTS else ""
    return f"its main process ended with exit code {code}{hint}"


def _is_failure(left: Json) -> bool:
    return bool(left.get("exit_code") or left.get("error") or left.get("oom_killed"))


def _error(event: Json) -> str:
    return str((event.get("request") or {}).get("error", "")).rstrip(".")


def _reasons(event: Json | None) -> list[str]:
    """Why whoever asked for it did, in its own words."""
    reason = ((event or {}).get("request") or {}).get("reason")
    return [f"Its reason: {reason}."] if reason else []


def _by(event: Json | None) -> str:
    return _BY.get(str((event or {}).get("source", "")), "by nobody knows whom")


def _times(count: int) -> str:
    return "once" if count == 1 else f"{count} times"


def _since_ms(machine: Json) -> float:
    events = machine.get("events") or ()
    return float(events[0]["timestamp"]) if events else apps.milliseconds(machine["updated_at"])
