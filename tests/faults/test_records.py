"""Control's records are locked (fault 5)."""

from __future__ import annotations

import asyncio
import sqlite3
import time

import httpx

from tests.conftest import eventually
from tests.faults.platform import APP, IMAGE, Api, Load, Platform

CONFIG = {"image": IMAGE, "init": {"exec": ["/bin/sleep", "1000"]}}
LOCKED_S = 12
"""Longer than any call waits for the lock; what 30 seconds would show more is only that waiting goes on."""


async def test_records_that_are_locked_still_read_and_lose_nothing(platform: Platform, api: Api) -> None:
    running = await api.started("runs")
    names = [f"app-{number}" for number in range(20)]

    async def make(name: str) -> httpx.Response:
        return await api.http.post("/v1/apps", json={"name": name, "org_slug": "personal"})

    lock = sqlite3.connect(platform.data_dir / "control" / "control.db", isolation_level=None)
    try:
        async with Load(platform) as load:
            lock.execute("BEGIN EXCLUSIVE")
            until = time.monotonic() + LOCKED_S
            replies = await asyncio.gather(*map(make, names))
            while time.monotonic() < until:
                assert (await api.get(running["id"]))["state"] == "started"
                assert (await api.http.get(f"/v1/apps/{APP}")).status_code == 200
                await load.more()
            await api.stop((await api.create("stops", line="exec sleep 1000", services=[]))["id"])
            lock.execute("ROLLBACK")
    finally:
        lock.close()
    assert load.failures == []
    for reply in replies:
        assert reply.status_code == 503, reply.text
        assert reply.headers["retry-after"]
        assert reply.json()["next"]

    async def recorded() -> bool:
        return (await make(names[0])).status_code in (201, 422)

    await eventually(recorded, timeout_s=5)
    await platform.back("control", instead_of=platform.kill("control"))
    await eventually(api.answers, timeout_s=20, every_s=0.05)
    made = {app["name"] for app in (await api.http.get("/v1/apps?org_slug=personal")).json()["apps"]}
    assert made >= {APP, names[0]}
    for name in made - {APP}:
        assert (await api.http.delete(f"/v1/apps/{name}")).status_code == 202
