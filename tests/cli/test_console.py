"""`caddis console` on `caddis dev`: a Machine for as long as somebody is in it."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caddisfly.pytest_plugin import CaddisApp
from tests.cli.conftest import Outcome
from tests.cli.person import Person
from tests.cli.test_ssh import PROMPT, env, sit

__all__ = ["env", "sit"]

Sit = Callable[..., Person]


def consoles(app: CaddisApp) -> list[dict[str, Any]]:
    """Machines of consoles that are there."""
    return [one for one in app.machines() if one["config"]["metadata"].get("fly_process_group") == "fly_app_console"]


def soon_none(app: CaddisApp, *, within_s: float = 10) -> None:
    deadline = time.monotonic() + within_s
    while there := consoles(app):
        assert time.monotonic() < deadline, f"left behind: {there[0]['id']} {there[0]['state']}"
        time.sleep(0.05)


def test_a_machine_with_the_apps_image_env_and_command_is_gone_afterwards(
    sit: Sit, caddis_app: CaddisApp, tmp_path: Path
) -> None:
    caddis_app.create("registry.example.com/shop:7", metadata={"fly_platform_version": "v2"})
    (tmp_path / "fly.toml").write_text(
        f'app = "{caddis_app.name}"\nconsole_command = "sh"\n[env]\nGREETING = "hello"\n'
    )
    person = sit("console", "-e", "MORE=yes", "--vm-memory", "512")
    person.reads(PROMPT)
    (made,) = consoles(caddis_app)
    assert made["config"]["image"] == "registry.example.com/shop:7"
    assert made["config"]["guest"]["memory_mb"] == 512
    person.types("env\r")
    shown = person.reads(PROMPT)
    assert "GREETING=hello" in shown
    assert "MORE=yes" in shown
    person.types("exit 5\r")
    assert person.ends() == 5
    assert consoles(caddis_app) == []


def test_one_command_without_a_terminal(caddis_app: CaddisApp, sit: Sit) -> None:
    person = sit("console", "-a", caddis_app.name, "-i", "nginx", "-C", "false")
    assert person.ends() == 1
    assert consoles(caddis_app) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_nothing_is_left_however_it_ends(sit: Sit, caddis_app: CaddisApp, number: int) -> None:
    """Also when it is killed: the Machine is stopped with its session, and destroys itself then."""
    person = sit("console", "-a", caddis_app.name, "-i", "nginx")
    person.reads(PROMPT)
    person.process.send_signal(number)
    if number == signal.SIGKILL:
        person.process.wait()
    else:
        assert person.ends() == 128 + number
    soon_none(caddis_app)


def test_a_machine_that_is_there_stays(sit: Sit, caddis_app: CaddisApp) -> None:
    there = caddis_app.create()
    person = sit("console", "-a", caddis_app.name, "--machine", there["id"])
    person.reads(PROMPT)
    person.types("hostname\r")
    person.reads(there["id"])
    person.types("exit\r")
    assert person.ends() == 0
    assert [one["state"] for one in caddis_app.machines()] == ["started"]


def test_without_an_image_it_says_what_to_do(caddis_on_dev: Callable[..., Outcome], caddis_app: CaddisApp) -> None:
    refused = caddis_on_dev("console", "-a", caddis_app.name)
    assert refused.code == 1
    assert "which image?" in refused.err
    assert "--image" in refused.err
    assert caddis_on_dev("console").code == 2
