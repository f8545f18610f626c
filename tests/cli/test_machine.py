"""`caddis machine`: what it asks of the API, what it prints, how it ends."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caddisfly.pytest_plugin import CaddisApp
from tests.cli.machines import ID, MACHINES, Caddis, event, exited, machine
from tests.client.conftest import Api


def serve(api: Api, final: dict[str, Any]) -> None:
    api.on("POST", MACHINES, (200, machine(state="created")))
    api.on("GET", f"{MACHINES}/{ID}", (200, final))
    api.on("GET", f"{MACHINES}/{ID}/wait", (200, {"ok": True}))
    api.on("GET", "/api/v1/apps/hello/logs", (200, {"data": [{"attributes": {"message": "no database"}}], "meta": {}}))


def test_run_sends_what_the_flags_say_and_waits(api: Api, caddis: Caddis) -> None:
    serve(api, machine())
    words = "run hello:latest -a hello -n hello-1 -e A=1 -e B=x=y -p 80:8080/tcp:http -p 443:8080/tcp:tls:http".split()
    more = "--vm-size shared-cpu-2x --vm-memory 1gb --autostop stop --autostart -m role=web --rm --restart no".split()
    outcome = caddis("machine", *words, *more, "--", "serve", "--fast")
    assert outcome.code == 0, outcome.err
    assert "started" in outcome.out
    body = api.asked(MACHINES)[0].body
    assert body["name"] == "hello-1"
    assert body["config"] == {
        "image": "hello:latest",
        "env": {"A": "1", "B": "x=y"},
        "metadata": {"role": "web"},
        "guest": {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024},
        "services": [
            {
                "protocol": "tcp",
                "internal_port": 8080,
                "autostop": "stop",
                "autostart": True,
                "ports": [{"port": 80, "handlers": ["http"]}, {"port": 443, "handlers": ["tls", "http"]}],
            }
        ],
        "restart": {"policy": "no"},
        "init": {"cmd": ["serve", "--fast"]},
        "auto_destroy": True,
    }


def test_run_as_json(api: Api, caddis: Caddis) -> None:
    serve(api, machine())
    assert caddis("machine", "run", "hello", "-a", "hello", "--json").json["id"] == ID


def test_run_without_an_app_makes_one(api: Api, caddis: Caddis) -> None:
    api.on("POST", "/v1/apps", lambda sent: (201, {"name": sent.body["name"]}))
    outcome = caddis("machine", "run", "hello", "--detach")
    name = api.asked("/v1/apps")[0].body["name"]
    assert f"New app: {name}" in outcome.err
    assert api.asked(f"/v1/apps/{name}/machines")


def test_run_takes_the_app_of_the_directory(api: Api, caddis: Caddis) -> None:
    Path("fly.toml").write_text('app = "hello"\n')
    serve(api, machine())
    assert caddis("machine", "run", "hello").code == 0


def test_run_says_why_the_machine_failed_and_shows_its_last_words(api: Api, caddis: Caddis) -> None:
    serve(api, machine(state="failed", events=[exited(1, error="could not pull the image")]))
    outcome = caddis("machine", "run", "hello", "-a", "hello")
    assert outcome.code == 1
    assert outcome.out == ""
    error, why, words, next_ = outcome.err.splitlines()[-4:]
    assert error == f"Error: {ID} did not stay up, it is failed"
    assert why == "Why:   could not pull the image"
    assert words.endswith("no database")
    assert next_.startswith("Next:  caddis logs -a hello")


def test_run_of_something_that_ends_well_is_a_success(api: Api, caddis: Caddis) -> None:
    serve(api, machine(state="stopped", events=[exited(0)]))
    assert caddis("machine", "run", "hello", "-a", "hello").code == 0


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["-p", "eighty"], "--port 'eighty'"),
        (["-p", "80:99999"], "99999 is not a port"),
        (["-e", "NOVALUE"], "--env 'NOVALUE' is not NAME=VALUE"),
        (["--vm-memory", "lots"], "--vm-memory 'lots'"),
        (["--vm-size", "huge"], "shared-cpu-1x"),
        (["--restart", "maybe"], "--restart 'maybe'"),
        (["--autostop", "stop"], "need a --port"),
    ],
)
def test_wrong_flags_are_usage_errors_and_ask_nothing(api: Api, caddis: Caddis, words: list[str], said: str) -> None:
    outcome = caddis("machine", "run", "hello", "-a", "hello", *words)
    assert outcome.code == 2
    assert said in outcome.err
    assert not api.seen


def test_list_on_a_pipe_is_tab_separated(api: Api, caddis: Caddis) -> None:
    api.on("GET", MACHINES, (200, [machine()]))
    header, row = caddis("machine", "list", "-a", "hello").out.splitlines()
    assert header.split("\t")[:3] == ["ID", "NAME", "STATE"]
    assert row.split("\t")[:5] == [ID, "hello-1", "started", "lab", "library/hello:latest"]
    assert caddis("machine", "list", "-a", "hello", "-q").out == f"{ID}\n"
    assert caddis("machine", "list", "-a", "hello", "--json").json == [machine()]


def test_status_shows_what_happened(api: Api, caddis: Caddis) -> None:
    api.on("GET", f"{MACHINES}/{ID}", (200, machine(events=[exited(137, oom_killed=True)])))
    outcome = caddis("machine", "status", ID, "-a", "hello")
    assert "1 shared CPU, 256 MiB" in outcome.out
    assert "exit code 137, out of memory" in outcome.out


def test_status_shows_what_it_runs_in(api: Api, caddis: Caddis) -> None:
    runs_on = {"isolation": "gvisor", "driver": "oci/runsc"}
    started = event("start", "started", request=runs_on)
    api.on("GET", f"{MACHINES}/{ID}", (200, machine(isolation="gvisor", events=[exited(1), started])))
    outcome = caddis("machine", "status", ID, "-a", "hello")
    assert "isolation   gvisor (oci/runsc)\n" in outcome.out
    assert "start\tstarted\tuser\tgvisor (oci/runsc)\n" in outcome.out
    api.on("GET", f"{MACHINES}/{ID}", (200, machine()))
    assert "isolation" not in caddis("machine", "status", ID, "-a", "hello").out, "Fly does not say"


def test_status_shows_what_a_simulated_machine_would_run_in(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    made = caddis_app.create()
    assert "isolation   microvm (mock)\n" in caddis_on_dev("machine", "status", made["id"], "-a", str(caddis_app)).out


def test_a_machine_is_found_without_its_app(api: Api, caddis: Caddis) -> None:
    api.on("GET", "/v1/apps", (200, {"apps": [{"name": "other"}, {"name": "hello"}]}))
    api.on("GET", f"{MACHINES}/{ID}", (200, machine()))
    api.on("POST", f"{MACHINES}/{ID}/stop", (200, {"ok": True}))
    api.on("GET", f"{MACHINES}/{ID}/wait", (200, {"ok": True}))
    outcome = caddis("machine", "stop", ID, "--timeout", "7", "-s", "SIGTERM")
    assert (outcome.code, outcome.out) == (0, f"{ID} stopped\n")
    assert api.asked(f"{MACHINES}/{ID}/stop")[0].body == {"signal": "SIGTERM", "timeout": "7s"}
    assert api.asked(f"{MACHINES}/{ID}/wait")[0].query["state"] == "stopped"


@pytest.mark.parametrize(
    ("command", "method", "action", "waits"),
    [
        ("start", "POST", "/start", "started"),
        ("restart", "POST", "/restart", "started"),
        ("destroy", "DELETE", "", "destroyed"),
    ],
)
def test_the_rest_acts_and_waits(api: Api, caddis: Caddis, command: str, method: str, action: str, waits: str) -> None:
    api.on("GET", f"{MACHINES}/{ID}", (200, machine()))
    api.on(method, f"{MACHINES}/{ID}{action}", (200, {"ok": True}))
    api.on("GET", f"{MACHINES}/{ID}/wait", (200, {"ok": True}))
    assert caddis("machine", command, ID, "-a", "hello", "--json").json[0]["id"] == ID
    assert api.asked(f"{MACHINES}/{ID}/wait")[0].query["state"] == waits


def test_kill_sends_sigkill(api: Api, caddis: Caddis) -> None:
    api.on("GET", f"{MACHINES}/{ID}", (200, machine()))
    api.on("POST", f"{MACHINES}/{ID}/signal", (200, {"ok": True}))
    assert caddis("machine", "kill", ID, "-a", "hello").code == 0
    assert api.asked(f"{MACHINES}/{ID}/signal")[0].body == {"signal": "SIGKILL"}


def test_exec_ends_as_the_command_did(api: Api, caddis: Caddis) -> None:
    api.on("GET", f"{MACHINES}/{ID}", (200, machine()))
    api.on("POST", f"{MACHINES}/{ID}/exec", (200, {"exit_code": 3, "stdout": "out\n", "stderr": "err\n"}))
    outcome = caddis("machine", "exec", ID, "sh -c 'exit 3'", "-a", "hello", "--container", "web")
    assert (outcome.code, outcome.out, outcome.err) == (3, "out\n", "err\n")
    assert api.asked(f"{MACHINES}/{ID}/exec")[0].body["container"] == "web"
    assert api.asked(f"{MACHINES}/{ID}/exec")[0].body["command"] == ["sh", "-c", "exit 3"]


def test_an_unknown_machine_is_told_with_what_to_do(caddis: Caddis) -> None:
    outcome = caddis("machine", "status", ID, "-a", "hello")
    assert outcome.code == 1
    assert outcome.err == f"Error: no Machine {ID} in app hello\nNext:  caddis machine list -a hello\n"


def test_status_shows_checks_without_what_a_terminal_would_obey(api: Api, caddis: Caddis) -> None:
    said = {"name": "up", "status": "critical", "output": "no\x1b[2J\nmore", "updated_at": "2026-11-22T23:00:00Z"}
    serve(api, machine(checks=[said]))
    outcome = caddis("machine", "status", ID, "-a", "hello")
    assert outcome.out.endswith("CHECK\tSTATUS\tOUTPUT\nup\tcritical\tno [2J more\n")
