"""`caddis machine why`: each story, from the events that tell it."""

from __future__ import annotations

from typing import Any

import pytest

from caddisfly.cli.machine_why import Account, explain
from tests.cli.machines import ID, MACHINE, Caddis, event, exited, machine
from tests.client.conftest import Api

NOW_MS = 60_000.0
STARTED = event("start", "started", "flyd")
STARTING = event("start", "starting")
LAUNCH = event("launch", "created")
WAKES = {"image": "hello", "services": [{"internal_port": 80, "autostart": True}]}


def told(state: str, *events: dict[str, Any], lease: dict[str, Any] | None = None, **changes: Any) -> Account:
    return explain("hello", machine(state=state, events=list(events), **changes), lease, NOW_MS)


def left(code: int, *, restarts: int = 0, **changes: Any) -> dict[str, Any]:
    found = exited(code, **{"requested_stop": False, "restarting": False, **changes})
    found["request"]["restart_count"] = restarts
    return found


def asked(source: str = "user", code: int = 0) -> list[dict[str, Any]]:
    return [left(code, requested_stop=True), event("stop", "stopping", source), STARTED, STARTING, LAUNCH]


STORIES: list[tuple[str, Account, str, str]] = [
    ("runs", told("started", STARTED, STARTING, LAUNCH), "started through the API", "nothing"),
    ("was launched", told("started", STARTED, LAUNCH), "started through the API", "nothing"),
    (
        "was launched, in two steps",
        told("started", STARTED, event("start", "starting", "flyd"), LAUNCH),
        "started through the API",
        "nothing",
    ),
    (
        "came back with the platform",
        told("started", STARTED, event("start", "starting", "flyd"), *asked("flyd")),
        "started by the platform",
        "nothing",
    ),
    ("was woken", told("started", STARTED, event("start", "starting", "proxy")), "started by the edge", "nothing"),
    (
        "crashes and comes back",
        told("started", STARTED, event("restart", "restarting", "flyd"), left(1, restarts=3, restarting=True)),
        "restarted 3 times: its main process ended with exit code 1",
        "caddis logs",
    ),
    ("is cordoned", told("started", STARTED, STARTING, cordoned=True), "no request reaches it", "uncordon"),
    (
        "fails its check",
        told("started", STARTED, STARTING, checks=[{"name": "alive", "status": "critical", "output": "refused"}]),
        "check alive is critical: refused",
        "caddis logs",
    ),
    (
        "asks in vain",
        told("started", STARTED, {**LAUNCH, "request": {"warnings": ["swap_size_mb has no effect"]}}),
        "swap_size_mb has no effect.",
        "nothing",
    ),
    ("was never started", told("stopped", LAUNCH), "never started", "caddis machine start"),
    ("was updated asleep", told("stopped", event("update", "replaced", "flyd"), LAUNCH), "updated", "machine start"),
    ("was stopped", told("stopped", *asked()), "stopped through the API", "caddis machine start"),
    ("was stopped hard", told("stopped", *asked(code=137)), "ended by SIGKILL", "caddis machine start"),
    ("was idle", told("stopped", *asked("proxy"), config=WAKES), "autostart", "caddis machine start"),
    ("the platform went", told("stopped", *asked("flyd")), "platform stopped it", "wait"),
    (
        "was done",
        told("stopped", left(0), STARTED),
        "That is no failure, and its restart policy is on-failure",
        "caddis machine start",
    ),
    (
        "must not restart",
        told("stopped", left(3), STARTED, config={"restart": {"policy": "no"}}),
        "restart policy is no",
        "caddis machine update",
    ),
    (
        "was given up",
        told("stopped", left(3, restarts=10), STARTED),
        "restarted 10 times before; its policy allows 10",
        "caddis machine update",
    ),
    ("ran out of memory", told("stopped", left(137, oom_killed=True), STARTED), "out of memory", "machine update"),
    ("was killed", told("stopped", left(139), STARTED), "ended by SIGSEGV", "caddis machine update"),
    ("has no command", told("stopped", left(127), STARTED), "not in the image", "caddis machine update"),
    ("has no past", told("stopped"), "Nothing is known", "caddis machine start"),
    ("cannot start", told("failed", left(-1, error="no such image")), "not be started: no such image", "update"),
    ("cannot start, no word", told("failed"), "could not be started", "caddis machine update"),
    (
        "is suspended",
        told(
            "suspended",
            event("suspend", "suspended", "flyd"),
            {**event("suspend", "suspending", "proxy"), "request": {"reason": "no request came for it"}},
            config=WAKES,
        ),
        "suspended by the edge: its memory is kept, it uses no CPU. Its reason: no request came for it.",
        "caddis machine start",
    ),
    (
        "could not be suspended",
        told(
            "stopped",
            left(130, requested_stop=True),
            event("stop", "stopping", "flyd"),
            {**event("suspend", "failed", "flyd"), "request": {"error": "it has open TCP connections"}},
            event("suspend", "suspending", "user"),
            STARTED,
        ),
        "stopped instead: it has open TCP connections",
        "caddis machine start",
    ),
    (
        "could not be resumed",
        told(
            "suspended",
            {**event("resume", "failed", "flyd"), "request": {"error": "the host is busy"}},
            event("start", "starting", "user"),
            event("suspend", "suspended", "flyd"),
            event("suspend", "suspending", "user"),
        ),
        "could not resume it: the host is busy",
        "caddis machine start",
    ),
    (
        "was destroyed",
        told("destroyed", event("destroy", "destroyed", "flyd"), event("destroy", "destroying"), left(1)),
        "destroyed through the API",
        "machine run",
    ),
    (
        "ended itself",
        told(
            "destroyed",
            event("destroy", "destroyed", "flyd"),
            event("destroy", "destroying", "flyd"),
            left(0),
            config={"auto_destroy": True},
        ),
        "auto_destroy",
        "machine run",
    ),
    ("is prepared", told("created", LAUNCH), "image is being prepared", "caddis machine wait"),
    ("takes long", explain("hello", machine(state="created", events=[LAUNCH]), None, 301_001.0), "longer", "doctor"),
    (
        "updates a while",
        explain("hello", machine(state="updating", events=[event("update", "replacing")]), None, 301_001.0),
        "being updated through the API",
        "caddis machine wait",
    ),
    (
        "tries again",
        told("restarting", event("restart", "restarting", "flyd"), left(1, restarts=2, restarting=True)),
        "attempt 2: its main process ended with exit code 1",
        "caddis logs",
    ),
    (
        "was not updated",
        told("started", event("update", "failed", "flyd", request={"error": "unknown image"}), STARTED),
        "update failed and was undone: unknown image",
        "nothing",
    ),
    (
        "is held",
        told("started", STARTED, lease={"owner": "a@b", "expires_at": 90, "description": "deploy"}),
        "a@b holds its lease for 'deploy': for 30s",
        "nothing",
    ),
    ("is in a new state", told("dreaming", LAUNCH), "It is dreaming", "caddis machine wait"),
]


