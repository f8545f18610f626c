"""Seeing Machines up that run what others run already: the gate of a deploy, without its display."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from caddisfly.client import AsyncClient, TimedOut
from caddisfly.client.calls import Json
from caddisfly.launch.config.running import metadata
from caddisfly.launch.config.translate import GROUP_KEY
from caddisfly.launch.deploy import watch
from caddisfly.launch.deploy.fleet import Fleet
from caddisfly.launch.deploy.gate import Expectation
from caddisfly.launch.deploy.leases import Leases
from caddisfly.launch.deploy.options import LEASE_TTL_S, Options
from caddisfly.launch.deploy.progress import Mark
from caddisfly.launch.events import newest, undone
from caddisfly.launch.fleet.outcome import Failed

WITHIN_S = 300.0
_LOOK_S = 1.0
"""How long one without checks is watched. Less than in a deploy: what it runs is known to run."""


async def up(
    client: AsyncClient, app: str, machine: Json, *, since: str = "", version: str = "", within_s: float = WITHIN_S
) -> Json:
    """The Machine once it runs and its checks pass, or has done its work; `since` is the id of the last event before.

    Raises `Unhealthy` as soon as it is certain that it will not be.
    """
    id = str(machine["id"])
    fleet = Fleet(
        client,
        app,
        leases=Leases(client, app, ttl_s=LEASE_TTL_S, description=""),
        options=Options(wait_timeout_s=within_s),
        shown=_Quiet(),
        image="",
        labels={},
    )
    expected = Expectation(config=machine.get("config") or {}, since=since, version=version, look_s=_LOOK_S)
    await watch.until_well(fleet, id, metadata(machine).get(GROUP_KEY, ""), expected)
    return await client.machines.get(app, id)


async def updated(client: AsyncClient, app: str, before: Json, after: Json, *, runs: bool) -> Json:
    """The Machine once its update is done; one that `runs` is up again. Raises `Unhealthy`, also when it was undone."""
    if runs:
        return await up(client, app, after, since=newest(before), version=str(after.get("instance_id", "")))
    id = str(after["id"])
    machine = await settled(client, app, id, "settled")
    if (why := undone(machine)) is not None:
        raise Failed(f"the update of {id} failed, it is as it was before", why=why, next=_where(app, id))
    return machine


async def settled(client: AsyncClient, app: str, id: str, *states: str, within_s: float = WITHIN_S) -> Json:
    """The Machine once it is in one of `states`. Raises `Failed` when it takes longer."""
    try:
        await client.machines.wait(app, id, *states, timeout_s=within_s)
    except TimedOut as late:
        state = (await client.machines.get(app, id))["state"]
        raise Failed(f"{id} is still {state} after {within_s:.0f} s", why=late.text, next=_where(app, id)) from late
    return await client.machines.get(app, id)


def _where(app: str, id: str) -> str:
    return f"caddis machine why {id} -a {app}"


class _Quiet:
    """A `Progress` that tells nothing: who waits says what is done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def say(self, text: str) -> None:
        return None

    def output(self, text: str) -> None:
        return None

    def machine(self, id: str, group: str, step: str, mark: Mark = "doing") -> None:
        return None
