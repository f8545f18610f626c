"""A version that is not well is found out fast, told, and put back (reference fly-launch, D4, D6, section 8)."""

from __future__ import annotations

import time

import pytest

from tests.deploys.conftest import CHECKED, SERVICE, Project, images, version_of


def test_d4_a_release_command_that_fails_changes_nothing(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    project.write(CHECKED + "[deploy]\nrelease_command = \"sh -c 'echo no table; exit 7'\"\n")
    done = project.deploy("shop:2")
    assert done.code == 1
    assert "exited with non-zero status of 7" in done.err
    assert "no table" in done.err
    assert project.release(2)["status"] == "failed"
    assert images(project.machines()) == {"shop:1"}
    assert [(one["state"], version_of(one)) for one in project.machines()] == [("started", "1")] * 2


def test_a_release_command_runs_before_the_machines_with_its_output_shown(project: Project) -> None:
    project.write(CHECKED + "[deploy]\nrelease_command = \"sh -c 'echo migrated'\"\n")
    done = project.deploy("shop:1")
    assert done.code == 0, done.err
    assert done.err.index("  | migrated") < done.err.index("creating")
    assert len(project.machines()) == 2
    assert "release_command" in project.release()["progress"]
    assert project.deploy("shop:1", "--skip-release-command").err.count("migrated") == 0


def test_a_seed_command_runs_with_the_deploy_of_a_launch_and_never_again(project: Project) -> None:
    project.write(
        CHECKED + "[deploy]\nrelease_command = \"sh -c 'echo migrated'\"\nseed_command = \"sh -c 'echo sown'\"\n"
    )
    done = project.run("launch", "--copy-config", "--yes", "--image", "shop:1", "--ha=false")
    assert done.code == 0, done.err
    assert done.err.index("| migrated") < done.err.index("| sown")
    assert "sown" not in project.deploy("shop:2").err


def test_d6_a_version_whose_checks_do_not_pass_is_put_back(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    before = {one["id"]: one["image_ref"] for one in project.machines()}
    done = project.deploy("caddis-dev/check-status:500", "--wait-timeout", "3s")
    assert done.code == 126
    assert "--wait-timeout" in done.err
    assert "status 500" in done.err
    assert "Everything is as it was before." in done.err
    assert {one["id"]: one["image_ref"] for one in project.machines()} == before
    assert {one["state"] for one in project.machines()} == {"started"}
    assert project.release()["status"] == "failed"
    assert project.deploy("shop:3").code == 0
    assert images(project.machines()) == {"shop:3"}


def test_without_rollback_it_stays_where_it_is(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    done = project.deploy("caddis-dev/check-status:500", "--wait-timeout", "2s", "--no-rollback")
    assert done.code == 126
    assert images(project.machines()) == {"shop:1", "check-status:500"}
    assert "Nothing was put back" in done.err


def test_an_answer_that_time_does_not_change_is_not_waited_for(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    begun = time.monotonic()
    done = project.deploy("caddis-dev/check-status:404")
    assert done.code == 1
    assert "a check cannot pass" in done.err
    assert "status 404" in done.err
    assert time.monotonic() - begun < 60  # and not the five minutes of the wait timeout
    assert images(project.machines()) == {"shop:1"}


@pytest.mark.parametrize(
    ("image", "reason"), [("oom", "it ran out of memory"), ("start-error", "could not be started")]
)
def test_a_crash_is_told_with_its_reason_and_put_back(project: Project, image: str, reason: str) -> None:
    assert project.deploy("shop:1").code == 0
    done = project.deploy(f"caddis-dev/{image}")
    assert done.code == 1
    assert reason in done.err
    assert "Its last words" in done.err or "It printed nothing" in done.err
    assert images(project.machines()) == {"shop:1"}
    assert {one["state"] for one in project.machines()} == {"started"}


def test_a_service_that_ends_with_success_is_not_well(project: Project) -> None:
    project.write(SERVICE + '[[restart]]\npolicy = "never"\n')
    done = project.deploy("caddis-dev/exit-after:50ms")
    assert done.code == 1
    assert "though it has services" in done.err


def test_a_job_that_ends_with_success_is_well(project: Project) -> None:
    project.write('[[restart]]\npolicy = "never"\n')
    done = project.deploy("caddis-dev/exit-after:50ms", "--ha=false")
    assert done.code == 0, done.err
    assert "it ran and ended with exit code 0" in done.err


def test_an_image_that_is_not_there_is_refused_with_everything_as_it_was(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    done = project.deploy("shop:missing")
    assert done.code == 1
    assert "is not there" in done.err
    assert images(project.machines()) == {"shop:1"}
    assert {one["state"] for one in project.machines()} == {"started"}


def test_wrong_flags_name_what_is_allowed(project: Project) -> None:
    for flags, said in (
        (["--strategy", "yolo"], "canary, rolling, immediate, bluegreen"),
        (["--process-groups", "wbe"], "there is no process group 'wbe'"),
        (["--max-unavailable", "0"], "above 0"),
        (["--wait-timeout", "soon"], "--wait-timeout"),
        (["--lease-timeout", "1s"], "from 5s to 1h"),
    ):
        done = project.deploy("shop:1", *flags)
        assert done.code in (1, 2), flags
        assert said in done.err, flags
    assert project.machines() == []


def test_machines_that_were_on_their_way_when_another_failed_are_removed_too(project: Project) -> None:
    groups = '[processes]\nmany = "run"\nlost = "run"\n[caddisfly]\ncount = 8\n[caddisfly.groups.lost]\n'
    project.write(f'{groups}count = 1\nregions = ["nowhere"]\n')
    done = project.deploy("shop:1")
    assert done.code == 1, done.err
    assert "nowhere" in done.err
    assert project.machines() == []
