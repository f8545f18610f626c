"""Machines on the wire (conformance cases 7 to 21, 25 to 29, 36 to 39)."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import httpx
import pytest

from tests.conftest import eventually
from tests.control.api import Api, wait
from tests.control.fake_host import FakeHost

MACHINES = "/v1/apps/demo/machines"
NGINX = {"config": {"image": "nginx"}}


async def create(fly: httpx.AsyncClient, **body: Any) -> dict[str, Any]:
    reply = await fly.post(MACHINES, json={**NGINX, **body})
    assert reply.status_code == 200, reply.text
    machine: dict[str, Any] = reply.json()
    return machine


async def started(fly: httpx.AsyncClient, **body: Any) -> str:
    machine = await create(fly, **body)
    await wait(fly, "demo", machine["id"], "started")
    return str(machine["id"])


async def stopped(fly: httpx.AsyncClient) -> str:
    machine = await create(fly, skip_launch=True)
    await wait(fly, "demo", machine["id"], "stopped")
    return str(machine["id"])


async def test_an_empty_list_is_a_list(fly: httpx.AsyncClient) -> None:
    reply = await fly.get(f"{MACHINES}?started")
    assert (reply.status_code, reply.content) == (200, b"[]")


async def test_create(fly: httpx.AsyncClient) -> None:
    machine = await create(fly)
    assert re.fullmatch(r"[0-9a-f]{14}", machine["id"])
    assert len(machine["instance_id"]) == 26
    assert machine["state"] == "created"
    assert machine["events"][0]["type"] == "launch"
    assert machine["host_status"] == "ok"
    assert machine["config"]["guest"] == {"cpu_kind": "shared", "cpus": 1, "memory_mb": 256}
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d{4}", machine["name"])
    assert machine["region"] == "ams"
    listed = (await fly.get(MACHINES)).json()
    assert [entry["id"] for entry in listed] == [machine["id"]], "what was written is read"


async def test_flame(fly: httpx.AsyncClient) -> None:
    body = {
        "name": "myapp-flame-1f0c9a7be2d84c5a6b7e",
        "region": "ams",
        "config": {
            "image": "registry.fly.io/myapp:deployment-01H",
            "init": {},
            "guest": {"cpu_kind": "performance", "cpus": 2, "memory_mb": 4096, "gpu_kind": None, "gpus": None},
            "auto_destroy": True,
            "restart": {"policy": "no"},
            "env": {"PHX_SERVER": "false", "FLAME_PARENT": "..."},
            "services": [],
            "metadata": {"flame_parent_ip": "fdaa:0:18:a7b:196:e274:9ce1:2"},
        },
    }
    reply = await fly.post(MACHINES, json=body)
    assert reply.status_code == 200
    machine = reply.json()
    assert "gpus" not in machine["config"]["guest"]
    assert all(isinstance(machine[name], str) for name in ("id", "instance_id", "private_ip"))


@pytest.mark.parametrize(
    ("config", "text"),
    [
        (
            {"image": "x", "guest": {"cpu_kind": "performance", "cpus": 1, "memory_mb": 1024}},
            "invalid config.guest.memory_mb, minimum required 2048 MiB",
        ),
        ({"image": "x", "guest": {"cpu_kind": "shared", "cpus": 3, "memory_mb": 768}}, "invalid config.guest.cpus"),
        ({}, "missing config.image"),
        ({"image": "x", "mounts": [{"path": "/"}]}, "invalid config.mounts"),
        ({"image": "x", "metadata": {"a": 1}}, "invalid config.metadata"),
    ],
)
async def test_a_bad_config_is_400(fly: httpx.AsyncClient, config: dict[str, Any], text: str) -> None:
    reply = await fly.post(MACHINES, json={"config": config})
    assert reply.status_code == 400
    assert text in reply.json()["error"]


async def test_names_are_unique_among_the_living(fly: httpx.AsyncClient) -> None:
    first = await started(fly, name="a")
    reply = await fly.post(MACHINES, json={**NGINX, "name": "a"})
    assert reply.status_code == 409
    assert reply.json()["error"] == (
        f'already_exists: unique machine name violation, machine ID {first} already exists with name "a"'
    )
    assert (await fly.delete(f"{MACHINES}/{first}?force=true")).json() == {"ok": True}
    await wait(fly, "demo", first, "destroyed")
    assert (await create(fly, name="a"))["id"] != first


async def test_the_same_name_at_the_same_moment_makes_one_machine(fly: httpx.AsyncClient, host: FakeHost) -> None:
    replies = await asyncio.gather(*(fly.post(MACHINES, json={**NGINX, "name": "a"}) for _ in range(20)))
    assert sorted(reply.status_code for reply in replies) == [200] + [409] * 19
    assert len(host.machines) == 1


@pytest.mark.parametrize(("sent", "back"), [("stop", True), ("off", False), ("suspend", "suspend")])
async def test_autostop_changes_its_type(fly: httpx.AsyncClient, sent: str, back: object) -> None:
    service = {"protocol": "tcp", "internal_port": 80, "autostop": sent}
    machine = await create(fly, config={"image": "nginx", "services": [service]})
    shown = (await fly.get(f"{MACHINES}/{machine['id']}")).json()
    assert shown["config"]["services"][0]["autostop"] == back


async def test_durations_are_normalised(fly: httpx.AsyncClient) -> None:
    check = {"type": "tcp", "port": 80, "interval": 60_000_000_000, "timeout": "90s"}
    machine = await create(fly, config={"image": "nginx", "checks": {"up": check}})
    shown = (await fly.get(f"{MACHINES}/{machine['id']}")).json()["config"]["checks"]["up"]
    assert (shown["interval"], shown["timeout"]) == ("1m0s", "1m30s")


async def test_wait_started(fly: httpx.AsyncClient) -> None:
    machine = await create(fly)
    body = await wait(fly, "demo", machine["id"], "started")
    assert body["ok"] is True
    assert (body["state"], body["version"]) == ("started", machine["instance_id"])
    shown = (await fly.get(f"{MACHINES}/{machine['id']}")).json()
    assert shown["state"] == "started"
    types = [event["type"] for event in shown["events"]]
    assert types.index("start") < types.index("launch")


async def test_wait_runs_out(fly: httpx.AsyncClient) -> None:
    machine = await stopped(fly)
    begun = time.monotonic()
    reply = await fly.get(f"{MACHINES}/{machine}/wait?state=started&timeout=1")
    assert time.monotonic() - begun >= 1
    assert reply.status_code == 408
    assert reply.json()["error"] == (
        "deadline_exceeded: machine failed to reach desired state, started, currently stopped"
    )


@pytest.mark.parametrize("timeout", ["61", "0", "-1"])
async def test_wait_bounds_its_timeout(fly: httpx.AsyncClient, timeout: str) -> None:
    machine = await stopped(fly)
    reply = await fly.get(f"{MACHINES}/{machine}/wait?timeout={timeout}")
    assert reply.status_code == 400
    assert reply.json()["error"] == (
        "invalid_argument: invalid WaitMachineRequest.Timeout: value must be inside range [1s, 1m0s]"
    )


@pytest.mark.parametrize("query", ["state=sleeping", "timeout=5s", "timeout=1.5"])
async def test_wait_for_nonsense_is_400(fly: httpx.AsyncClient, query: str) -> None:
    machine = await stopped(fly)
    assert (await fly.get(f"{MACHINES}/{machine}/wait?{query}")).status_code == 400


@pytest.mark.parametrize("query", ["state=stopped&state=started", "state=stopped,started"])
async def test_wait_for_one_of_several(fly: httpx.AsyncClient, query: str) -> None:
    machine = await started(fly)
    reply = await fly.get(f"{MACHINES}/{machine}/wait?{query}&timeout=60")
    assert (reply.status_code, reply.json()["state"]) == (200, "started")


async def test_wait_sees_a_change_that_comes_later(fly: httpx.AsyncClient, host: FakeHost) -> None:
    host.go.clear()
    machine = await create(fly)
    waiting = asyncio.create_task(fly.get(f"{MACHINES}/{machine['id']}/wait?state=settled&timeout=20"))
    await asyncio.sleep(0)
    host.go.set()
    assert (await waiting).json()["state"] == "started"


async def test_wait_counts_from_an_event(fly: httpx.AsyncClient) -> None:
    machine = await started(fly)
    newest = (await fly.get(f"{MACHINES}/{machine}/events")).json()[0]["id"]
    reply = await fly.get(f"{MACHINES}/{machine}/wait?state=started&timeout=1&from_event_id={newest}")
    assert reply.status_code == 408


async def test_wait_for_a_replaced_version_says_so(fly: httpx.AsyncClient) -> None:
    machine = await create(fly)
    await wait(fly, "demo", machine["id"], "started")
    await fly.post(f"{MACHINES}/{machine['id']}", json=NGINX)
    reply = await fly.get(f"{MACHINES}/{machine['id']}/wait?state=started&version={machine['instance_id']}")
    assert reply.status_code == 412
    assert "currently replaced" in reply.json()["error"]


async def test_stop(fly: httpx.AsyncClient) -> None:
    machine = await started(fly)
    reply = await fly.post(f"{MACHINES}/{machine}/stop", json={"timeout": "0s"})
    assert (reply.status_code, reply.json()) == (200, {"ok": True})
    await wait(fly, "demo", machine, "stopped")
    events = (await fly.get(f"{MACHINES}/{machine}")).json()["events"]
    newest_exit = next(event for event in events if event["type"] == "exit")
    assert newest_exit["request"]["exit_event"]["requested_stop"] is True
    assert newest_exit["request"]["exit_event"]["exited_at"].endswith("Z")
    assert (await fly.post(f"{MACHINES}/{machine}/stop")).json() == {"ok": True}


async def test_stop_passes_signal_and_timeout_on(fly: httpx.AsyncClient, host: FakeHost) -> None:
    machine = await started(fly)
    await fly.post(f"{MACHINES}/{machine}/stop", json={"signal": "SIGTERM", "timeout": "1m", "id": "ignored"})
    _, call = host.calls[-1]
    assert (call.signal, call.timeout_s, call.machine_id) == ("SIGTERM", 60.0, machine)
    for body in ({"signal": "SIGFOO"}, {"timeout": "6m"}, {"timeout": "soon"}):
        assert (await fly.post(f"{MACHINES}/{machine}/stop", json=body)).status_code == 400


async def test_start(fly: httpx.AsyncClient) -> None:
    machine = await stopped(fly)
    reply = await fly.post(f"{MACHINES}/{machine}/start")
    assert (reply.status_code, reply.json()) == (
        200,
        {"previous_state": "stopped", "migrated": False, "new_host": ""},
    )
    await wait(fly, "demo", machine, "started")
    assert (await fly.post(f"{MACHINES}/{machine}/start")).json()["previous_state"] == "started"


async def test_start_of_what_is_not_ready_is_412(fly: httpx.AsyncClient, host: FakeHost) -> None:
    host.go.clear()
    machine = await create(fly)
    reply = await fly.post(f"{MACHINES}/{machine['id']}/start")
    assert reply.status_code == 412
    assert reply.json()["error"] == "failed_precondition: unable to start machine from current state: 'created'"


async def test_restart(fly: httpx.AsyncClient, host: FakeHost) -> None:
    machine = await started(fly)
    for query, timeout_s, force in (
        ("timeout=30", 30, False),
        ("timeout=1m30s&force_stop=true", 90, True),
        ("", 0, False),
    ):
        reply = await fly.post(f"{MACHINES}/{machine}/restart?{query}")
        assert (reply.status_code, reply.json()) == (200, {"ok": True})
        _, call = host.calls[-1]
        assert (call.timeout_s, call.force) == (timeout_s, force)
    assert (await fly.post(f"{MACHINES}/{machine}/restart?force_stop=maybe")).status_code == 400


async def test_auto_destroy_leaves_something_to_read(fly: httpx.AsyncClient, host: FakeHost) -> None:
    machine = await started(fly, config={"image": "x", "auto_destroy": True, "restart": {"policy": "no"}})
    await host.exit(machine, code=3)
    await wait(fly, "demo", machine, "destroyed")
    shown = (await fly.get(f"{MACHINES}/{machine}")).json()
    assert shown["state"] == "destroyed"
    exit_event = next(event for event in shown["events"] if event["type"] == "exit")
    assert exit_event["request"]["exit_event"]["exit_code"] == 3
    assert (await fly.get(MACHINES)).json() == []
    deleted = (await fly.get(f"{MACHINES}?include_deleted=true")).json()
    assert [entry["id"] for entry in deleted] == [machine]
    reply = await fly.get(f"{MACHINES}/{machine}/wait?state=stopped")
    assert reply.status_code == 404
    for action in ("start", "stop", "restart", "signal", "exec"):
        reply = await fly.post(f"{MACHINES}/{machine}/{action}", json={"signal": "SIGTERM", "cmd": "ls"})
        assert reply.status_code == 404
        assert "machine not found" in reply.json()["error"]


async def test_update_replaces_the_config(fly: httpx.AsyncClient) -> None:
    machine = await create(fly, config={"image": "nginx", "env": {"A": "1"}})
    await wait(fly, "demo", machine["id"], "started")
    reply = await fly.post(
        f"{MACHINES}/{machine['id']}", json={"config": {"image": "nginx:1"}, "region": "", "name": ""}
    )
    assert reply.status_code == 200
    assert reply.json()["instance_id"] != machine["instance_id"]
    assert "env" not in reply.json()["config"]
    await wait(fly, "demo", machine["id"], "started")


async def test_update_of_a_stopped_machine_leaves_it_stopped(fly: httpx.AsyncClient) -> None:
    machine = await stopped(fly)
    assert (await fly.post(f"{MACHINES}/{machine}", json=NGINX)).status_code == 200
    assert (await wait(fly, "demo", machine, "settled"))["state"] == "stopped"


async def test_a_stale_update_is_409(fly: httpx.AsyncClient) -> None:
    machine = await create(fly)
    await wait(fly, "demo", machine["id"], "started")
    await fly.post(f"{MACHINES}/{machine['id']}", json=NGINX)
    reply = await fly.post(f"{MACHINES}/{machine['id']}", json={**NGINX, "current_version": machine["instance_id"]})
    assert reply.status_code == 409
    assert reply.json()["error"] == "aborted: machine update failed due to concurrent update"


async def test_delete(fly: httpx.AsyncClient) -> None:
    machine = await started(fly)
    reply = await fly.delete(f"{MACHINES}/{machine}/?kill=false")
    assert reply.status_code == 412
    assert "unable to destroy machine, not currently stopped" in reply.json()["error"]
    assert (await fly.delete(f"{MACHINES}/{machine}?kill=true")).json() == {"ok": True}
    await wait(fly, "demo", machine, "destroyed")
    reply = await fly.delete(f"{MACHINES}/{machine}?force=true")
    assert reply.status_code == 404
    assert reply.json()["error"] == "not_found: machine not found"


@pytest.mark.parametrize("signal", [9, "SIGKILL", "9"])
async def test_signal(fly: httpx.AsyncClient, host: FakeHost, signal: object) -> None:
    machine = await started(fly)
    reply = await fly.post(f"{MACHINES}/{machine}/signal", json={"signal": signal})
    assert (reply.status_code, reply.json()) == (200, {"ok": True})
    await wait(fly, "demo", machine, "stopped")
    assert any(e["type"] == "exit" for e in (await fly.get(f"{MACHINES}/{machine}/events")).json())
    assert (await fly.post(f"{MACHINES}/{machine}/signal", json={"signal": signal})).status_code == 412


@pytest.mark.parametrize("signal", [0, 999, -1, "SIGWINCH", "KILL", "", "٩"])
async def test_an_unknown_signal_is_400(fly: httpx.AsyncClient, signal: object) -> None:
    machine = await started(fly)
    assert (await fly.post(f"{MACHINES}/{machine}/signal", json={"signal": signal})).status_code == 400


async def test_exec(fly: httpx.AsyncClient) -> None:
    machine = await started(fly)
    reply = await fly.post(f"{MACHINES}/{machine}/exec", json={"cmd": "sh -c 'exit 7'"})
    assert (reply.status_code, reply.json()["exit_code"]) == (200, 7)
    reply = await fly.post(
        f"{MACHINES}/{machine}/exec", json={"command": ["echo", "a b"], "stdin": "in", "timeout": 5, "cmd": None}
    )
    assert reply.json() == {"exit_code": 0, "exit_signal": None, "stdout": "echo a b", "stderr": "in"}
    for body in ({}, {"cmd": "'"}, {"command": "ls"}, {"cmd": "ls", "timeout": 3600}, {"command": ["a\x00b"]}):
        assert (await fly.post(f"{MACHINES}/{machine}/exec", json=body)).status_code == 400
    await fly.post(f"{MACHINES}/{machine}/stop")
    await wait(fly, "demo", machine, "stopped")
    reply = await fly.post(f"{MACHINES}/{machine}/exec", json={"cmd": "ls"})
    assert (reply.status_code, reply.json()["error"]) == (412, "failed_precondition: machine not running")


async def test_events_are_newest_first_and_limited(fly: httpx.AsyncClient) -> None:
    machine = await started(fly)
    events = (await fly.get(f"{MACHINES}/{machine}/events?limit=2")).json()
    assert [event["status"] for event in events] == ["started", "starting"]
    for limit in ("0", "51", "many"):
        assert (await fly.get(f"{MACHINES}/{machine}/events?limit={limit}")).status_code == 400


async def test_list_filters(fly: httpx.AsyncClient) -> None:
    web = await started(fly, config={"image": "x", "metadata": {"role": "web", "fly.group": "a"}})
    job = await stopped(fly)

    async def listed(query: str) -> list[str]:
        return [entry["id"] for entry in (await fly.get(f"{MACHINES}?{query}")).json()]

    assert await listed("") == [web, job]
    assert await listed("metadata.role=web") == [web]
    assert await listed("metadata.role=web&metadata.fly.group=a") == [web]
    assert await listed("metadata.role=web&metadata.fly.group=b") == []
    assert await listed("metadata.role=x") == []
    assert await listed("state=stopped") == [job]
    assert await listed("state=stopped,started") == [web, job]
    assert await listed("region=ams") == [web, job]
    assert await listed("region=fra") == []
    short = (await fly.get(f"{MACHINES}?summary=true")).json()[0]
    assert "config" not in short
    assert short["state"] == "started"
    assert (await fly.get(f"{MACHINES}?summary=perhaps")).status_code == 400


async def test_regions(fly: httpx.AsyncClient) -> None:
    reply = await fly.get("/v1/platform/regions")
    assert set(reply.json()) == {"Regions", "Nearest"}
    assert reply.json()["Nearest"] == "ams"
    assert [region["code"] for region in reply.json()["Regions"]] == ["ams"]
    assert isinstance(reply.json()["Regions"][0]["capacity"], int)


async def test_where_the_registry_is(api: Api, fly: httpx.AsyncClient) -> None:
    assert (await fly.get("/v1/platform/registry")).status_code == 404
    place = {"domain": "example.com", "registry_public_url": "https://registry.example.com"}
    api.control.settings = api.settings.model_copy(update=place)
    reply = await fly.get("/v1/platform/registry")
    assert reply.json() == {"host": "registry.example.com", "url": "https://registry.example.com"}


async def test_an_idempotency_key_makes_one_machine(api: Api, fly: httpx.AsyncClient, host: FakeHost) -> None:
    headers = {"Idempotency-Key": "k1"}
    first = await fly.post(MACHINES, json=NGINX, headers=headers)
    second = await fly.post(MACHINES, json=NGINX, headers=headers)
    assert first.json()["id"] == second.json()["id"]
    other = await fly.post(MACHINES, json={"config": {"image": "other"}}, headers=headers)
    assert other.status_code == 422
    assert len(host.machines) == 1


async def test_a_machine_of_an_app_is_not_one_of_another(fly: httpx.AsyncClient) -> None:
    await fly.post("/v1/apps", json={"name": "other", "org_slug": "personal"})
    machine = await started(fly)
    for method, path in (("GET", ""), ("POST", ""), ("DELETE", "?force=true"), ("POST", "/stop"), ("GET", "/wait")):
        reply = await fly.request(method, f"/v1/apps/other/machines/{machine}{path}")
        assert reply.status_code == 404
    assert (await fly.get(f"{MACHINES}/{machine}")).json()["state"] == "started"


async def test_a_silent_host_shows_and_refuses_before_acting(fly: httpx.AsyncClient, host: FakeHost) -> None:
    machine = await started(fly)
    host.stop_beating()

    async def status() -> str:
        return str((await fly.get(f"{MACHINES}/{machine}")).json()["host_status"])

    async def unreachable() -> bool:
        return await status() == "unreachable"

    await eventually(unreachable)
    assert (await fly.get(f"{MACHINES}/{machine}")).json()["state"] == "started", "the last that was known"
    calls = len(host.calls)
    reply = await fly.post(f"{MACHINES}/{machine}/stop")
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "2")
    assert len(host.calls) == calls
    reply = await fly.post(MACHINES, json=NGINX)
    assert (reply.status_code, reply.json()["error"]) == (422, "could not find a candidate host")
    host.start_beating()

    async def back() -> bool:
        return await status() == "ok"

    await eventually(back)
    assert (await fly.post(f"{MACHINES}/{machine}/stop")).status_code == 200
