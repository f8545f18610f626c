"""Parts of the platform die or hang under load (faults.md rows 1-12): what runs does not notice."""

from __future__ import annotations

import os
import shutil
import time

import pytest

from tests.conftest import eventually
from tests.faults.platform import APP, Api, Load, Platform, request, served
from tests.host.conftest import alive


async def is_right(platform: Platform, api: Api, machine: str, state: str = "started") -> bool:
    """I2, I7: status, API and catalog say the same, and it is true."""
    if not await api.answers():
        return False
    found = await api.get(machine)
    async with platform.catalog() as catalog:
        entry = catalog.machines.get(machine)
        return (
            found["state"] == state
            and entry is not None
            and entry.state == state
            and APP in catalog.apps
            and len(catalog.hosts) == 1
        )


@pytest.mark.parametrize("part", ["control", "agent", "registry", "edge@0", "bus"])
async def test_a_part_is_killed_under_load(platform: Platform, api: Api, part: str) -> None:
    machine = await api.started()
    pid = platform.machine_pid(machine)
    async with Load(platform) as load:
        await load.more()
        killed = platform.kill(part)
        await platform.back(part, instead_of=killed)
        await load.more()
        another = await eventually(lambda: made(api), timeout_s=20, every_s=0.1)
        await api.state(another["id"], "started")
        await load.more()
    if part.startswith("edge"):
        # Those whose connections it had accepted are cut with it; its sibling has all others.
        assert set(load.failures) <= {"ConnectionResetError", "cut"}
        assert len(load.failures) <= 5
    else:
        assert load.failures == []
    assert platform.machine_pid(machine) == pid
    assert alive(pid)
    await eventually(lambda: is_right(platform, api, machine["id"]), timeout_s=20, every_s=0.1)
    status = await platform.command("status", "--json")
    assert status.returncode == 0
    assert '"gone"' not in status.stdout


async def made(api: Api) -> dict[str, object] | None:
    """A Machine that only sleeps, if the platform is there to make one."""
    config = {"image": "faults/busybox:1", "init": {"exec": ["/bin/sleep", "1000"]}}
    try:
        reply = await api.http.post(f"/v1/apps/{APP}/machines", json={"config": config})
    except OSError:
        return None
    return reply.json() if reply.status_code == 200 else None


@pytest.mark.parametrize("part", ["control", "agent", "bus"])
async def test_a_part_hangs_under_load(platform: Platform, api: Api, part: str) -> None:
    """A part that neither answers nor dies is the worse one: connections to it stay open."""
    machine = await api.started()
    pid = platform.machine_pid(machine)
    async with Load(platform) as load:
        await load.more()
        platform.freeze(part)
        await load.more(100)
        if part == "agent":
            # Whoever asks is told within a bound, and nothing is left to be done twice.
            reply = await api.http.post(f"/v1/apps/{APP}/machines/{machine['id']}/restart", timeout=40)
            assert reply.status_code in (408, 503), reply.text
            assert {"error", "next"} <= set(reply.json())
        platform.thaw(part)
        await eventually(lambda: is_right(platform, api, machine["id"]), timeout_s=20, every_s=0.1)
        await load.more()
    assert load.failures == []
    if part != "agent":
        assert platform.machine_pid(machine) == pid


async def test_without_a_bus_the_edge_serves_and_wakes_and_owners_publish_again(platform: Platform, api: Api) -> None:
    """The supervisor is frozen meanwhile, so that it does not bring the bus back; the bucket is deleted too."""
    running = await api.started("runs")
    asleep = await api.create("sleeps", line="exec sleep 1000", services=[])
    await api.state(asleep["id"], "started")
    pid = platform.machine_pid(running)
    async with Load(platform) as load:
        await load.more()
        platform.freeze("up")
        killed = platform.kill("bus")
        await load.more(50)
        assert platform.machine_pid(running) == pid
        refused = await api.http.post(f"/v1/apps/{APP}/machines", json={"config": {"image": "x"}})
        assert refused.status_code == 503
        assert refused.json()["next"]
        shutil.rmtree(platform.data_dir / "bus")
        platform.thaw("up")
        await platform.back("bus", instead_of=killed)
        await eventually(lambda: is_right(platform, api, running["id"]), timeout_s=25, every_s=0.1)
        await eventually(lambda: is_right(platform, api, asleep["id"]), timeout_s=25, every_s=0.1)
        await load.more()
    assert load.failures == []
    # An edge that starts now knows only what was published again.
    for edge in ("edge@0", "edge@1"):
        await platform.back(edge, instead_of=platform.kill(edge))
    assert await served(platform.ports["edge"])
    assert platform.machine_pid(running) == pid


AWAY_S = float(os.environ.get("CADDIS_BUS_AWAY_S", "20"))
"""`make soak` says five minutes (fault 7)."""


async def test_a_bus_that_is_away_for_long_is_caught_up_with(platform: Platform, api: Api) -> None:
    """Everyone else goes on trying: what waits longer with each attempt must not wait for minutes at the end."""
    runs = await api.started("runs")
    ends = await api.create("ends", line="sleep 5; exit 3", services=[], restart={"policy": "no"})
    await api.state(ends["id"], "started")
    async with Load(platform, rate=min(50, 2000 / AWAY_S)) as load:
        platform.freeze("up")
        killed = platform.kill("bus")
        until = time.monotonic() + AWAY_S
        while time.monotonic() < until:
            await load.more()
            assert (await api.get(runs["id"]))["state"] == "started"
        platform.thaw("up")
        await platform.back("bus", instead_of=killed)
        # What happened meanwhile is known, and the next change is made.
        await eventually(lambda: is_right(platform, api, ends["id"], "stopped"), timeout_s=10, every_s=0.1)
        another = await eventually(lambda: made(api), timeout_s=10, every_s=0.1)
        await api.state(another["id"], "started", timeout_s=10)
        await load.more()
    assert load.failures == []


async def test_a_stopped_machine_is_woken_while_bus_and_control_are_away(platform: Platform, api: Api) -> None:
    machine = await api.started()
    await api.stop(machine["id"])
    assert platform.sandboxes(machine["id"]) == []
    platform.freeze("up")
    control, bus = platform.kill("control"), platform.kill("bus")
    assert await request(platform.ports["edge"]) == "served"
    pid = platform.machine_pid(machine)
    assert alive(pid)
    platform.thaw("up")
    await platform.back("bus", instead_of=bus)
    await platform.back("control", instead_of=control)
    await eventually(lambda: is_right(platform, api, machine["id"]), timeout_s=20, every_s=0.1)
    assert platform.machine_pid(machine) == pid, "it was started once"
