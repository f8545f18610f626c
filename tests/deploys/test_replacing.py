"""A new version takes the place of the old one: rolling, canary, bluegreen, immediate (reference fly-launch, D5-D9)."""

from __future__ import annotations

import re

from tests.deploys.conftest import CHECKED, SERVICE, Project, group_of, images, version_of

_STEP = re.compile(r"^  (?P<mark>[✓✗] )?(?P<id>\w+) \[(?P<group>\w+)\] (?P<step>.*)$", re.MULTILINE)


def most_in_flight(err: str) -> tuple[int, int]:
    """How many Machines were under way at once, and when the second began: after how many were good."""
    under_way: set[str] = set()
    most, good, good_before_second = 0, 0, -1
    for found in _STEP.finditer(err):
        if found["step"] == "updating":
            under_way.add(found["id"])
            if len(under_way) + good == 2 and good_before_second < 0:
                good_before_second = good
        elif found["mark"]:
            under_way.discard(found["id"])
            good += 1
        most = max(most, len(under_way))
    return most, good_before_second


def test_d5_rolling_begins_with_one_and_goes_on_with_a_third(project: Project) -> None:
    project.write(CHECKED + "[caddisfly]\ncount = 6\n")
    assert project.deploy("shop:1").code == 0
    done = project.deploy("shop:2")
    assert done.code == 0, done.err
    assert images(project.machines()) == {"shop:2"}
    assert most_in_flight(done.err) == (2, 1)


def test_max_unavailable_is_a_number_or_a_share(project: Project) -> None:
    project.write(CHECKED + "[caddisfly]\ncount = 4\n")
    assert project.deploy("shop:1").code == 0
    done = project.deploy("shop:2", "--max-unavailable", "3")
    assert most_in_flight(done.err) == (3, 1)


