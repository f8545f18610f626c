"""Suspending a whole app: none of its Machines runs, and no request wakes one, until it is resumed.

Each Machine is taken out of traffic and stopped. What it was before is written on it first, so that resuming, on
another day and perhaps by somebody else, brings back that and no more.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from caddisfly.client import AsyncClient
from caddisfly.client.calls import Json
from caddisfly.launch.config.running import metadata
from caddisfly.launch.deploy.leases import held
from caddisfly.launch.deploy.options import LEASE_TTL_S
from caddisfly.launch.events import newest
from caddisfly.launch.fleet import waiting
from caddisfly.launch.fleet.changing import RUNS, known
from caddisfly.launch.fleet.deployed import is_standby
from caddisfly.launch.fleet.outcome import SUSPENDED as KEY
from caddisfly.launch.fleet.turns import each

_RAN, _CORDONED = "running", "cordoned"
_AT_ONCE = 5


async def suspend(client: AsyncClient, app: str, machines: Sequence[Json], *, say: Callable[[str], None]) -> list[str]:
    """Ids of those that were not suspended before. Raises `FailedPrecondition` when a host does not answer."""
    chosen = [known(machine) for machine in machines if KEY not in metadata(machine)]
    ids = [str(machine["id"]) for machine in chosen]
    async with held(client, app, ids, ttl_s=LEASE_TTL_S, by="caddis apps suspend") as leases:

        async def one(machine: Json) -> str:
            id = str(machine["id"])
            runs = machine["state"] in RUNS
            was = [_RAN] * runs + [_CORDONED] * bool(machine.get("cordoned"))
            await client.machines.metadata.merge(app, id, {KEY: " ".join(was) or "stopped"})
            await client.machines.cordon(app, id, nonce=leases.nonce(id))
            if runs:
                await client.machines.stop(app, id, nonce=leases.nonce(id))
                await waiting.settled(client, app, id, "stopped", "suspended", "failed", "destroyed")
            say(f"{id} is suspended")
            return id

        return await each(chosen, one, at_once=_AT_ONCE)


async def resume(client: AsyncClient, app: str, machines: Sequence[Json], *, say: Callable[[str], None]) -> list[str]:
    """Ids of those that were brought back. When none was suspended with its app, all that do not run are started."""
    chosen = [known(machine) for machine in machines if KEY in metadata(machine)]
    others = [machine for machine in machines if machine["state"] in ("stopped", "suspended")]
    chosen = chosen or [known(machine) for machine in others if not is_standby(machine)]
    ids = [str(machine["id"]) for machine in chosen]
    async with held(client, app, ids, ttl_s=LEASE_TTL_S, by="caddis apps resume") as leases:

        async def one(machine: Json) -> str:
            id = str(machine["id"])
            was = metadata(machine).get(KEY, _RAN).split()
            if KEY in metadata(machine) and _CORDONED not in was:
                await client.machines.uncordon(app, id, nonce=leases.nonce(id))
            if _RAN in was and machine["state"] not in RUNS:
                await client.machines.start(app, id, nonce=leases.nonce(id))
                await waiting.up(client, app, machine, since=newest(machine))
            await client.machines.metadata.merge(app, id, {KEY: None})
            say(f"{id} is back")
            return id

        return await each(chosen, one, at_once=_AT_ONCE)
