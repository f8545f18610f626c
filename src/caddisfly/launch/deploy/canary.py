"""Canary: one more Machine of each group tries the new version before any other gets it (reference fly-launch, 2.7).

It takes no requests: it has to pass its checks, not the users. Then it goes, and the others follow as in rolling.
"""

from __future__ import annotations

from functools import partial

from caddisfly.launch.deploy.fleet import Fleet
from caddisfly.launch.deploy.options import FIRST_LOOK_S
from caddisfly.launch.deploy.plan import CANARY_KEY, Plan
from caddisfly.launch.deploy.rolling import rolling, together, well

_GROUPS_AT_ONCE = 16


async def canary(fleet: Fleet, plan: Plan) -> None:
    """Raises `Unhealthy` with nothing of the old version touched."""
    groups = [group for group in plan.groups if any(update.warm for update in plan.updates_of(group))]
    await together((partial(_try, fleet, plan, group) for group in groups), _GROUPS_AT_ONCE)
    await rolling(fleet, plan)


async def _try(fleet: Fleet, plan: Plan, group: str) -> None:
    like = next(update for update in plan.updates_of(group) if update.warm)
    config = {
        **like.config,
        "metadata": {**like.config["metadata"], CANARY_KEY: "true"},
        "dns": {**(like.config.get("dns") or {}), "skip_registration": True},
    }
    made = await fleet.create(group, str(like.machine.get("region", "")), config, cordoned=True)
    id = str(made["id"])
    fleet.shown.machine(id, group, "canary")
    await well(fleet, plan, made, group, since="", look_s=FIRST_LOOK_S)
    await fleet.destroy(id)
    fleet.ledger.made.remove(id)