def test_the_machines_keep_their_ids_and_what_launch_does_not_own(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    before = project.machines()
    project.dev.client.machines.metadata.set(project.app, before[0]["id"], "team", "core")
    assert project.deploy("shop:2").code == 0
    after = project.machines()
    assert {one["id"] for one in after} == {one["id"] for one in before}
    assert [version_of(one) for one in after] == ["2", "2"]
    assert next(one for one in after if one["id"] == before[0]["id"])["config"]["metadata"]["team"] == "core"


def test_d8_what_sleeps_gets_the_version_asleep(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    awake, asleep = (one["id"] for one in project.machines())
    project.run("machine", "stop", asleep, "-a", project.app)
    project.dev.client.machines.wait(project.app, asleep, "stopped")
    done = project.deploy("shop:2")
    assert done.code == 0, done.err
    assert {one["id"]: one["state"] for one in project.machines()} == {awake: "started", asleep: "stopped"}
    assert images(project.machines()) == {"shop:2"}
    starts = [one for one in project.dev.client.machines.events(project.app, asleep) if one["type"] == "start"]
    assert len(starts) == 2  # of the first version alone: starting, started


def test_where_everything_sleeps_one_is_woken_to_see_whether_it_works(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    for machine in project.machines():
        project.dev.client.machines.stop(project.app, machine["id"])
        project.dev.client.machines.wait(project.app, machine["id"], "stopped")
    bad = project.deploy("caddis-dev/exit-after:100ms", "-e", "CADDIS_DEV=code=9,exit-after=50ms")
    assert bad.code == 1
    assert "exit code 9" in bad.err
    assert images(project.machines()) == {"shop:1"}
    assert {one["state"] for one in project.machines()} == {"stopped"}
    good = project.deploy("shop:3")
    assert good.code == 0, good.err
    assert "works, and is stopped again" in good.err
    assert images(project.machines()) == {"shop:3"}
    assert {one["state"] for one in project.machines()} == {"stopped"}


def test_d9_groups_come_and_go_with_the_file(project: Project) -> None:
    web = CHECKED.replace("internal_port = 8080", 'internal_port = 8080\nprocesses = ["web"]')
    project.write('[processes]\nweb = "serve"\nworker = "work"\n' + web)
    assert project.deploy("shop:1", "--smoke-checks=false").code == 0
    project.write('[processes]\nweb = "serve"\ncron = "tick"\n' + web)
    only = project.deploy("shop:2", "--process-groups", "web", "--smoke-checks=false")
    assert only.code == 0, only.err
    assert {group_of(one) for one in project.machines()} == {"web", "worker"}
    done = project.deploy("shop:3", "--smoke-checks=false")
    assert done.code == 0, done.err
    assert 'destroy 2 "worker" machines at the end' in done.err
    assert {group_of(one) for one in project.machines()} == {"web", "cron"}


def test_a_group_that_goes_is_still_there_when_the_new_version_fails(project: Project) -> None:
    project.write('[processes]\na = "a"\nb = "b"\n' + CHECKED.replace("8080", '8080\nprocesses = ["a"]', 1))
    assert project.deploy("shop:1", "--ha=false", "--smoke-checks=false").code == 0
    project.write('[processes]\na = "a"\n' + CHECKED.replace("8080", '8080\nprocesses = ["a"]', 1))
    assert project.deploy("caddis-dev/check-status:404").code == 1
    assert {group_of(one) for one in project.machines()} == {"a", "b"}
    assert images(project.machines()) == {"shop:1"}


def test_d7_bluegreen_replaces_all_machines_by_new_ones(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    blues = {one["id"] for one in project.machines()}
    done = project.deploy("shop:2", "--strategy", "bluegreen")
    assert done.code == 0, done.err
    greens = project.machines()
    assert len(greens) == 2
    assert not blues & {one["id"] for one in greens}
    assert images(greens) == {"shop:2"}
    assert not any(one.get("cordoned") for one in greens)


def test_d7_greens_that_are_not_well_go_and_the_blues_are_untouched(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    before = {one["id"]: one["instance_id"] for one in project.machines()}
    done = project.deploy("caddis-dev/check-status:500", "--strategy", "bluegreen", "--wait-timeout", "3s")
    assert done.code in (1, 126)
    assert "status 500" in done.err
    assert {one["id"]: one["instance_id"] for one in project.machines()} == before


def test_d7_bluegreen_without_any_check_is_refused(project: Project) -> None:
    project.write(SERVICE)
    assert project.deploy("shop:1", "--smoke-checks=false").code == 0
    done = project.deploy("shop:2", "--strategy", "bluegreen")
    assert done.code == 1
    assert "at least 1 check" in done.err
    assert len(project.machines()) == 2


def test_a_canary_tries_first_and_goes_again(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    before = {one["id"] for one in project.machines()}
    done = project.deploy("shop:2", "--strategy", "canary")
    assert done.code == 0, done.err
    assert "] canary" in done.err
    assert {one["id"] for one in project.machines()} == before
    assert images(project.machines()) == {"shop:2"}


def test_a_canary_that_is_not_well_leaves_the_others_untouched(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    before = {one["id"]: one["instance_id"] for one in project.machines()}
    done = project.deploy("caddis-dev/check-status:404", "--strategy", "canary")
    assert done.code == 1
    assert "a check cannot pass" in done.err
    assert {one["id"]: one["instance_id"] for one in project.machines()} == before


def test_immediate_waits_for_nothing(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    done = project.deploy("caddis-dev/check-status:500", "--strategy", "immediate")
    assert done.code == 0, done.err
    assert images(project.machines()) == {"check-status:500"}


def test_an_image_by_tag_is_the_same_content_everywhere(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    first, second = sorted(project.machines(), key=lambda one: "@" in one["config"]["image"])
    assert "@" not in first["config"]["image"]  # by it the platform found out what the tag is
    assert second["config"]["image"].endswith(f"@{first['image_ref']['digest']}")
