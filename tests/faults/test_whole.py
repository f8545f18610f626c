"""The whole platform goes and comes back (faults.md rows 13-16): its supervisor is killed, an operator stops it."""

from __future__ import annotations

from tests.conftest import eventually
from tests.faults.platform import PARTS, Platform, served
from tests.host.conftest import alive


async def test_machines_outlive_the_supervisor_and_the_next_one_takes_over(platform: Platform) -> None:
    async with platform.api() as api:
        machine = await api.started()
    pid = platform.machine_pid(machine)
    parts = {part: platform.pid(part) for part in PARTS}
    platform.kill("up")
    await eventually(lambda: not any(platform.pid(part) for part in PARTS), timeout_s=15)
    assert alive(pid)
    up = await platform.command("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert await served(platform.ports["edge"])
    assert platform.machine_pid(machine) == pid
    async with platform.api() as api:
        await api.state(machine["id"], "started")
    assert not set(parts.values()) & {platform.pid(part) for part in PARTS}


async def test_a_second_platform_is_refused(platform: Platform) -> None:
    before = {part: platform.pid(part) for part in ("up", *PARTS)}
    again = await platform.command("up", "--detach")
    assert again.returncode == 1
    assert again.stderr.splitlines() == [
        "Error: the platform is running already",
        f"Why:   its supervisor has pid {before['up']}",
        "Next:  `caddis status` shows it, `caddis down` stops it",
    ]
    assert {part: platform.pid(part) for part in before} == before


async def test_down_stops_machines_and_the_next_up_starts_those_that_ran(platform: Platform) -> None:
    async with platform.api() as api:
        rests = await api.create("rests")
        await api.state(rests["id"], "started")
        await api.stop(rests["id"])
        runs = await api.started("runs")
    pid = platform.machine_pid(runs)
    down = await platform.command("down")
    assert (down.returncode, down.stdout) == (0, "Stopped, with 1 running Machine.\n")
    assert not alive(pid)
    assert platform.sandboxes(runs["id"]) == []
    up = await platform.command("up", "--detach")
    assert up.returncode == 0, up.stderr
    async with platform.api() as api:
        await eventually(api.answers, timeout_s=20, every_s=0.05)
        found = await api.state(runs["id"], "started")
        assert found["instance_id"] == runs["instance_id"]
        assert (await api.get(rests["id"]))["state"] == "stopped"
    assert platform.machine_pid(runs) != pid


async def test_down_can_leave_machines_alone(platform: Platform) -> None:
    async with platform.api() as api:
        machine = await api.started()
    pid = platform.machine_pid(machine)
    down = await platform.command("down", "--keep-machines")
    assert (down.returncode, down.stdout) == (0, "Stopped. Machines keep running.\n")
    assert alive(pid)
    up = await platform.command("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert await served(platform.ports["edge"])
    assert platform.machine_pid(machine) == pid
