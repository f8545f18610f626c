"""Commands about all Machines of an app: restart, suspend, resume, image update; on simulated hosts."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from caddisfly.pytest_plugin import CaddisApp
from tests.cli.conftest import Outcome
from tests.cli.deployed import machine, release

Caddis = Callable[..., Outcome]


def states(app: CaddisApp) -> dict[str, tuple[str, bool]]:
    return {one["id"]: (one["state"], bool(one["cordoned"])) for one in app.machines()}


def test_restart_is_about_those_that_run_one_after_the_other(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    one, other, still = machine(caddis_app), machine(caddis_app), machine(caddis_app, wait="stopped")
    done = caddis_on_dev("apps", "restart", caddis_app.name, "--json")
    assert done.code == 0, done.err
    assert sorted(done.json["machines"]) == sorted((one["id"], other["id"]))
    after = {found["id"]: found for found in caddis_app.machines()}
    for id in (one["id"], other["id"]):
        assert after[id]["state"] == "started"
        assert any(event["type"] == "restart" for event in after[id]["events"]), after[id]["events"]
    assert after[still["id"]]["state"] == "stopped"
    begins = sorted(
        (event["timestamp"], id)
        for id in (one["id"], other["id"])
        for event in after[id]["events"]
        if event["type"] in ("restart", "start") and event["timestamp"] >= restarted(after[id])
    )
    assert [id for _, id in begins] == sorted(id for _, id in begins), "the second begins once the first is up"


def restarted(found: dict[str, Any]) -> int:
    return int(next(event["timestamp"] for event in found["events"] if event["type"] == "restart"))


def test_a_restart_ends_at_the_first_that_does_not_come_up(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    made = [machine(caddis_app, restart={"policy": "no"}) for _ in range(2)]
    first, second = sorted(one["id"] for one in made)
    caddis_app.client.machines.metadata.set(caddis_app.name, first, "caddis-dev", "start-error")
    before = caddis_app.client.machines.get(caddis_app.name, second)["updated_at"]
    failed = caddis_on_dev("apps", "restart", caddis_app.name)
    assert (failed.code, first in failed.err) == (1, True), failed.err
    assert caddis_app.client.machines.get(caddis_app.name, second)["updated_at"] == before


def test_a_suspended_app_comes_back_as_it_was(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    app = caddis_app.name
    running, cordoned, stopped = machine(caddis_app), machine(caddis_app), machine(caddis_app, wait="stopped")
    caddis_app.client.machines.cordon(app, cordoned["id"])
    before = states(caddis_app)
    refused = caddis_on_dev("apps", "suspend", app)
    assert (refused.code, "add --yes" in refused.err) == (2, True)
    assert states(caddis_app) == before
    assert caddis_on_dev("apps", "suspend", app, "--yes").code == 0
    assert set(states(caddis_app).values()) == {("stopped", True)}, "and no request wakes what is cordoned"
    again = caddis_on_dev("apps", "suspend", app, "--yes", "--json")
    assert again.json["machines"] == []
    shown = caddis_on_dev("status", "-a", app)
    assert "suspended" in shown.out
    back = caddis_on_dev("apps", "resume", app)
    assert back.code == 0, back.err
    assert states(caddis_app) == before
    assert before[running["id"]] == ("started", False)
    started = caddis_on_dev("apps", "resume", app, "--json")
    assert started.json["machines"] == [stopped["id"]], "nothing was suspended: all that do not run are started"


def test_an_image_is_updated_where_its_tag_has_moved(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    app = caddis_app.name
    one = machine(caddis_app)
    assert caddis_on_dev("image", "show", "-a", app).out.splitlines()[1].split("\t")[2:4] == ["library/nginx", "latest"]
    same = caddis_on_dev("image", "update", "-a", app)
    assert (same.code, "runs the newest images already" in same.out) == (0, True), same.err
    assert caddis_app.client.machines.get(app, one["id"])["instance_id"] == one["instance_id"]


def test_a_clone_runs_the_same_image_and_is_of_the_same_group(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    source = caddis_app.client.machines.get(caddis_app.name, machine(caddis_app)["id"])
    made = caddis_on_dev("machine", "clone", source["id"], "-a", caddis_app.name, "--region", "fra", "--json")
    assert made.code == 0, made.err
    assert made.json["config"]["image"].endswith(source["image_ref"]["digest"])
    assert made.json["config"]["metadata"] == source["config"]["metadata"]
    assert (made.json["region"], made.json["state"]) == ("fra", "started")
    words = ("--standby-for", "source", "--json")
    waiting = caddis_on_dev("machine", "clone", source["id"], "-a", caddis_app.name, *words).json
    assert waiting["config"]["standbys"] == [source["id"]]
    assert waiting["config"]["env"]["FLY_STANDBY_FOR"] == source["id"]
    assert waiting["state"] in ("created", "stopped")
    caddis_app.client.machines.wait(caddis_app.name, waiting["id"], "stopped")
    again = caddis_on_dev("machine", "clone", waiting["id"], "-a", caddis_app.name, "--json").json
    assert "standbys" not in again["config"]
    refused = caddis_on_dev("machine", "clone", source["id"], "-a", caddis_app.name, "--from-snapshot", "last")
    assert (refused.code, "no volumes yet" in refused.err) == (1, True)


def test_a_release_is_not_needed_to_scale_what_is_there(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    machine(caddis_app, "web")
    assert caddis_on_dev("scale", "count", "2", "-a", caddis_app.name, "--yes").code == 0
    release(caddis_app)
    assert caddis_on_dev("scale", "count", "worker=1", "-a", caddis_app.name, "--yes").code == 0
    assert len(caddis_app.machines()) == 3
