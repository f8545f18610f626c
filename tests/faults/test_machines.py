"""What a Machine hangs on dies: its shim, its process, the API while it is being made (faults.md rows 2-5)."""

from __future__ import annotations

import asyncio
import os
import re
import signal
from typing import Any

import httpx
import pytest

from tests.conftest import eventually
from tests.faults.platform import APP, IMAGE, Api, Platform
from tests.host.conftest import alive


def exit_of(machine: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = next(event for event in machine["events"] if event["type"] == "exit")["request"][
        "exit_event"
    ]
    return found


@pytest.mark.parametrize("victim", ["conmon.pid", "pid"])
async def test_a_machine_whose_shim_or_process_is_killed_is_started_again(
    platform: Platform, api: Api, victim: str
) -> None:
    """I1, I4: the one before is gone with everything it had before the next one starts."""
    machine = await api.started(restart={"policy": "always"})
    pid = platform.machine_pid(machine)
    (before,) = platform.sandboxes(machine["id"])
    os.kill(int((before / victim).read_text()), signal.SIGKILL)
    await eventually(lambda: not before.exists() and platform.machine_pid(machine), timeout_s=20)
    assert not alive(pid)
    found = await api.state(machine["id"], "started")
    (after,) = platform.sandboxes(machine["id"])
    assert after != before
    assert exit_of(found)["exit_code"] == 137


async def test_a_machine_that_is_not_to_restart_is_seen_as_ended(platform: Platform, api: Api) -> None:
    machine = await api.started(restart={"policy": "no"})
    pid = platform.machine_pid(machine)
    (before,) = platform.sandboxes(machine["id"])
    os.kill(int((before / "conmon.pid").read_text()), signal.SIGKILL)
    found = await api.state(machine["id"], "stopped")
    assert exit_of(found)["error"] == "the supervisor of its sandbox was killed"
    assert not alive(pid)
    await eventually(lambda: platform.sandboxes(machine["id"]) == [])


async def test_the_api_is_killed_during_many_creates(platform: Platform, api: Api) -> None:
    """I2: what was acknowledged is there; I1: nothing is there twice, and a client can find out by asking again."""
    config = {"image": IMAGE, "init": {"exec": ["/bin/sleep", "1000"]}}
    bodies = [{"name": f"one-of-{number}", "config": config, "skip_launch": True} for number in range(150)]
    killed: list[int] = []
    acknowledged: dict[str, str] = {}

    async def create(body: dict[str, Any]) -> None:
        try:
            reply = await api.http.post(f"/v1/apps/{APP}/machines", json=body)
        except httpx.TransportError:
            return
        if reply.status_code == 200:
            acknowledged[body["name"]] = reply.json()["id"]
        if len(acknowledged) >= 5 and not killed:
            killed.append(platform.kill("control"))

    async with asyncio.TaskGroup() as group:
        for body in bodies:
            group.create_task(create(body))
    assert 5 <= len(acknowledged) < 150, "it was killed in the middle"
    await platform.back("control", instead_of=killed[0])
    await eventually(api.answers, timeout_s=20, every_s=0.05)
    found = await api.list()
    ids = {machine["name"]: machine["id"] for machine in found}
    assert len(ids) == len(found), "no name twice"
    assert acknowledged.items() <= ids.items()
    for body in bodies:
        reply = await api.http.post(f"/v1/apps/{APP}/machines", json=body)
        if body["name"] in ids:
            assert reply.status_code == 409
            (named,) = re.findall(r"machine ID (\w+) already exists", reply.json()["error"])
            assert named == ids[body["name"]]
        else:
            assert reply.status_code == 200, reply.text
    found = await api.list()
    assert sorted(machine["name"] for machine in found) == sorted(body["name"] for body in bodies)
