"""Seeing a Machine up: started, and all of its checks passing."""

from __future__ import annotations

import asyncio
import time

from caddisfly.client import AsyncClient, TimedOut
from caddisfly.client.calls import Json
from caddisfly.launch.fleet.outcome import Failed, checked, failure, plain, undone, unhealthy

WITHIN_S = 300.0
_POLL_S = 0.5
_LINES = 15


async def up(client: AsyncClient, app: str, machine: Json, *, within_s: float = WITHIN_S) -> Json:
    """The Machine once it runs and its checks pass, or has done its work. Raises `Failed` as soon as it cannot be."""
    id = str(machine["id"])
    end = time.monotonic() + within_s
    machine = await settled(client, app, id, "started", "stopped", "failed", "destroyed", within_s=within_s)
    while machine["state"] == "started" and checked(machine):
        if machine.get("checks") and not unhealthy(machine):
            break
        if time.monotonic() > end:
            failing = "; ".join(f"{check['name']}: {plain(check.get('output'))}" for check in unhealthy(machine))
            raise Failed(
                f"{id} runs, but its checks do not pass within {within_s:.0f} s",
                why=failing or "they have not run",
                next=_where(app, id),
            )
        await asyncio.sleep(_POLL_S)
        machine = await client.machines.get(app, id)
    problem = failure(machine)
    if problem is None:
        return machine
    what, why = problem
    page = await client.logs.page(app, machine=id)
    said = [plain(entry.get("message")) for entry in page.entries[-_LINES:]]
    raise Failed(what, why="\n".join([why, *said]), next=_where(app, id))


async def updated(client: AsyncClient, app: str, machine: Json, *, runs: bool, within_s: float = WITHIN_S) -> Json:
    """The Machine once its update is done; one that `runs` is up again. Raises `Failed`, also when it was undone."""
    id = str(machine["id"])
    machine = await settled(client, app, id, "settled", within_s=within_s)
    if (why := undone(machine)) is not None:
        raise Failed(f"the update of {id} failed, it is as it was before", why=why, next=_where(app, id))
    return await up(client, app, machine, within_s=within_s) if runs else machine


async def settled(client: AsyncClient, app: str, id: str, *states: str, within_s: float = WITHIN_S) -> Json:
    """The Machine once it is in one of `states`. Raises `Failed` when it takes longer."""
    try:
        await client.machines.wait(app, id, *states, timeout_s=within_s)
    except TimedOut as late:
        state = (await client.machines.get(app, id))["state"]
        raise Failed(f"{id} is still {state} after {within_s:.0f} s", why=late.text, next=_where(app, id)) from late
    return await client.machines.get(app, id)


def _where(app: str, id: str) -> str:
    return f"caddis logs -a {app} -i {id}; caddis machine why {id} -a {app}"