@pytest.mark.parametrize(("account", "because", "then"), [story[1:] for story in STORIES], ids=[s[0] for s in STORIES])
def test_every_story_has_a_reason_and_a_way_on(account: Account, because: str, then: str) -> None:
    assert because in " ".join(account.because)
    assert then in account.next


def test_a_machine_on_a_lost_host_is_not_told_to_be_well() -> None:
    account = told("started", STARTED, STARTING, host_status="unreachable", config=None, incomplete_config=None)
    assert account.because[0].startswith("Its host is unreachable")
    assert "caddis status" in account.next


def test_who_was_asked_to_stop_is_not_troubled() -> None:
    assert not told("stopped", *asked(code=130)).troubled
    assert told("stopped", left(1), STARTED).troubled


def test_the_older_form_of_an_exit_is_understood() -> None:
    older = event("exit", "stopped", "flyd", request={"MonitorEvent": left(3)["request"]})
    assert "exit code 3" in " ".join(told("stopped", older, STARTED).because)


def test_the_command(api: Api, caddis: Caddis) -> None:
    api.on("GET", MACHINE, (200, machine(state="stopped", events=[left(3, restarts=10), STARTED])))
    entries = [{"attributes": {"message": f"line {number}"}} for number in range(9)]
    api.on("GET", "/api/v1/apps/hello/logs", (200, {"data": entries, "meta": {}}))
    outcome = caddis("machine", "why", ID, "-a", "hello")
    assert outcome.code == 0, outcome.err
    first, *reasons = outcome.out.splitlines()
    assert first.startswith(f"{ID} of hello is stopped, since ")
    assert reasons[0] == "- Nobody stopped it: its main process ended with exit code 3."
    assert reasons[-2] == "    line 8"
    assert "line 3" not in outcome.out
    assert reasons[-1].startswith("Next: caddis logs -a hello")
    shown = caddis("machine", "why", ID, "-a", "hello", "--json").json
    assert (shown["state"], len(shown["last_words"])) == ("stopped", 5)
    assert set(shown) == {"id", "app", "state", "because", "next", "last_words"}


def test_the_command_without_logs_still_answers(api: Api, caddis: Caddis) -> None:
    api.on("GET", MACHINE, (200, machine(state="failed", events=[left(-1, error="no such image")])))
    api.on("GET", "/api/v1/apps/hello/logs", (500, {"error": "unknown: broken"}))
    outcome = caddis("machine", "why", ID, "-a", "hello")
    assert outcome.code == 0
    assert "no such image" in outcome.out
    assert "Its logs cannot be read: unknown: broken" in outcome.err
