"""The cases of reference machines-api, 7.2, by their numbers. What is not there yet (volumes, secrets) has none."""

from __future__ import annotations

import re
import time
from typing import Any

import httpx
import pytest

from tests.conformance.conftest import Fly
from tests.conftest import eventually


def error(reply: httpx.Response) -> str:
    return str(reply.json()["error"])


def test_01_without_authorization(fly: Fly) -> None:
    reply = httpx.get(f"{fly.http.base_url}/v1/apps/{fly.app}", trust_env=False)
    assert reply.status_code == 401
    assert error(reply)


def test_03_a_name_that_is_free(fly: Fly) -> None:
    reply = fly.http.get("/v1/apps/nope-nope")
    assert reply.status_code == 404
    assert error(reply)


def test_04_05_06_making_apps(fly: Fly) -> None:
    name = f"{fly.app}-2"
    body = {"name": name, "org_slug": "personal", "network": "", "app_role_id": ""}
    made = fly.http.post("/v1/apps?wait=true", json=body)
    assert made.status_code == 201
    assert made.json()["id"]
    assert made.json()["name"] == name
    assert isinstance(made.json()["created_at"], int)
    assert made.json()["organization"]["slug"] == "personal"
    assert fly.http.get(f"/v1/apps/{name}").status_code == 200
    again = fly.http.post("/v1/apps?wait=true", json=body)
    assert (again.status_code, again.json()["status"]) == (422, "name_taken")
    assert "Name has already been taken" in error(again)
    other = fly.http.post("/v1/apps", json={"app_name": f"{name}-3", "org_slug": "personal"})
    assert other.status_code == 201
    for app in (name, f"{name}-3"):
        assert fly.http.delete(f"/v1/apps/{app}").status_code == 202


def test_07_an_empty_list(fly: Fly) -> None:
    reply = fly.call("GET", "")
    assert (reply.status_code, reply.text) == (200, "[]")


