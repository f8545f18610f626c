"""New Machines: of groups that have none, or too few, and their standbys."""

from __future__ import annotations

from functools import partial

from caddisfly.launch.config.translate import STANDBY_ENV
from caddisfly.launch.deploy.fleet import Fleet
from caddisfly.launch.deploy.options import FIRST_LOOK_S
from caddisfly.launch.deploy.plan import Creation, Plan
from caddisfly.launch.deploy.rolling import together, well

_AT_ONCE = 8


async def create(fleet: Fleet, plan: Plan) -> None:
    """All that the plan has, then wait until they are well. Raises `Unhealthy`."""
    groups = dict.fromkeys(creation.group for creation in plan.creations)
    await together((partial(_group, fleet, plan, group) for group in groups), _AT_ONCE)


async def _group(fleet: Fleet, plan: Plan, group: str) -> None:
    mine = [creation for creation in plan.creations if creation.group == group]
    ids: list[str] = []

    async def one(creation: Creation) -> None:
        fleet.shown.machine(f"new {group}", group, "creating")
        made = await fleet.create(group, creation.region, creation.config)
        ids.append(str(made["id"]))
        fleet.shown.machine(f"new {group}", group, f"created {made['id']}", "done")
        await well(fleet, plan, made, group, since="", look_s=FIRST_LOOK_S)

    workers = [creation for creation in mine if not creation.standby]
    await together((partial(one, creation) for creation in workers), _AT_ONCE)
    for creation in mine:
        if creation.standby:
            await _standby(fleet, creation, watched=ids[0])


async def _standby(fleet: Fleet, creation: Creation, *, watched: str) -> None:
    """Reference 2.4: made and not started; the platform starts it when it finds the host of the other gone."""
    config = {
        **creation.config,
        "standbys": [watched],
        "env": {**(creation.config.get("env") or {}), STANDBY_ENV: watched},
    }
    made = await fleet.create(creation.group, creation.region, config, launch=False)
    fleet.shown.machine(str(made["id"]), creation.group, f"standby for {watched}", "done")
