"""Apps, logs, login, and the form of errors."""

from __future__ import annotations

import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from caddisfly.cli import account
from tests.cli.conftest import Outcome
from tests.client.conftest import Api
from tests.conftest import free_port

Caddis = Callable[..., Outcome]
APPS = {"total_apps": 1, "apps": [{"name": "hello", "organization": {"slug": "personal"}, "status": "deployed"}]}


def test_apps_are_listed_made_and_destroyed(api: Api, caddis: Caddis) -> None:
    api.on("GET", "/v1/apps", (200, APPS))
    api.on("POST", "/v1/apps", lambda sent: (201, {"name": sent.body["name"]}))
    api.on("GET", "/v1/apps/hello", (200, {"name": "hello"}))
    api.on("DELETE", "/v1/apps/hello", (202, None))
    assert caddis("apps", "list").out.splitlines()[1].split("\t")[:3] == ["hello", "personal", "deployed"]
    assert caddis("apps", "list", "--json").json == APPS["apps"]
    assert caddis("apps", "create", "hello").out == "New app: hello\n"
    assert caddis("apps", "create").out.count("-") == 2
    assert caddis("apps", "destroy", "hello", "--yes").out == "Destroyed app hello\n"


def test_nothing_is_destroyed_without_a_yes(api: Api, caddis: Caddis) -> None:
    api.on("GET", "/v1/apps/hello", (200, {"name": "hello"}))
    assert caddis("apps", "destroy", "hello", stdin="n\n").code == 1
    assert [sent.method for sent in api.seen] == ["GET"]


def test_an_error_of_the_api_has_three_lines_and_no_trace(api: Api, caddis: Caddis) -> None:
    api.on(
        "POST", "/v1/apps", (422, {"error": "Validation failed: Name has already been taken", "status": "name_taken"})
    )
    outcome = caddis("apps", "create", "hello")
    assert outcome.code == 1
    assert outcome.out == ""
    assert outcome.err == (
        "Error: Validation failed: Name has already been taken\nWhy:   the API answered 422, request 01REQ-lab\n"
    )


def test_which_app_is_a_usage_error(caddis: Caddis) -> None:
    outcome = caddis("logs")
    assert outcome.code == 2
    assert outcome.err.startswith("Error: which app?\n")


@pytest.mark.parametrize("words", [("machine", "stop"), ("nonsense",), ("apps", "list", "--nonsense")])
def test_a_wrong_command_line_ends_with_2(caddis: Caddis, words: tuple[str, ...]) -> None:
    assert caddis(*words).code == 2


def test_a_bug_is_told_without_a_trace(api: Api, caddis: Caddis) -> None:
    api.on("GET", "/v1/apps", (200, {"apps": [{"nameless": True}]}))
    outcome = caddis("apps", "list")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: this is a bug in caddis\nWhy:   KeyError: 'name'\n")
    assert "Traceback" not in outcome.err


def test_nobody_logged_in(caddis: Caddis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CADDIS_API_TOKEN")
    outcome = caddis("apps", "list")
    assert outcome.code == 1
    assert outcome.err.startswith("Error: you are not logged in\n")
    assert "Next:  caddis auth login; " in outcome.err


def test_login_tries_the_token_and_keeps_it_privately(
    api: Api, caddis: Caddis, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("CADDIS_API_TOKEN")
    monkeypatch.delenv("CADDIS_API_URL")
    api.on(
        "GET",
        "/v1/apps",
        lambda sent: (200, APPS) if sent.headers["authorization"] == "Bearer good" else (401, {"error": "no"}),
    )
    assert caddis("auth", "login", "--api-url", api.url, "--token", "bad").code == 1
    assert not account.file().exists()
    assert caddis("auth", "login", "--api-url", api.url, stdin="good\n").code == 0
    file = tmp_path / ".config" / "caddisfly" / "config.toml"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert caddis("auth", "token").out == "good\n"
    assert caddis("apps", "list").code == 0
    assert caddis("auth", "whoami", "--json").json["api_url"] == api.url
    assert caddis("auth", "logout").out == "Logged out.\n"
    assert caddis("auth", "token").code == 1


def test_a_dead_platform_is_told(caddis: Caddis, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CADDIS_API_URL", f"http://127.0.0.1:{free_port()}")
    outcome = caddis("apps", "create", "x")
    assert outcome.code == 1
    assert "does not answer" in outcome.err
    assert "caddis status" in outcome.err


def test_logs_are_printed_as_flyctl_does(api: Api, caddis: Caddis) -> None:
    entry = {
        "timestamp": "2026-11-22T23:00:00Z",
        "message": "listening",
        "level": "info",
        "instance": "148e",
        "region": "lab",
        "meta": {"event": {"provider": "app"}},
    }
    api.on("GET", "/api/v1/apps/hello/logs", (200, {"data": [{"id": "1", "attributes": entry}], "meta": {}}))
    outcome = caddis("logs", "-a", "hello", "--no-tail", "-i", "148e")
    assert outcome.out == "2026-11-22T23:00:00Z app[148e] lab [info] listening\n"
    assert api.seen[0].query == {"instance": "148e"}
    assert caddis("logs", "-a", "hello", "-n", "--json").json == entry


def test_it_starts_lean() -> None:
    """What is not imported needs no time: measured in modules, which do not depend on how busy this computer is."""
    code = (
        "import sys; from caddisfly.cli import app; from caddisfly.up import commands; commands.register(app.build());"
        "heavy = {'httpx', 'pydantic', 'nats', 'sqlalchemy', 'fastapi', 'rich', 'asyncio'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