def test_08_a_new_machine(fly: Fly) -> None:
    made = fly.create()
    assert re.fullmatch("[0-9a-f]{14}", made["id"])
    assert len(made["instance_id"]) == 26
    assert made["state"] == "created"
    assert made["events"][0]["type"] == "launch"
    assert made["host_status"] == "ok"
    assert made["config"]["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}


def test_09_explicit_nulls(fly: Fly) -> None:
    guest = {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512, "gpu_kind": None, "gpus": None}
    made = fly.create(guest=guest, auto_destroy=True, restart={"policy": "no"}, services=[])
    assert made["config"]["guest"] == {"cpu_kind": "shared", "cpus": 2, "memory_mb": 512}


@pytest.mark.parametrize(
    ("guest", "text"),
    [
        (("performance", 1, 1024), "invalid config.guest.memory_mb, minimum required 2048 MiB"),
        (("shared", 3, 768), "invalid config.guest.cpus"),
    ],
)
def test_10_11_guests_that_there_are_not(fly: Fly, guest: tuple[str, int, int], text: str) -> None:
    kind, cpus, memory_mb = guest
    config = fly.config(guest={"cpu_kind": kind, "cpus": cpus, "memory_mb": memory_mb})
    reply = fly.call("POST", "", {"config": config})
    assert reply.status_code == 400
    assert text in error(reply)
    assert fly.call("GET", "").json() == []


def test_12_13_names(fly: Fly) -> None:
    first = fly.create(body={"name": "a"}, wait="started")["id"]
    again = fly.call("POST", "", {"name": "a", "config": fly.config()})
    assert again.status_code == 409
    assert f'machine ID {first} already exists with name "a"' in error(again)
    assert fly.call("DELETE", f"/{first}?force=true").status_code == 200
    fly.wait(first, "destroyed")
    assert fly.create(body={"name": "a"})["id"] != first


def test_14_autostop_changes_its_type(fly: Fly) -> None:
    for sent, shown in (("stop", True), ("off", False), ("suspend", "suspend")):
        service = {"protocol": "tcp", "internal_port": 80, "autostop": sent, "ports": [{"port": 80}]}
        made = fly.create(services=[service], body={"skip_launch": True})
        assert fly.get(made["id"])["config"]["services"][0]["autostop"] is shown or shown == "suspend"


def test_15_durations(fly: Fly) -> None:
    check = {"type": "tcp", "port": 80, "interval": 60_000_000_000, "timeout": "90s"}
    made = fly.create(checks={"c": check}, body={"skip_launch": True})
    found = fly.get(made["id"])["config"]["checks"]["c"]
    assert (found["interval"], found["timeout"]) == ("1m0s", "1m30s")


def test_16_19_waiting_for_what_comes_and_what_is(fly: Fly) -> None:
    id = fly.create()["id"]
    assert fly.wait(id, "started")["ok"] is True
    machine = fly.get(id)
    types = [event["type"] for event in machine["events"]]
    assert machine["state"] == "started"
    assert types.index("start") < types.index("launch")
    assert fly.call("GET", f"/{id}/wait?state=stopped&state=started").json()["state"] == "started"


def test_17_18_waits_that_end_otherwise(fly: Fly) -> None:
    id = fly.stopped()
    began = time.monotonic()
    late = fly.call("GET", f"/{id}/wait?state=started&timeout=1")
    assert time.monotonic() - began >= 0.9
    assert late.status_code == 408
    assert "machine failed to reach desired state" in error(late)
    for timeout in (61, 0):
        reply = fly.call("GET", f"/{id}/wait?timeout={timeout}")
        assert reply.status_code == 400
        assert "value must be inside range [1s, 1m0s]" in error(reply)


def test_20_21_stopping(fly: Fly) -> None:
    id = fly.started()
    reply = fly.call("POST", f"/{id}/stop", {"timeout": "0s"})
    assert (reply.status_code, reply.json()) == (200, {"ok": True})
    fly.wait(id, "stopped")
    left = fly.exits(id)[0]
    assert left["requested_stop"] is True
    assert left.keys() == {
        *("exit_code", "guest_exit_code", "guest_signal", "guest_error", "oom_killed", "requested_stop"),
        *("restarting", "signal", "error", "exited_at"),
    }
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", left["exited_at"])
    assert fly.call("POST", f"/{id}/stop").json() == {"ok": True}


def test_22_starting_again(fly: Fly) -> None:
    id = fly.started()
    if fly.real:
        assert fly.call("POST", f"/{id}/exec", {"cmd": "touch /kept"}).json()["exit_code"] == 0
    fly.call("POST", f"/{id}/stop")
    fly.wait(id, "stopped")
    reply = fly.call("POST", f"/{id}/start")
    assert (reply.status_code, reply.json()["previous_state"]) == (200, "stopped")
    fly.wait(id, "started")
    if fly.real:
        assert fly.call("POST", f"/{id}/exec", {"cmd": "ls /kept"}).json()["exit_code"] != 0


async def test_23_always_means_again(fly: Fly) -> None:
    made = fly.create(ends=0, restart={"policy": "always"})
    await eventually(lambda: len(fly.exits(made["id"])) >= 2, timeout_s=20)
    for left in fly.exits(made["id"]):
        assert (left["restarting"], left["requested_stop"]) == (True, False)
    assert fly.get(made["id"])["instance_id"] == made["instance_id"]


async def test_24_on_failure_means_so_often(fly: Fly) -> None:
    id = fly.create(ends=1, restart={"policy": "on-failure", "max_retries": 2})["id"]
    await eventually(lambda: len(fly.exits(id)) == 3, timeout_s=20)
    fly.wait(id, "stopped")
    assert [(left["exit_code"], left["restarting"]) for left in fly.exits(id)] == [(1, False), (1, True), (1, True)]


def test_25_26_what_destroys_itself_can_be_read(fly: Fly) -> None:
    id = fly.create(ends=3, restart={"policy": "no"}, auto_destroy=True, wait="destroyed")["id"]
    assert fly.get(id)["state"] == "destroyed"
    assert fly.exits(id)[0]["exit_code"] == 3
    assert fly.call("GET", "").json() == []
    assert [one["id"] for one in fly.call("GET", "?include_deleted=true").json()] == [id]
    assert fly.call("GET", f"/{id}/wait?state=stopped").status_code == 404


def test_27_an_update_replaces(fly: Fly) -> None:
    id = fly.started(env={"A": "1"})
    before = fly.get(id)
    reply = fly.call("POST", f"/{id}", {"config": fly.config()})
    assert reply.status_code == 200
    version = reply.json()["instance_id"]
    assert version != before["instance_id"]
    assert "env" not in reply.json()["config"]
    fly.wait(id, "started")
    if fly.real:
        said = fly.call("POST", f"/{id}/exec", {"cmd": "sh -c 'echo $FLY_MACHINE_VERSION'"}).json()
        assert said["stdout"].strip() == version
    versions = fly.call("GET", f"/{id}/versions").json()
    assert [one["version"] for one in versions] == [version, before["instance_id"]]
    assert versions[1]["user_config"]["env"] == {"A": "1"}


def test_28_an_update_of_what_is_stopped(fly: Fly) -> None:
    id = fly.stopped()
    assert fly.call("POST", f"/{id}", {"config": fly.config(env={"B": "2"})}).status_code == 200
    assert fly.wait(id, "settled")["state"] == "stopped"
    assert fly.get(id)["config"]["env"] == {"B": "2"}


def test_29_a_stale_update(fly: Fly) -> None:
    id = fly.started()
    old = fly.get(id)["instance_id"]
    assert fly.call("POST", f"/{id}", {"config": fly.config()}).status_code == 200
    fly.wait(id, "started")
    before = fly.get(id)
    reply = fly.call("POST", f"/{id}", {"config": fly.config(env={"C": "3"}), "current_version": old})
    assert reply.status_code == 409
    assert "concurrent update" in error(reply)
    assert fly.get(id) == before


def lease(fly: Fly, id: str, query: str = "", *, nonce: str = "") -> httpx.Response:
    return fly.call("POST", f"/{id}/lease{query}", nonce=nonce)


def test_30_31_33_taking_keeping_and_giving_back_a_lease(fly: Fly) -> None:
    id = fly.started()
    taken = lease(fly, id, "?ttl=120")
    assert (taken.status_code, taken.json()["status"]) == (201, "success")
    data = taken.json()["data"]
    assert data["version"] == fly.get(id)["instance_id"]
    assert abs(data["expires_at"] - time.time() - 120) < 5
    kept = lease(fly, id, "?ttl=60", nonce=data["nonce"])
    assert (kept.status_code, kept.json()["data"]["nonce"]) == (201, data["nonce"])
    refused = lease(fly, id)
    assert refused.status_code == 409
    assert "lease currently held by" in refused.json()["message"]
    assert fly.call("GET", f"/{id}/lease").json()["data"]["nonce"] == data["nonce"], "flyctl clears leases with it"
    assert data["nonce"] not in fly.call("GET", f"/{id}?include_leases=true").text
    assert fly.call("GET", "?include_leases=true").json()[0]["lease"]["owner"] == data["owner"]
    back = fly.call("DELETE", f"/{id}/lease", nonce=data["nonce"])
    assert (back.status_code, back.json()) == (200, {"status": "success", "data": {"ok": True}})
    gone = fly.call("GET", f"/{id}/lease")
    assert gone.status_code == 404
    assert " lease not found" in error(gone)


def test_32_only_the_holder_may_change_it(fly: Fly) -> None:
    id = fly.started()
    nonce = lease(fly, id).json()["data"]["nonce"]
    calls: list[tuple[str, str, Any]] = [
        ("POST", f"/{id}", {"config": fly.config()}),
        ("POST", f"/{id}/start", None),
        ("POST", f"/{id}/cordon", None),
        ("POST", f"/{id}/suspend", None),
        ("POST", f"/{id}/restart", None),
        ("POST", f"/{id}/stop", None),
        ("DELETE", f"/{id}?force=true", None),
    ]
    before = fly.get(id)
    for method, path, body in calls:
        for wrong in ("", "0123456789ab"):
            reply = fly.call(method, path, body, nonce=wrong)
            assert reply.status_code == 409, path
            assert "lease currently held by" in error(reply)
    assert fly.get(id) == before
    for path in ("", "/wait", "/events", "/versions", "/metadata"):
        assert fly.call("GET", f"/{id}{path}").status_code == 200
    for method, path, body in calls:
        reply = fly.call(method, path, body, nonce=nonce)
        refused = fly.real and path.endswith("/suspend")
        assert reply.status_code == (412 if refused else 200), f"{path}: {reply.text}"
        fly.wait(id, "destroyed" if method == "DELETE" else "settled")


async def test_34_a_lease_ends_by_itself(fly: Fly) -> None:
    id = fly.started()
    assert lease(fly, id, "?ttl=1").status_code == 201
    assert fly.call("POST", f"/{id}/stop").status_code == 409
    await eventually(lambda: fly.call("POST", f"/{id}/stop").status_code == 200, timeout_s=5, every_s=0.1)


def test_35_made_with_a_lease(fly: Fly) -> None:
    made = fly.create(body={"lease_ttl": 30})
    assert made["nonce"]
    assert "nonce" not in fly.get(made["id"])
    assert fly.call("GET", f"/{made['id']}/lease").json()["data"]["nonce"] == made["nonce"]


def test_36_destroying(fly: Fly) -> None:
    id = fly.started()
    refused = fly.call("DELETE", f"/{id}?kill=false")
    assert refused.status_code == 412
    assert "unable to destroy machine, not currently stopped" in error(refused)
    done = fly.call("DELETE", f"/{id}?kill=true")
    assert (done.status_code, done.json()) == (200, {"ok": True})
    fly.wait(id, "destroyed")
    assert fly.call("DELETE", f"/{id}").status_code == 404


@pytest.mark.parametrize("signal", [9, "SIGKILL"])
def test_37_signals(fly: Fly, signal: object) -> None:
    id = fly.started(restart={"policy": "no"})
    assert fly.call("POST", f"/{id}/signal", {"signal": signal}).status_code == 200
    fly.wait(id, "stopped")
    assert fly.exits(id)[0]["exit_code"] == 137


def test_38_exec(programs: Fly) -> None:
    id = programs.started()
    reply = programs.call("POST", f"/{id}/exec", {"cmd": "sh -c 'exit 7'"})
    assert (reply.status_code, reply.json()["exit_code"]) == (200, 7)
    programs.call("POST", f"/{id}/stop")
    programs.wait(id, "stopped")
    assert programs.call("POST", f"/{id}/exec", {"cmd": "true"}).status_code == 412


def test_39_metadata(fly: Fly) -> None:
    id = fly.started()
    before = fly.get(id)
    assert fly.call("POST", f"/{id}/metadata/role", {"value": "x"}).status_code == 204
    after = fly.get(id)
    assert after["instance_id"] == before["instance_id"]
    assert after["config"]["metadata"]["role"] == "x"
    assert fly.call("GET", f"/{id}/metadata/role").json() == {"value": "x"}
    assert [one["id"] for one in fly.call("GET", "?metadata.role=x").json()] == [id]
    assert fly.call("GET", "?metadata.role=y").json() == []
    for method in ("PUT", "PATCH"):
        changes = {"role": None, method: "1"}
        assert fly.call(method, f"/{id}/metadata", {"metadata": changes}).status_code == 204
    found = fly.call("GET", f"/{id}/metadata").json()
    assert "role" not in found
    assert (found["PUT"], found["PATCH"]) == ("1", "1")
    stale = fly.call("PUT", f"/{id}/metadata", {"metadata": {"a": "b"}, "machine_version": "01HEPA"})
    assert stale.status_code == 412
    for _ in range(2):
        assert fly.call("DELETE", f"/{id}/metadata/PUT").status_code == 204
    assert fly.call("GET", f"/{id}/metadata/PUT").status_code == 404
    assert fly.call("POST", f"/{id}/metadata/a", {"value": 5}).status_code == 400
    assert fly.get(id)["state"] == "started"


def test_40_cordon(fly: Fly) -> None:
    id = fly.started()
    for path, cordoned in (("cordon", True), ("cordon", True), ("uncordon", False)):
        assert fly.call("POST", f"/{id}/{path}").json() == {"ok": True}
        assert fly.get(id)["cordoned"] is cordoned


def test_41_made_and_not_launched(fly: Fly) -> None:
    id = fly.create(body={"skip_launch": True}, wait="stopped")["id"]
    assert not [event for event in fly.get(id)["events"] if event["type"] == "start"]
    assert fly.call("POST", f"/{id}/start").status_code == 200
    fly.wait(id, "started")


def test_42_suspend_and_resume(fly: Fly) -> None:
    if fly.real:
        pytest.skip("containers cannot: tests/suspend has those that can")
    id = fly.started()
    before = fly.get(id)
    for _ in range(2):
        reply = fly.call("POST", f"/{id}/suspend")
        assert (reply.status_code, reply.json()) == (200, {"ok": True})
        assert fly.wait(id, "suspended")["ok"]
    assert [one["id"] for one in fly.call("GET", "?state=suspended").json()] == [id]
    reply = fly.call("POST", f"/{id}/start")
    assert reply.json()["previous_state"] == "suspended"
    fly.wait(id, "started")
    after = fly.get(id)
    assert (after["instance_id"], after["private_ip"]) == (before["instance_id"], before["private_ip"])
    happened = [(event["type"], event["status"]) for event in reversed(after["events"])]
    assert happened[-4:] == [
        ("suspend", "suspending"),
        ("suspend", "suspended"),
        ("start", "starting"),
        ("resume", "started"),
    ]
    assert not fly.exits(id), "it never ended"


def test_42_what_is_suspended_can_be_stopped_updated_and_destroyed(fly: Fly) -> None:
    if fly.real:
        pytest.skip("containers cannot")
    id = fly.started()

    def suspend() -> None:
        assert fly.call("POST", f"/{id}/suspend").status_code == 200
        fly.wait(id, "suspended")

    suspend()
    assert fly.call("POST", f"/{id}/stop").status_code == 200
    fly.wait(id, "stopped")
    assert fly.exits(id)[0]["requested_stop"]
    fly.call("POST", f"/{id}/start")
    fly.wait(id, "started")
    suspend()
    assert fly.call("POST", f"/{id}", {"config": fly.config(env={"A": "B"})}).status_code == 200
    fly.wait(id, "settled")
    assert fly.get(id)["state"] == "stopped"
    fly.call("POST", f"/{id}/start")
    fly.wait(id, "started")
    suspend()
    assert fly.call("DELETE", f"/{id}").status_code == 200
    fly.wait(id, "destroyed")


@pytest.mark.parametrize(
    "config",
    [
        {"guest": {"cpu_kind": "performance", "cpus": 1, "memory_mb": 4096}},
        {"init": {"swap_size_mb": 64}},
        {"schedule": "daily"},
    ],
)
def test_42_suspend_has_its_limits(fly: Fly, config: Any) -> None:
    if fly.real:
        pytest.skip("containers cannot")
    id = fly.started(**config)
    reply = fly.call("POST", f"/{id}/suspend")
    assert reply.status_code == 412
    assert "unable to suspend machine" in error(reply)


def test_42_suspend_is_refused_before_anything_is_done(fly: Fly) -> None:
    if not fly.real:
        pytest.skip("simulated hosts can")
    id = fly.started()
    before = fly.get(id)
    reply = fly.call("POST", f"/{id}/suspend")
    assert reply.status_code == 412
    assert "suspend" in error(reply)
    assert fly.get(id) == before


def test_42_only_what_runs_is_suspended(fly: Fly) -> None:
    assert fly.call("POST", f"/{fly.stopped()}/suspend").status_code == 412


def test_47_regions(fly: Fly) -> None:
    reply = fly.http.get("/v1/platform/regions")
    assert reply.status_code == 200
    assert reply.json().keys() == {"Regions", "Nearest"}


def test_48_certificates_have_no_such_calls(fly: Fly) -> None:
    assert fly.http.put(f"/v1/apps/{fly.app}/certificates").status_code in (404, 405)
    assert fly.http.post(f"/v1/apps/{fly.app}/certificates").status_code in (404, 405)


def test_processes(programs: Fly) -> None:
    """M13."""
    id = programs.started()
    found = programs.call("GET", f"/{id}/ps?sort_by=pid&order=desc").json()
    assert [process["pid"] for process in found] == sorted((p["pid"] for p in found), reverse=True)
    assert any("sleep 1000" in process["command"] for process in found)
    assert all(isinstance(process[name], int) for process in found for name in ("stime", "rtime", "cpu", "rss"))
    assert programs.call("GET", f"/{id}/ps?sort_by=beauty").status_code == 400


def test_machines_of_the_organization_page_by_page(fly: Fly) -> None:
    """O1."""
    made = {fly.create(body={"skip_launch": True}, wait="stopped")["id"] for _ in range(3)}
    found, cursor = set(), ""
    while True:
        page = fly.http.get(f"/v1/orgs/personal/machines?limit=1&cursor={cursor}").json()
        assert len(page["machines"]) <= 1
        found |= {one["id"] for one in page["machines"] if one["app_name"] == fly.app}
        cursor = page["next_cursor"]
        if not cursor:
            break
    assert found == made
    assert fly.http.get("/v1/orgs/personal/machines?cursor=nonsense").status_code == 400
    assert fly.http.get("/v1/orgs/nobody/machines").status_code == 404


def test_placements(fly: Fly) -> None:
    """P1."""
    body = {"org_slug": "personal", "compute": {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}, "count": 7}
    found = fly.http.post("/v1/platform/placements", json=body).json()["Regions"]
    known = {region["code"] for region in fly.http.get("/v1/platform/regions").json()["Regions"]}
    assert sum(one["Count"] for one in found) == 7
    assert {one["Region"] for one in found} <= known
    assert max(one["Count"] for one in found) - min(one["Count"] for one in found) <= 1
    region = found[0]["Region"]
    one = fly.http.post("/v1/platform/placements", json={**body, "region": region}).json()["Regions"]
    assert one == [{"Region": region, "Count": 7, "Concurrency": 1}]
    for change, status in (({"org_slug": "nobody"}, 404), ({"region": "zzz"}, 400), ({"compute": {"cpus": 3}}, 400)):
        assert fly.http.post("/v1/platform/placements", json={**body, **change}).status_code == status


@pytest.mark.parametrize(
    ("config", "text"),
    [
        ({"volumes": [{"name": "a", "temp_dir": {"storage_type": "memory"}}]}, "config.volumes"),
        ({"mounts": [{"volume": "vol_1", "path": "/data"}]}, "config.mounts"),
    ],
)
def test_what_is_not_there_yet_is_refused_and_not_ignored(fly: Fly, config: dict[str, Any], text: str) -> None:
    reply = fly.call("POST", "", {"config": fly.config(**config)})
    assert reply.status_code == 400
    assert text in error(reply)
    assert fly.call("GET", "").json() == []


def test_containers(fly: Fly) -> None:
    """2.11, and `containers` of part 3."""
    containers = [
        {"name": "a", "image": fly.image},
        {"name": "b", "image": fly.image, "depends_on": [{"name": "a", "condition": "started"}]},
    ]
    for one in containers if fly.real else ():
        one["exec"] = ["/bin/sleep", "1000"]
    id = fly.create(wait="started", containers=containers)["id"]
    up = [{"name": "a", "state": "started"}, {"name": "b", "state": "started"}]
    deadline = time.monotonic() + 10
    while (found := fly.get(id))["containers"] != up:
        assert time.monotonic() < deadline, found["containers"]
    assert found["config"]["containers"] == containers
    reply = fly.call("POST", f"/{id}/exec", {"command": ["true"], "container": "b"})
    assert (reply.status_code, reply.json()["exit_code"]) == (200, 0)
    assert fly.call("POST", f"/{id}/exec", {"command": ["true"], "container": "c"}).status_code == 400
    assert fly.call("POST", f"/{id}/stop").status_code == 200
    fly.wait(id, "stopped")
    assert fly.get(id)["containers"] == [{"name": "a", "state": "stopped"}, {"name": "b", "state": "stopped"}]
    circle = [{**containers[0], "depends_on": [{"name": "b"}]}, containers[1]]
    reply = fly.call("POST", "", {"config": fly.config(containers=circle)})
    assert reply.status_code == 400
    assert "wait for each other" in error(reply)


def test_several_processes(fly: Fly) -> None:
    """2.8: the Machine ends with the first that does, and its policy says what follows."""
    init = {"exec": ["/bin/sleep", "1000"]} if fly.real else {}
    id = fly.create(wait="started", processes=[init, init], restart={"policy": "no"})["id"]
    assert "containers" not in fly.get(id)
    assert fly.call("POST", f"/{id}/signal", {"signal": 9}).status_code == 200
    fly.wait(id, "stopped")
    assert [one["exit_code"] for one in fly.exits(id)] == [137]


def test_memory(programs: Fly) -> None:
    """M19."""
    id = programs.started()
    shown = programs.call("GET", f"/{id}/memory").json()
    assert shown["limit_mb"] == 256
    assert 200 < shown["available_mb"] <= 256
    assert programs.call("PUT", f"/{id}/memory", {"limit_mb": 128}).json()["limit_mb"] == 128
    assert programs.call("GET", f"/{id}/memory").json()["limit_mb"] == 128
    assert programs.call("PUT", f"/{id}/memory", {"limit_mb": 200}).json()["limit_mb"] == 200
    for wrong in ({"limit_mb": 257}, {"limit_mb": 0}, {"limit_mb": "much"}):
        assert programs.call("PUT", f"/{id}/memory", wrong).status_code == 400
    filled = programs.call("POST", f"/{id}/exec", {"cmd": "dd if=/dev/zero of=/tmp/x bs=1M count=40"})
    assert filled.json()["exit_code"] == 0
    reply = programs.call("POST", f"/{id}/memory/reclaim", {"amount_mb": 20})
    assert reply.status_code == 200
    assert isinstance(reply.json()["actual_mb"], int)
    assert programs.call("GET", f"/{id}/memory").json()["limit_mb"] == 200
    assert programs.get(id)["state"] == "started"
    programs.call("POST", f"/{id}/stop")
    programs.wait(id, "stopped")
    assert programs.call("GET", f"/{id}/memory").status_code == 412


def test_an_image_is_resolved_to_what_a_machine_runs(fly: Fly) -> None:
    """Ours. By `reference` another Machine runs the same, also where the image came from a file."""
    found = fly.http.get(f"/v1/apps/{fly.app}/image", params={"ref": fly.image}).json()
    assert fly.get(fly.started())["image_ref"]["digest"] == found["digest"]
    same = fly.call("POST", "", {"config": {**fly.config(), "image": found["reference"]}}).json()
    fly.wait(same["id"], "started")
    assert fly.get(same["id"])["image_ref"]["digest"] == found["digest"]
    missing = fly.http.get(f"/v1/apps/{fly.app}/image", params={"ref": "nowhere.invalid/nope:missing"})
    assert missing.status_code >= 400
    assert error(missing)
