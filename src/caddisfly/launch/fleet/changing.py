"""Changing one Machine that may run: under its Lease, from what it is at that moment, until it is up again."""

from __future__ import annotations

from collections.abc import Callable

from caddisfly.client import AsyncClient
from caddisfly.client.calls import Json
from caddisfly.launch.deploy.leases import held
from caddisfly.launch.deploy.options import LEASE_TTL_S
from caddisfly.launch.events import newest
from caddisfly.launch.fleet import waiting
from caddisfly.model import states
from caddisfly.model.errors import FailedPrecondition

RUNS = ("started", "starting", "restarting")
"""What is started again after a change. Anything else keeps its state, and only its config is another."""


async def change(client: AsyncClient, app: str, id: str, to: Callable[[Json], Json], *, why: str) -> Json:
    """The Machine with the config that `to` makes of its own; as it is, when that is the same.

    Raises `Aborted` when somebody else holds it, `Unhealthy` when it does not come up again, `FailedPrecondition` when
    its host is silent.
    """
    async with held(client, app, [id], ttl_s=LEASE_TTL_S, by=why) as leases:
        machine = known(await client.machines.get(app, id))
        config = to(machine["config"])
        if config == machine["config"]:
            return machine
        runs = machine["state"] in RUNS
        after = await client.machines.update(
            app,
            id,
            config,
            current_version=str(machine.get("instance_id", "")),
            skip_launch=not runs,
            skip_service_registration=bool(machine.get("cordoned")),
            nonce=leases.nonce(id),
        )
        return await waiting.updated(client, app, machine, after, runs=runs)


async def restart(client: AsyncClient, app: str, id: str, *, force: bool = False, why: str) -> Json:
    """The same, stopped and started as it is."""
    async with held(client, app, [id], ttl_s=LEASE_TTL_S, by=why) as leases:
        before = await client.machines.get(app, id)
        await client.machines.restart(app, id, force_stop=force, nonce=leases.nonce(id))
        return await waiting.up(client, app, before, since=newest(before))


def known(machine: Json) -> Json:
    """Raises `FailedPrecondition` when what it is is not known for sure: writing would lose it."""
    if machine.get("host_status") in states.HOST_AWAY or not machine.get("config"):
        raise FailedPrecondition(
            f"what {machine['id']} is now is not known",
            why=f"its host is {machine.get('host_status') or 'not reachable'}",
            next="try again when the host is back",
        )
    return machine
