"""The first deploy of an app: what it makes, and that it says so before it does (reference fly-launch, D1-D3, 2.4)."""

from __future__ import annotations

from tests.deploys.conftest import CHECKED, Project, group_of, version_of

_GROUPS = '[processes]\nweb = "serve"\nworker = "work"\n' + CHECKED.replace(
    "internal_port = 8080", 'internal_port = 8080\nprocesses = ["web"]'
)


def test_d1_a_service_gets_two_machines_in_its_region(project: Project) -> None:
    done = project.deploy()
    assert done.code == 0, done.err
    machines = project.machines()
    assert [(one["state"], one["region"], group_of(one), version_of(one)) for one in machines] == [
        ("started", "fra", "app", "1"),
        ("started", "fra", "app", "1"),
    ]
    assert project.release()["status"] == "complete"
    assert f"Release v1 of {project.app} is complete" in done.out
    assert "--ha=false makes 1" in done.err.partition("creating")[0]  # before it happened


def test_d2_groups_without_a_service_get_a_standby(project: Project) -> None:
    project.write(_GROUPS)
    done = project.deploy("shop:1", "--smoke-checks=false")
    assert done.code == 0, done.err
    assert [one["state"] for one in project.machines("web")] == ["started", "started"]
    first, standby = sorted(project.machines("worker"), key=lambda one: "standbys" in one["config"])
    assert first["state"] == "started"
    assert standby["state"] == "stopped"
    assert standby["config"]["standbys"] == [first["id"]]
    assert standby["config"]["env"]["FLY_STANDBY_FOR"] == first["id"]


def test_d2_without_ha_there_is_one_of_each(project: Project) -> None:
    project.write(_GROUPS)
    assert project.deploy("shop:1", "--ha=false", "--smoke-checks=false").code == 0
    assert [len(project.machines(group)) for group in ("web", "worker")] == [1, 1]


def test_d3_volumes_are_refused_before_anything_is_made(project: Project) -> None:
    project.write(CHECKED + '[[mounts]]\nsource = "data"\ndestination = "/data"\n')
    done = project.deploy()
    assert done.code == 1
    assert "volumes are not there yet" in done.err
    assert "'data' at /data" in done.err
    assert project.machines() == []


def test_counts_and_regions_of_the_file_are_held(project: Project) -> None:
    project.write(CHECKED + '[caddisfly]\ncount = 3\nregions = ["fra", "ord"]\n')
    assert project.deploy().code == 0
    assert sorted(one["region"] for one in project.machines()) == ["fra", "fra", "ord"]
    project.write(CHECKED + '[caddisfly]\ncount = 1\nregions = ["ord"]\n')
    done = project.deploy("shop:2")
    assert done.code == 0, done.err
    assert [one["region"] for one in project.machines()] == ["ord"]


def test_a_count_of_zero_stays_zero(project: Project) -> None:
    project.write(CHECKED + "[caddisfly]\ncount = 0\n")
    assert project.deploy().code == 0
    assert project.machines() == []


def test_a_group_that_was_scaled_to_zero_is_not_filled_again(project: Project) -> None:
    project.dev.client.scale.change(project.app, {"app": {"count": 0}})
    done = project.deploy()
    assert done.code == 0
    assert project.machines() == []
    assert "leave 'app' at 0 Machines" in done.err


def test_the_size_of_flags_is_for_groups_without_one(project: Project) -> None:
    assert project.deploy("shop:1", "--vm-size", "shared-cpu-2x", "--ha=false").code == 0
    assert project.machines()[0]["config"]["guest"]["cpus"] == 2


def test_a_first_version_that_crashes_leaves_nothing(project: Project) -> None:
    project.write("[env]\nCADDIS_DEV = 'exit-after=50ms,code=3'\n" + CHECKED)
    done = project.deploy()
    assert done.code == 1
    assert "the app appears to be crashing" in done.err
    assert "exit code 3" in done.err
    assert project.machines() == []
    assert project.release()["status"] == "failed"


def test_a_deploy_without_a_file_says_what_is_missing(project: Project) -> None:
    (project.folder / "fly.toml").unlink()
    done = project.deploy()
    assert done.code == 1
    assert "no fly.toml" in done.err
    assert "caddis launch" in done.err


def test_a_file_of_another_app_is_refused(project: Project) -> None:
    done = project.deploy("shop:1", "-a", "other")
    assert done.code == 1
    assert f"is of app {project.app}, not of other" in done.err
