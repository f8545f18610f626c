"""Putting everything back as it was, from the ledger of what was touched.

The Machines get their old config and their old image, by digest; those that were made are removed. It goes through as
far as it can: one Machine that cannot be put back does not keep the others from it.
"""

from __future__ import annotations

import asyncio

from caddisfly.client.errors import ApiError, NotFoundError
from caddisfly.launch.deploy import watch
from caddisfly.launch.deploy.fleet import Before, Fleet
from caddisfly.launch.deploy.gate import Expectation
from caddisfly.launch.deploy.plan import WARM
from caddisfly.launch.events import newest
from caddisfly.model.errors import Problem

_SETTLE_S = 300.0
_UPDATING = ("replacing", "updating")


async def undo(fleet: Fleet) -> list[str]:
    """Returns what could not be put back, a sentence each."""
    room = asyncio.Semaphore(fleet.options.concurrent)
    results = await asyncio.gather(
        *(_remove(fleet, id, room) for id in fleet.ledger.made),
        *(_put_back(fleet, before, room) for before in fleet.ledger.changed.values()),
    )
    return [problem for problem in results if problem]


async def _remove(fleet: Fleet, id: str, room: asyncio.Semaphore) -> str:
    async with room:
        try:
            await fleet.destroy(id)
        except ApiError as error:
            return f"the new Machine {id} is left: {error.text}"
    return ""


async def _put_back(fleet: Fleet, before: Before, room: asyncio.Semaphore) -> str:
    async with room:
        fleet.shown.machine(before.id, before.group, "going back")
        try:
            await _restore(fleet, before)
        except NotFoundError:
            return f"Machine {before.id} was destroyed by somebody else"
        except (Problem, ApiError) as error:
            fleet.shown.machine(before.id, before.group, "could not go back", "failed")
            return f"Machine {before.id} is not back: {error}"
    fleet.shown.machine(before.id, before.group, "back on the version before", "done")
    return ""


async def _restore(fleet: Fleet, before: Before) -> None:
    machines, nonce = fleet.client.machines, fleet.leases.nonce(before.id)
    now = await fleet.get(before.id)
    if now["state"] in _UPDATING:  # nothing takes over from an update: it has to end first
        await machines.wait(fleet.app, before.id, "settled", timeout_s=_SETTLE_S)
        now = await fleet.get(before.id)
    if now["instance_id"] == before.version:  # the update had not reached it, or was undone by its host
        return
    after = await machines.update(
        fleet.app,
        before.id,
        dict(before.config),
        skip_service_registration=before.cordoned,
        nonce=nonce,
    )
    if before.state not in WARM:
        await machines.wait(fleet.app, before.id, "settled", timeout_s=_SETTLE_S)
        if (await fleet.get(before.id))["state"] == "started":  # it had been woken to be looked at
            await machines.stop(fleet.app, before.id, nonce=nonce)
        return
    since = newest(now)
    if after["state"] not in ("replacing", "starting", "started", "restarting"):
        await machines.wait(fleet.app, before.id, "settled", timeout_s=_SETTLE_S)
        await machines.start(fleet.app, before.id, nonce=nonce)
    if before.state != "failed":
        expected = Expectation(config=before.config, since=since, version=str(after["instance_id"]))
        await watch.until_well(fleet, before.id, before.group, expected)
