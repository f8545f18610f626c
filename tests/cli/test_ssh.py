"""`caddis ssh console`, `machine exec -it`: a person at a terminal, and scripts with pipes, on `caddis dev`."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.pytest_plugin import CaddisApp, CaddisDev
from tests.cli.conftest import Outcome
from tests.cli.person import Person

Sit = Callable[..., Person]
PROMPT = "pretend$ "


@pytest.fixture
def env(caddis_dev: CaddisDev, tmp_path: Path) -> dict[str, str]:
    return {"CADDIS_API_URL": caddis_dev.url, "CADDIS_API_TOKEN": caddis_dev.token, "HOME": str(tmp_path)}


@pytest.fixture
def sit(env: dict[str, str], tmp_path: Path) -> Iterator[Sit]:
    """`sit("ssh", "console")`: a person who has typed that."""
    there: list[Person] = []

    def down(*words: str, **more: Any) -> Person:
        there.append(Person(*words, env=env, cwd=tmp_path, **more))
        return there[-1]

    yield down
    for person in there:
        person.leaves()


@pytest.fixture
def pipe(env: dict[str, str], tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    def run(*words: str, input: bytes = b"") -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-m", "caddisfly", *words],
            input=input,
            capture_output=True,
            env={"PATH": os.environ["PATH"], **env},
            cwd=tmp_path,
            timeout=60,
            check=False,
        )

    return run


def test_a_shell_of_the_windows_size_with_its_own_exit_code(sit: Sit, caddis_app: CaddisApp) -> None:
    caddis_app.create()
    person = sit("ssh", "console", "-a", caddis_app.name, size=(91, 33))
    person.reads(PROMPT)
    person.types("stty size\r")
    assert "33 91" in person.reads(PROMPT)
    person.resize(120, 50)
    for _ in range(50):  # a signal says so, and nobody says when that is through
        person.types("stty size\r")
        if "50 120" in person.reads(PROMPT):
            break
    else:
        raise AssertionError("the new size never arrived")
    person.types("exit 7\r")
    assert person.ends() == 7


def test_ctrl_c_is_the_programs_and_not_ours(sit: Sit, caddis_app: CaddisApp) -> None:
    caddis_app.create()
    person = sit("ssh", "console", "-a", caddis_app.name)
    person.reads(PROMPT)
    person.types("sleep 1000\r")
    person.reads("sleep 1000")
    person.types("\x03")
    person.reads("^C")
    person.reads(PROMPT)
    person.types("\x04")
    assert person.ends() == 130


def test_the_way_out_of_one_that_is_stuck(sit: Sit, caddis_app: CaddisApp) -> None:
    caddis_app.create()
    person = sit("ssh", "console", "-a", caddis_app.name)
    person.reads(PROMPT)
    person.types("echo a~.b ~~\r")
    assert "a~.b ~~" in person.reads(PROMPT)
    person.types("sleep 1000\r~.")
    assert person.ends() == 255


def test_a_machine_that_sleeps_is_started_and_that_is_said(sit: Sit, caddis_app: CaddisApp) -> None:
    machine = caddis_app.create()
    caddis_app.client.machines.stop(caddis_app.name, machine["id"])
    caddis_app.client.machines.wait(caddis_app.name, machine["id"], "stopped")
    person = sit("ssh", "console", "-a", caddis_app.name)
    person.reads(f"{machine['id']} is stopped")
    person.reads(PROMPT)
    person.types("exit\r")
    assert person.ends() == 0


def test_one_of_several_is_asked_for(sit: Sit, caddis_app: CaddisApp) -> None:
    for _ in range(2):
        caddis_app.create()
    person = sit("ssh", "console", "-a", caddis_app.name, "-s", "-C", "hostname")
    second = person.reads("Which").splitlines()[1].split()
    assert second[0] == "2"
    person.types("2\r")
    person.reads(f"{second[1]}\r\n")
    assert person.ends() == 0


def test_pipes_are_passed_on_byte_by_byte(
    pipe: Callable[..., subprocess.CompletedProcess[bytes]], caddis_app: CaddisApp
) -> None:
    caddis_app.create()
    sent = os.urandom(3_000_000)
    done = pipe("ssh", "console", "-a", caddis_app.name, "-C", "cat", input=sent)
    assert (done.returncode, done.stdout, done.stderr) == (0, sent, b"")
    script = pipe("ssh", "console", "-a", caddis_app.name, input=b"echo from a script\nexit 9\n")
    assert (script.returncode, script.stdout) == (9, b"from a script\n")


def test_exec_passes_input_on_when_asked_to(
    pipe: Callable[..., subprocess.CompletedProcess[bytes]], caddis_app: CaddisApp
) -> None:
    id = caddis_app.create()["id"]
    done = pipe("machine", "exec", "-i", id, "-a", caddis_app.name, "--", "cat", input=b"\x00\xff")
    assert (done.returncode, done.stdout) == (0, b"\x00\xff")
    done = pipe("machine", "exec", "-i", id, "-a", caddis_app.name, "--", "echo", "--rollback=false", "--yes=true")
    assert done.stdout == b"--rollback=false --yes=true\n", "words of the command are nobody's flags"
    done = pipe("machine", "exec", "-t", id, "-a", caddis_app.name, "--", "stty", "size")
    assert done.stdout == b"24 80\r\n"


def test_the_machine_can_be_chosen_by_region_and_group(
    caddis_on_dev: Callable[..., Outcome],
    caddis_app: CaddisApp,
    pipe: Callable[..., subprocess.CompletedProcess[bytes]],
) -> None:
    regions = [region["code"] for region in caddis_app.client.regions()["Regions"]][:2]
    caddis_app.create(region=regions[0], metadata={"fly_process_group": "web"})
    worker = caddis_app.create(region=regions[0], metadata={"fly_process_group": "worker"})
    caddis_app.create(metadata={"fly_process_group": "fly_app_console"})
    said = pipe("ssh", "console", "-a", caddis_app.name, "-g", "worker", "-r", regions[0], "-C", "hostname")
    assert said.stdout.decode().strip() == worker["id"]
    refused = caddis_on_dev("ssh", "console", "-a", caddis_app.name, "-g", "nosuch", "-C", "hostname")
    assert refused.code == 1
    assert f"app {caddis_app.name} has no Machine of group nosuch" in refused.err


def test_nobody_is_asked_without_a_terminal(caddis_on_dev: Callable[..., Outcome], caddis_app: CaddisApp) -> None:
    caddis_app.create()
    refused = caddis_on_dev("ssh", "console", "-a", caddis_app.name, "-s")
    assert refused.code == 2
    assert "--machine ID" in refused.err


def test_what_cannot_be_run_says_why(caddis_on_dev: Callable[..., Outcome], caddis_app: CaddisApp) -> None:
    machine = caddis_app.create(act="exit-after=100ms", restart={"policy": "no"}, wait="stopped")
    refused = caddis_on_dev("machine", "exec", "-i", machine["id"], "-a", caddis_app.name, "--", "ls")
    assert refused.code == 1
    assert "not running" in refused.err
    assert caddis_on_dev("ssh", "console", "-a", caddis_app.name, "-C", "'").code == 2
    assert "no Machine nosuch" in caddis_on_dev("ssh", "console", "-a", caddis_app.name, "--machine", "nosuch").err
