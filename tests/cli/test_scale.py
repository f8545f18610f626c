"""`caddis scale`, on a platform with simulated hosts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

from caddisfly.pytest_plugin import CaddisApp
from tests.cli.conftest import Outcome
from tests.cli.deployed import FILE, ids, machine, release, standby

Caddis = Callable[..., Outcome]


def regions(app: CaddisApp) -> Counter[str]:
    return Counter(one["region"] for one in app.machines())


def test_up_and_down_again_and_it_is_remembered(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    app = caddis_app.name
    release(caddis_app)
    first = machine(caddis_app)
    up = caddis_on_dev("scale", "count", "web=3", "-a", app, "--region", "ams,fra", "--max-per-region=2", "--yes", "-j")
    assert up.code == 0, up.err
    assert "+1 machines for group 'web' on region 'fra' of size 'shared-cpu-2x'" in up.err
    assert regions(caddis_app) == {"ams": 2, "fra": 1}
    assert len(up.json["created"]) == 2
    assert all(caddis_app.client.machines.get(app, id)["state"] == "started" for id in up.json["created"])
    rules = {"count": 3, "regions": ["ams", "fra"], "max_per_region": 2}
    assert caddis_app.client.scale.get(app) == {"web": rules}
    caddis_app.client.machines.stop(app, first["id"])
    caddis_app.client.machines.wait(app, first["id"], "stopped")
    down = caddis_on_dev("scale", "count", "-y", "-a", app, "-g", "web", "--", "-1")
    assert down.code == 0, down.err
    assert "Scaled app" in down.out
    assert regions(caddis_app) == {"ams": 2}, "taken away region by region, the first keeps its own longest"
    none = caddis_on_dev("scale", "count", "web=0", "-a", app, "--yes")
    assert none.code == 0, none.err
    assert caddis_app.machines() == []
    assert caddis_app.client.scale.get(app)["web"]["count"] == 0
    again = caddis_on_dev("scale", "count", "web=0", "-a", app)
    assert "already scaled to desired state" in again.out
    assert not any("lease" in one for one in caddis_app.client.machines.list(app, include_leases=True))


def test_nobody_is_asked_where_nobody_is(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    release(caddis_app)
    refused = caddis_on_dev("scale", "count", "web=2", "-a", caddis_app.name)
    assert (refused.code, "add --yes" in refused.err) == (2, True)
    assert caddis_app.machines() == []
    assert caddis_app.client.scale.get(caddis_app.name) == {}
    for words, said in (
        (("cron=1",), "unknown process groups cron"),
        (("1",), "which process group"),
        (("web=1", "--with-new-volumes"), "no volumes yet"),
    ):
        refused = caddis_on_dev("scale", "count", *words, "--yes", "-a", caddis_app.name)
        assert (refused.code, said in refused.err) == (2 if "volumes" not in said else 1, True), refused.err


def test_a_new_one_that_does_not_come_up_is_told_and_nothing_is_removed(
    caddis_on_dev: Caddis, caddis_app: CaddisApp
) -> None:
    broken = FILE + "[env]\nCADDIS_DEV = 'start-error'\n[[restart]]\npolicy = 'never'\nprocesses = ['worker']\n"
    release(caddis_app, broken)
    kept = machine(caddis_app, region="fra")
    failed = caddis_on_dev("scale", "count", "worker=1", "web=0", "-a", caddis_app.name, "--yes")
    assert failed.code == 1
    assert "[worker]: " in failed.err
    assert "caddis logs" in failed.err
    assert kept["id"] in ids(caddis_app)


def test_what_somebody_else_holds_is_left_alone(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    release(caddis_app)
    one, other = machine(caddis_app), machine(caddis_app)
    with caddis_app.client.machines.lease(caddis_app.name, other["id"], description="a deploy"):
        refused = caddis_on_dev("scale", "count", "web=0", "-a", caddis_app.name, "--yes")
    assert (refused.code, "lease currently held by" in refused.err) == (1, True)
    assert ids(caddis_app) == {one["id"], other["id"]}
    free = caddis_app.client.machines.list(caddis_app.name, include_leases=True)
    assert not any("lease" in machine for machine in free), "nothing is held after a refusal"


def test_nothing_is_scaled_during_a_deploy(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    release(caddis_app)
    caddis_app.client.releases.create(caddis_app.name)
    refused = caddis_on_dev("scale", "count", "web=1", "-a", caddis_app.name, "--yes")
    assert (refused.code, "release v2 is pending" in refused.err) == (1, True)
    assert caddis_app.machines() == []
    assert caddis_app.client.scale.get(caddis_app.name) == {}


def test_show_counts_what_works_and_names_what_waits(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    app = caddis_app.name
    for region in ("ams", "fra", "fra"):
        machine(caddis_app, region=region)
    worker = machine(caddis_app, "worker")
    standby(caddis_app, worker)
    caddis_app.client.scale.change(app, {"web": {"count": 4}, "cron": {"count": 0}})
    shown = caddis_on_dev("scale", "show", "-a", app)
    assert [line.split("\t") for line in shown.out.splitlines()[2:]] == [
        ["NAME", "COUNT", "KIND", "CPUS", "MEMORY", "REGIONS"],
        ["cron", "0", "", "", "", ""],
        ["web", "3", "shared", "1", "256 MB", "ams,fra(2)"],
        ["worker", "1", "shared", "1", "256 MB", "ams"],
    ]
    assert "worker: and 1 on standby" in shown.err
    assert "web: 4 were asked for" in shown.err
    web = caddis_on_dev("scale", "show", "-a", app, "--json").json[1]
    assert (web["Process"], web["Count"], web["CPUKind"], web["Regions"]) == ("web", 3, "shared", {"ams": 1, "fra": 2})


def test_sizes_change_one_after_the_other_and_what_is_stopped_stays_so(
    caddis_on_dev: Caddis, caddis_app: CaddisApp, tmp_path: Path
) -> None:
    app = caddis_app.name
    release(caddis_app)
    running, stopped = machine(caddis_app), machine(caddis_app, wait="stopped")
    machine(caddis_app, "worker")
    assert "which process group" in caddis_on_dev("scale", "vm", "shared-cpu-4x", "-a", app).err
    done = caddis_on_dev("scale", "vm", "shared-cpu-4x", "-g", "web", "-a", app)
    assert done.code == 0, done.err
    assert "[[vm]] of fly.toml says shared-cpu-2x: the next deploy goes back to it" in done.err
    (tmp_path / "fly.toml").write_text(
        f"app = '{app}'" + FILE.replace("2x", "4x").replace("size", "memory = '2gb'\nsize")
    )
    more = caddis_on_dev("scale", "memory", "2gb", "-g", "web", "--json")
    assert more.code == 0, more.err
    assert "Warning" not in more.err
    for one, state in ((running, "started"), (stopped, "stopped")):
        after = caddis_app.client.machines.get(app, one["id"])
        assert after["config"]["guest"] == {"cpu_kind": "shared", "cpus": 4, "memory_mb": 2048}
        assert after["state"] == state
    too_much = caddis_on_dev("scale", "memory", "512000", "-g", "web")
    assert (too_much.code, "cannot exceed" in too_much.err) == (2, True)


def test_a_count_that_the_file_declares_comes_back(caddis_on_dev: Caddis, caddis_app: CaddisApp) -> None:
    release(caddis_app, FILE + "[caddisfly]\ncount = 1\n")
    done = caddis_on_dev("scale", "count", "web=2", "-a", caddis_app.name, "--yes")
    assert done.code == 0, done.err
    assert "says count = 1 for web: the next deploy goes back to it" in done.err
