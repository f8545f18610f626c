"""The disk is full, under control's records and under the host's journal (faults 14 and 15)."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conftest import eventually
from tests.faults.platform import APP, IMAGE, Api, Platform, running
from tests.small_disk import SmallDisk

CONFIG = {"image": IMAGE, "init": {"exec": ["/bin/sleep", "1000"]}}


@pytest.fixture(scope="module")
def disks() -> dict[str, SmallDisk]:
    return {}


@pytest.fixture(scope="module")
def cramped_platform(disks: dict[str, SmallDisk]) -> Iterator[Platform]:
    def cramp(platform: Platform) -> None:
        disks["control"] = platform.cramp("control", megabytes=12)
        disks["host"] = platform.cramp("host", megabytes=48)

    with running(cramp) as platform:
        yield platform


@pytest.fixture
async def cramped(cramped_platform: Platform) -> AsyncIterator[Api]:
    async with cramped_platform.api() as api:
        yield api
        await api.clear()


async def test_a_full_disk_under_the_records_leaves_them_readable(
    cramped_platform: Platform, cramped: Api, disks: dict[str, SmallDisk]
) -> None:
    platform, api = cramped_platform, cramped
    runs = await api.started("runs")
    made: list[str] = []
    disks["control"].fill()
    try:
        for number in range(2000):  # what the log has room for is still taken
            name = f"full-{number}"
            reply = await api.http.post("/v1/apps", json={"name": name, "org_slug": "personal"})
            if reply.status_code != 201:
                break
            made.append(name)
        assert (reply.status_code, reply.json()["status"]) == (503, "disk_full")
        assert "free space" in reply.json()["next"]
        for _ in range(2):
            listed = {app["name"] for app in (await api.http.get("/v1/apps?org_slug=personal")).json()["apps"]}
            assert listed == {APP, *made}
            assert (await api.get(runs["id"]))["state"] == "started"
            control = platform.kill("control")  # it starts on a full disk, too
            await platform.back("control", instead_of=control)
            await eventually(api.answers, timeout_s=20, every_s=0.05)
        await api.stop(runs["id"])
        assert (await api.http.delete(f"/v1/apps/{APP}/machines/{runs['id']}")).status_code == 200
        await api.state(runs["id"], "destroyed")
    finally:
        disks["control"].free()

    async def recorded() -> bool:
        return (await api.http.post("/v1/apps", json={"name": "room", "org_slug": "personal"})).status_code == 201

    await eventually(recorded, timeout_s=10)
    with sqlite3.connect(platform.data_dir / "control" / "control.db") as records:
        assert records.execute("PRAGMA integrity_check").fetchone() == ("ok",)


async def test_a_full_disk_under_the_journal_lets_machines_stop_and_go(
    cramped_platform: Platform, cramped: Api, disks: dict[str, SmallDisk]
) -> None:
    platform, api = cramped_platform, cramped
    first = await api.started("first")
    second = await api.create("second", line="exec sleep 1000", services=[])
    pid = platform.machine_pid(await api.state(second["id"], "started"))
    disks["host"].fill()
    try:
        for number in range(2000):
            body = {"name": f"full-{number}", "config": CONFIG, "skip_launch": True}
            reply = await api.http.post(f"/v1/apps/{APP}/machines", json=body)
            if reply.status_code != 200:
                break
        assert (reply.status_code, reply.json()["status"]) == (422, "insufficient_capacity"), reply.text
        assert "disk is full" in reply.json()["why"]
        assert f"full-{number}" not in {machine["name"] for machine in await api.list()}
        await api.stop(first["id"])
        await platform.back("agent", instead_of=platform.kill("agent"))
        await eventually(api.answers, timeout_s=20, every_s=0.05)
        assert platform.machine_pid(second) == pid
        for machine in (first, second):
            reply = await api.http.delete(f"/v1/apps/{APP}/machines/{machine['id']}", params={"force": "true"})
            assert reply.status_code == 200, reply.text
            await api.state(machine["id"], "destroyed")
        assert platform.sandboxes(second["id"]) == []
    finally:
        disks["host"].free()

    async def taken() -> bool:
        body = {"name": "again", "config": CONFIG, "skip_launch": True}
        return (await api.http.post(f"/v1/apps/{APP}/machines", json=body)).status_code == 200

    await eventually(taken, timeout_s=10, every_s=0.1)
