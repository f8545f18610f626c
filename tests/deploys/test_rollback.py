"""Going back: `caddis rollback`, and what a release remembers."""

from __future__ import annotations

from tests.deploys.conftest import CHECKED, Project, images, version_of


def test_a_rollback_restores_image_and_config_as_a_release_of_its_own(project: Project) -> None:
    project.write("[env]\nCOLOUR = 'blue'\n" + CHECKED)
    assert project.deploy("shop:1").code == 0
    project.write("[env]\nCOLOUR = 'green'\n" + CHECKED)
    assert project.deploy("shop:2").code == 0
    done = project.run("rollback")
    assert done.code == 0, done.err
    machines = project.machines()
    assert images(machines) == {"shop:1"}
    assert [(one["config"]["env"]["COLOUR"], version_of(one)) for one in machines] == [("blue", "3")] * 2
    assert project.release()["description"] == "Rollback to v1"
    assert "Secrets stay as they are" in done.err
    again = project.run("rollback", "v2")
    assert again.code == 0, again.err
    assert images(project.machines()) == {"shop:2"}


def test_a_rollback_runs_no_release_command(project: Project) -> None:
    project.write(CHECKED + "[deploy]\nrelease_command = \"sh -c 'echo migrating'\"\n")
    assert project.deploy("shop:1", "--ha=false").code == 0
    assert project.deploy("shop:2").code == 0
    assert "migrating" not in project.run("rollback").err


def test_a_group_that_the_newer_version_had_lost_comes_back(project: Project) -> None:
    web = CHECKED.replace("internal_port = 8080", 'internal_port = 8080\nprocesses = ["web"]')
    project.write('[processes]\nweb = "serve"\nworker = "work"\n' + web)
    assert project.deploy("shop:1", "--ha=false", "--smoke-checks=false").code == 0
    project.write('[processes]\nweb = "serve"\n' + web)
    assert project.deploy("shop:2").code == 0
    assert project.machines("worker") == []
    done = project.run("rollback")
    assert done.code == 0, done.err
    assert project.machines("worker")


def test_what_cannot_be_gone_back_to_is_named(project: Project) -> None:
    assert "has no release to go back to" in project.run("rollback").err
    assert project.deploy("shop:1").code == 0
    assert project.deploy("caddis-dev/check-status:404").code == 1
    assert "complete are: v1" in project.run("rollback", "7").err
    assert "was never good" in project.run("rollback", "2").err
    assert project.run("rollback", "latest").code == 2


def test_d11_secrets_are_a_release_without_build_and_release_command(project: Project) -> None:
    project.write(CHECKED + "[deploy]\nrelease_command = \"sh -c 'echo migrating'\"\n")
    assert project.deploy("shop:1").code == 0
    asleep = project.machines()[0]["id"]
    project.dev.client.machines.stop(project.app, asleep)
    project.dev.client.machines.wait(project.app, asleep, "stopped")
    before = {one["id"]: one["config"] for one in project.machines()}
    done = project.run("secrets", "set", "A=1", "-a", project.app)
    assert done.code == 0, done.err
    assert "migrating" not in done.err
    after = project.machines()
    assert {one["id"]: one["state"] for one in after}[asleep] == "stopped"
    assert {version_of(one) for one in after} == {"2"}
    for one in after:
        kept = {**one["config"], "metadata": None}
        assert kept == {**before[one["id"]], "metadata": None}
    staged = project.run("secrets", "set", "B=2", "--stage", "-a", project.app)
    assert staged.code == 0
    assert {version_of(one) for one in project.machines()} == {"2"}


def test_machines_of_others_are_named_and_left_alone_unless_asked_for(project: Project) -> None:
    assert project.deploy("shop:1", "--ha=false").code == 0
    other = project.dev.client.machines.create(project.app, {"image": "other:1"})
    project.dev.client.machines.wait(project.app, other["id"], "started")
    done = project.run("secrets", "set", "A=1", "-a", project.app)
    assert f"{other['id']} keep the secrets that they have" in done.err
    now = project.dev.client.machines.get(project.app, other["id"])
    assert now["instance_id"] == other["instance_id"]
    everywhere = project.run("secrets", "deploy", "--all-machines", "-a", project.app)
    assert everywhere.code == 0, everywhere.err
    assert project.dev.client.machines.get(project.app, other["id"])["instance_id"] != other["instance_id"]


def test_what_flags_set_is_not_kept_but_the_rest_is(project: Project) -> None:
    assert project.deploy("shop:1", "-e", "A=1").code == 0
    assert project.machines()[0]["config"]["env"]["A"] == "1"
    assert project.deploy("shop:1").code == 0
    assert "A" not in project.machines()[0]["config"]["env"]


def test_a_plan_changes_nothing_and_shows_everything(project: Project) -> None:
    assert project.deploy("shop:1").code == 0
    before = [one["instance_id"] for one in project.machines()]
    project.write("[env]\nCOLOUR = 'green'\n" + CHECKED)
    shown = project.deploy("shop:2", "--plan")
    assert shown.code == 0
    for said in (f"App: {project.app}", "Config: fly.toml", "Image: shop:2", "+ env.COLOUR: green", 'update 2 "app"'):
        assert said in shown.out
    wire = project.deploy("shop:2", "--plan", "--json").json
    assert [one["changes"] for one in wire["update"]] == [["+ env.COLOUR: green"]] * 2
    assert [one["instance_id"] for one in project.machines()] == before
    assert project.release()["version"] == 1
