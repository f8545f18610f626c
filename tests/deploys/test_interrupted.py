"""Two deploys at once, and deploys that are interrupted or killed (reference fly-launch, D12; faults, row 40)."""

from __future__ import annotations

import signal
import subprocess

import pytest

from tests.deploys.conftest import CHECKED, Project, images, until

_SLOW = "[env]\nCADDIS_DEV = 'slow-start=1500ms'\n" + CHECKED
_RELEASE = "[deploy]\nrelease_command = \"sh -c 'sleep 2; echo migrated'\"\n"


def read_until(process: subprocess.Popen[str], text: str) -> str:
    """What it printed up to and with `text`."""
    assert process.stdout is not None
    seen = ""
    for line in process.stdout:
        seen += line
        if text in line:
            return seen
    raise AssertionError(f"it ended without saying {text!r}:\n{seen}")


def ended(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    rest = process.stdout.read()
    process.wait(60)
    return rest


def leased(project: Project) -> list[str]:
    found = project.dev.client.machines.list(project.app, include_leases=True)
    return [one["id"] for one in found if one.get("lease")]


def test_d12_the_second_of_two_deploys_is_refused_and_touches_nothing(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    project.write(_SLOW)
    first = project.start("shop:2")
    read_until(first, "replacing")
    second = project.deploy("shop:3")
    assert second.code == 1
    assert "lease currently held by" in second.err
    assert "Release v2" in ended(first)
    assert images(project.machines()) == {"shop:2"}


def test_a_lease_of_somebody_else_is_respected(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    machine = project.machines()[0]["id"]
    with project.dev.client.machines.lease(project.app, machine, ttl_s=60, description="by hand"):
        done = project.deploy("shop:2")
    assert done.code == 1
    assert "lease currently held by" in done.err
    assert images(project.machines()) == {"shop:1"}
    assert not leased(project)
    assert project.deploy("shop:2").code == 0


def test_ctrl_c_puts_everything_back(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    project.write(_SLOW)
    process = project.start("shop:2")
    read_until(process, "replacing")
    process.send_signal(signal.SIGINT)
    said = ended(process)
    assert process.returncode == 127, said
    assert "Everything is as it was before." in said
    assert images(project.machines()) == {"shop:1"}
    assert {one["state"] for one in project.machines()} == {"started"}
    assert not leased(project)
    assert project.release()["status"] == "interrupted"


@pytest.mark.parametrize(
    "moment",
    [
        pytest.param("App: ", id="before anything"),
        pytest.param("[release command] start", id="in the release command"),
        pytest.param("ended with exit code 0", id="after the release command"),
        pytest.param("replacing", id="in the first Machine"),
        pytest.param("good", id="after the first Machine"),
    ],
)
def test_the_deploy_after_one_that_was_killed_converges(project: Project, moment: str) -> None:
    assert project.deploy("shop:1").code == 0
    before = {one["id"] for one in project.machines()}
    project.write(_SLOW + _RELEASE)
    process = project.start("shop:2", "--lease-timeout", "5s")
    read_until(process, moment)
    process.kill()
    ended(process)
    until(lambda: not leased(project), within_s=10)
    done = converged(project, "shop:2")
    assert {one["id"] for one in project.machines()} == before
    assert images(project.machines()) == {"shop:2"}
    assert {one["state"] for one in project.machines()} == {"started"}
    if moment == "ended with exit code 0":
        assert "has run already" in done
    if moment == "[release command] start":
        assert "Going on with the release command" in done


@pytest.mark.parametrize("moment", ["green for", "All green Machines are well", "blue: "])
def test_the_deploy_after_a_killed_bluegreen_leaves_one_colour(project: Project, moment: str) -> None:
    assert project.deploy("shop:1").code == 0
    process = project.start("shop:2", "--strategy", "bluegreen", "--lease-timeout", "5s")
    read_until(process, moment)
    process.kill()
    ended(process)
    until(lambda: not leased(project), within_s=10)
    converged(project, "shop:3")
    machines = project.machines()
    assert len(machines) == 2
    assert images(machines) == {"shop:3"}
    assert not any(one.get("cordoned") for one in machines)


def test_a_first_deploy_that_was_killed_gets_all_its_machines_later(project: Project) -> None:
    project.write("[env]\nCADDIS_DEV = 'slow-start=1s'\n" + CHECKED + "[caddisfly]\nregions = ['fra', 'ord']\n")
    process = project.start("shop:1", "--lease-timeout", "5s")
    read_until(process, "] created ")
    process.kill()
    ended(process)
    until(lambda: not leased(project), within_s=10)
    converged(project, "shop:1")
    assert len(project.machines()) == 2


def converged(project: Project, image: str) -> str:
    """Deploy once the release of the one that was killed counts as over."""

    def over() -> bool:
        release = project.dev.client.releases.list(project.app, limit=1)
        return not release or not release[0]["in_progress"]

    until(over, within_s=40)
    done = project.deploy(image)
    assert done.code == 0, done.err
    return done.err
