"""Every word does what it says, seen through the REST API."""

from __future__ import annotations

import time
from typing import Any

import pytest

from caddisfly.client import FinalError
from caddisfly.pytest_plugin import CaddisApp, CaddisDev

NO: dict[str, Any] = {"restart": {"policy": "no"}}


def exit_of(machine: dict[str, Any]) -> dict[str, Any]:
    """Its newest exit event."""
    event: dict[str, Any] = next(event for event in machine["events"] if event["type"] == "exit")
    found: dict[str, Any] = event["request"]["exit_event"]
    return found


def at(machine: dict[str, Any], type: str, status: str) -> int:
    stamp: int = next(e["timestamp"] for e in machine["events"] if (e["type"], e["status"]) == (type, status))
    return stamp


def ended(app: CaddisApp, machine: dict[str, Any], *, timeout_s: float = 20) -> dict[str, Any]:
    app.client.machines.wait(app.name, machine["id"], "stopped", timeout_s=timeout_s)
    return app.client.machines.get(app.name, machine["id"])


def test_without_a_word_it_runs_until_it_is_stopped(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create()
    assert (machine["state"], machine["region"], machine["host_status"]) == ("started", "ams", "ok")
    caddis_app.client.machines.stop(caddis_app.name, machine["id"])
    stopped = ended(caddis_app, machine)
    assert exit_of(stopped)["requested_stop"]
    assert exit_of(stopped)["exit_code"] == 130
    caddis_app.client.machines.start(caddis_app.name, machine["id"])
    caddis_app.client.machines.wait(caddis_app.name, machine["id"], "started", timeout_s=20)


def test_checks_begin_critical_and_pass_although_nobody_is_there(caddis_app: CaddisApp) -> None:
    check = {"type": "http", "port": 8080, "grace_period": "500ms"}
    machine = caddis_app.create(checks={"up": check})
    (first,) = machine["checks"]
    assert (first["name"], first["status"], first["output"]) == ("up", "critical", "the check has not run yet")
    deadline = time.monotonic() + 10
    while (now := caddis_app.client.machines.get(caddis_app.name, machine["id"])["checks"][0])["status"] != "passing":
        assert time.monotonic() < deadline, now
    assert first["updated_at"] <= now["updated_at"]


def test_start_error_is_final(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="start-error")
    assert machine["state"] == "failed"
    assert "cannot start this machine" in exit_of(machine)["error"]


def test_start_error_for_some_tries_delays_the_start(caddis_app: CaddisApp) -> None:
    assert caddis_app.create(act="start-error=2")["state"] == "started"


def test_start_error_that_never_passes_fails_in_the_end(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="start-error=retryable")
    assert machine["state"] == "failed"
    assert "busy" in exit_of(machine)["error"]


def test_slow_start(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="slow-start=300ms..400ms")
    assert at(machine, "start", "started") - at(machine, "launch", "created") >= 300


def test_hang(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="hang=200ms", wait="")
    assert caddis_app.client.machines.get(caddis_app.name, machine["id"])["state"] in ("created", "starting")
    caddis_app.client.machines.wait(caddis_app.name, machine["id"], "failed", timeout_s=20)
    machine = caddis_app.client.machines.get(caddis_app.name, machine["id"])
    assert "did not answer within 0.2 s" in exit_of(machine)["error"]


def test_exit_after_with_a_code(caddis_app: CaddisApp) -> None:
    machine = ended(caddis_app, caddis_app.create(act="exit-after=200ms,code=3", **NO))
    assert (exit_of(machine)["exit_code"], exit_of(machine)["requested_stop"]) == (3, False)
    assert at(machine, "exit", "stopped") - at(machine, "start", "started") >= 150


def test_exits_are_met_by_the_restart_policy(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(
        act="exit-after=10ms,code=1", wait="", restart={"policy": "on-failure", "max_retries": 2}
    )
    machine = ended(caddis_app, machine)
    exits = [event["request"]["restart_count"] for event in machine["events"] if event["type"] == "exit"]
    assert exits == [2, 2, 1]


def test_oom(caddis_app: CaddisApp) -> None:
    exit = exit_of(ended(caddis_app, caddis_app.create(act="oom=50ms", **NO)))
    assert (exit["oom_killed"], exit["exit_code"], exit["signal"]) == (True, 137, 9)


def test_ignore_signals(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="ignore-signals")
    caddis_app.client.machines.stop(caddis_app.name, machine["id"], signal="SIGINT", timeout="100ms")
    assert exit_of(ended(caddis_app, machine))["signal"] == 9


def test_log_every(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="log-every=10ms")
    said = []
    for entry in caddis_app.client.logs.follow(caddis_app.name, machine=machine["id"]):
        said.append(entry["message"])
        if len(said) == 3:
            break
    assert said == ["pretending to run nginx", "line 1", "line 2"]


@pytest.mark.parametrize(
    ("command", "code", "stdout"),
    [
        (["echo", "hello", "you"], 0, "hello you\n"),
        (["sh", "-c", "echo $FLY_REGION && false; exit 3"], 3, "ams\n"),
        (["sh", "-c", "false && echo no"], 1, ""),
        (["cat"], 0, "fed"),
        (["false"], 1, ""),
        (["/app/bin/migrate", "--now"], 0, "caddis dev runs nothing: /app/bin/migrate --now\n"),
    ],
)
def test_exec_answers(caddis_app: CaddisApp, command: list[str], code: int, stdout: str) -> None:
    machine = caddis_app.create()
    reply = caddis_app.client.machines.exec(caddis_app.name, machine["id"], command, stdin="fed")
    assert (reply["exit_code"], reply["stdout"]) == (code, stdout)


def test_exec_that_takes_too_long(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create()
    with pytest.raises(Exception, match="did not end within 1 s"):
        caddis_app.client.machines.exec(caddis_app.name, machine["id"], ["sleep", "60"], timeout_s=1)


def test_exec_code(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="exec-code=7")
    assert caddis_app.client.machines.exec(caddis_app.name, machine["id"], ["true"])["exit_code"] == 7


def test_host_loss(caddis_dev: CaddisDev, caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="host-loss=2s", region="ord")
    seen: list[str] = []
    deadline = time.monotonic() + 20
    while len(seen) < 3 and time.monotonic() < deadline:
        now = caddis_app.client.machines.get(caddis_app.name, machine["id"])
        assert now["state"] == "started"
        if seen[-1:] != [now["host_status"]]:
            seen.append(now["host_status"])
    assert seen == ["ok", "unreachable", "ok"]
    assert caddis_app.client.machines.exec(caddis_app.name, machine["id"], ["true"])["exit_code"] == 0


def test_images_act_as_they_are_called(caddis_app: CaddisApp) -> None:
    assert exit_of(ended(caddis_app, caddis_app.create("caddis-dev/oom", **NO)))["oom_killed"]
    machine = caddis_app.create("registry.fly.io/caddis-dev/exit-after:50ms", **NO)
    assert exit_of(ended(caddis_app, machine))["exit_code"] == 0


def test_the_environment_says_it_too_and_metadata_has_the_last_word(caddis_app: CaddisApp) -> None:
    assert caddis_app.create(env={"CADDIS_DEV": "start-error"})["state"] == "failed"
    assert caddis_app.create(env={"CADDIS_DEV": "start-error"}, act="calm")["state"] == "started"


@pytest.mark.parametrize("image", ["nginx:missing", "registry.fly.io/hello:missing", "caddis-dev/missing"])
def test_images_that_are_not_there(caddis_app: CaddisApp, image: str) -> None:
    with pytest.raises(FinalError, match="MANIFEST_UNKNOWN") as caught:
        caddis_app.create(image)
    assert (caught.value.status_code, caught.value.status) == (400, "manifest_unknown")
    assert caddis_app.machines() == []


def test_an_image_has_the_same_digest_each_time(caddis_app: CaddisApp) -> None:
    first, second, other = (caddis_app.create(image)["image_ref"] for image in ("nginx", "nginx:latest", "nginx:1"))
    assert first == second
    assert first["digest"] != other["digest"]


def test_an_unknown_word_is_refused_with_what_is_allowed(caddis_app: CaddisApp) -> None:
    with pytest.raises(FinalError, match=r"config\.metadata\.caddis-dev: unknown word 'strat-error'") as caught:
        caddis_app.create(act="strat-error")
    assert caught.value.status_code == 400
    assert "did you mean start-error?" in caught.value.why
    assert "exit-after" in caught.value.next
    machine = caddis_app.create()
    with pytest.raises(FinalError, match="unknown word"):
        caddis_app.client.machines.update(
            caddis_app.name, machine["id"], {"image": "nginx", "env": {"CADDIS_DEV": "crash"}}
        )


def suspend(app: CaddisApp, machine: dict[str, Any]) -> dict[str, Any]:
    app.client.machines.suspend(app.name, machine["id"])
    app.client.machines.wait(app.name, machine["id"], "settled", timeout_s=20)
    return app.client.machines.get(app.name, machine["id"])


def test_what_is_suspended_goes_on_where_it_was(caddis_app: CaddisApp) -> None:
    app, machine = caddis_app, caddis_app.create(act="log-every=10ms")
    assert suspend(app, machine)["state"] == "suspended"
    app.client.machines.start(app.name, machine["id"])
    app.client.machines.wait(app.name, machine["id"], "started", timeout_s=20)
    again = app.client.machines.get(app.name, machine["id"])
    assert [event["type"] for event in again["events"][:2]] == ["resume", "start"]
    assert "exit" not in {event["type"] for event in again["events"]}


def test_slow_suspend_is_undone_by_a_start(caddis_app: CaddisApp) -> None:
    app, machine = caddis_app, caddis_app.create(act="slow-suspend=20s")
    app.client.machines.suspend(app.name, machine["id"])
    assert app.client.machines.get(app.name, machine["id"])["state"] == "suspending"
    app.client.machines.start(app.name, machine["id"])
    assert app.client.machines.get(app.name, machine["id"])["state"] == "started"


@pytest.mark.parametrize("way", ["refused", "lost"])
def test_suspend_error_ends_in_a_stop(caddis_app: CaddisApp, way: str) -> None:
    stopped = suspend(caddis_app, caddis_app.create(act=f"suspend-error={way}"))
    assert stopped["state"] == "stopped"
    assert exit_of(stopped)["requested_stop"]


def test_resume_error_starts_it_anew(caddis_app: CaddisApp) -> None:
    app, machine = caddis_app, caddis_app.create(act="resume-error")
    assert suspend(app, machine)["state"] == "suspended"
    app.client.machines.start(app.name, machine["id"])
    app.client.machines.wait(app.name, machine["id"], "started", timeout_s=20)
    again = app.client.machines.get(app.name, machine["id"])
    assert "its resume-error says so" in exit_of(again)["error"]
    assert at(again, "resume", "failed") >= at(again, "suspend", "suspended")
