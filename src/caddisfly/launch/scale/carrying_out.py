"""Doing what a plan says: first what is added, until it is up, then what is removed.

All of the app's Machines are held meanwhile, new ones from their first moment, so that no deploy and no other scaling
works on them. Counts are remembered before anything is done: what was cut off is finished by saying the same again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from caddisfly.client import AsyncClient, NotFoundError
from caddisfly.client.calls import Json
from caddisfly.launch.deploy.leases import held
from caddisfly.launch.deploy.options import LEASE_TTL_S
from caddisfly.launch.fleet import waiting
from caddisfly.launch.fleet.deployed import Deployed
from caddisfly.launch.fleet.turns import each
from caddisfly.launch.scale.plan import Addition, GroupPlan, Removal
from caddisfly.model import ids, states
from caddisfly.model.errors import Aborted

_AT_ONCE = 5
_DESTROY_S = 120.0


async def carry_out(
    client: AsyncClient, deployed: Deployed, plans: Sequence[GroupPlan], *, say: Callable[[str], None]
) -> list[Json]:
    """The new Machines. Raises what the first of them that fails raises, with nothing removed.

    Raises `Aborted` while a deploy is under way, or while somebody holds one of the Machines.
    """
    app = deployed.app
    await _refuse_during_deploy(client, app)
    try:
        await client.scale.change(app, {plan.group: plan.after.to_wire() for plan in plans})
    except NotFoundError:
        say("This platform remembers no counts: the next deploy does not know of them")
    if not any(plan.changes for plan in plans):
        return []
    present = [
        str(machine["id"]) for machine in deployed.machines if machine.get("host_status") not in states.HOST_AWAY
    ]
    async with held(client, app, present, ttl_s=LEASE_TTL_S, by="caddis scale") as leases:

        async def add(addition: Addition) -> Json:
            made = await client.machines.create(
                app,
                dict(addition.config),
                region=addition.region,
                lease_ttl_s=LEASE_TTL_S,
                idempotency_key=ids.ulid(),
            )
            leases.add(str(made["id"]), str(made.get("nonce", "")))
            say(f"Created {made['id']} of group '{addition.group}' in {made.get('region', addition.region)}")
            running = await waiting.up(client, app, made)
            say(f"{made['id']} is {running['state']}")
            return running

        async def remove(removal: Removal) -> None:
            id = str(removal.machine["id"])
            try:
                await client.machines.delete(app, id, force=True, nonce=leases.nonce(id))
                leases.forget(id)
                await waiting.settled(client, app, id, "destroyed", within_s=_DESTROY_S)
            except NotFoundError:
                pass  # somebody else destroyed it: so be it
            say(f"Destroyed {id} of group '{removal.group}' in {removal.region}")

        added = await each([one for plan in plans for one in plan.additions], add, at_once=_AT_ONCE)
        await each([one for plan in plans for one in plan.removals], remove, at_once=_AT_ONCE)
        return added


async def _refuse_during_deploy(client: AsyncClient, app: str) -> None:
    """Of an app without Machines there is nothing else to hold."""
    try:
        latest = await client.releases.get(app, "latest")
    except NotFoundError:
        return
    if latest["in_progress"]:
        raise Aborted(
            f"a deploy of {app} is under way",
            why=f"release v{latest['version']} is {latest['status']}; nothing was done",
            next=f"wait until it has ended; caddis releases -a {app} shows it",
        )
