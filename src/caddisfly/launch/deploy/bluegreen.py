"""Bluegreen: a second set of Machines, the green ones, takes over from the blue ones (reference fly-launch, 2.7).

    greens made, cordoned ──▶ all well ──▶ greens uncordoned ──▶ blues tagged, cordoned ──▶ stopped ──▶ destroyed
    ╰──────────── until here everything is undone by removing the greens ────────────╯╰─ from here on it goes through ─╯

How far it came is noted with the release, so that the deploy after one that was killed knows which of the two colours
serves, and removes the other.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Awaitable, Callable
from functools import partial

from caddisfly.client.errors import ApiError, RetryableError
from caddisfly.launch.config import AppConfig
from caddisfly.launch.deploy.fleet import Fleet, pinned
from caddisfly.launch.deploy.options import FIRST_LOOK_S
from caddisfly.launch.deploy.plan import GREEN_KEY, SAFE_KEY, Plan, Update
from caddisfly.launch.deploy.release import Release
from caddisfly.launch.deploy.rolling import together, well
from caddisfly.model import ids
from caddisfly.model.errors import FailedPrecondition

LAUNCH_KEY = "fly_flyctl_bluegreen_launch_id"
_TRIES = 5
_HEARD_S = 1.0
"""What every edge has heard of within this time, with room to spare; requests under way have as long to end."""
_STOP_S = 330.0


def refuse(plan: Plan) -> None:
    """Raises `FailedPrecondition` for what cannot be done this way. Nothing was touched."""
    blues = plan.updates
    if not blues:
        return
    images = sorted({pinned(update.machine) for update in blues})
    if len(images) > 1:
        raise FailedPrecondition(
            "found multiple image versions",
            why="the Machines of the app run " + ", ".join(images) + "; bluegreen replaces one version by another",
            next="deploy with --strategy rolling once",
        )
    if not any(_checked(plan.config, group) for group in plan.groups):
        raise FailedPrecondition(
            "You need to define at least 1 check in order to use blue-green deployments",
            why="without a check nobody can say that the new Machines are well before they take the requests",
            next="add [[http_service.checks]] or [checks]",
        )


def _checked(config: AppConfig, group: str) -> bool:
    return bool(config.checks_of(group)) or any(service.checks for service in config.services_of(group))


async def bluegreen(fleet: Fleet, plan: Plan, release: Release) -> None:
    """Raises with the greens in the ledger, to be removed, as long as the blues serve."""
    blues = plan.updates
    if not blues:
        return
    tag = str(int(time.time()))
    await release.note(bluegreen={"tag": tag, "switched": False, "blues": [blue.id for blue in blues]})
    at_once = min(math.ceil(len(blues) / 3), fleet.options.concurrent)
    started, greens = _started(blues), dict[str, str]()
    await together((partial(_green, fleet, plan, blue, tag, blue.id in started, greens) for blue in blues), at_once)
    fleet.shown.say("All green Machines are well: they take the requests")
    await together((partial(_tried, partial(_uncordon, fleet, id)) for id in greens.values()), len(greens))
    await release.note(bluegreen={"tag": tag, "switched": True, "blues": [blue.id for blue in blues]})
    for id in greens.values():
        fleet.ledger.made.remove(id)
    problems = [one for one in await asyncio.gather(*(_retire(fleet, blue) for blue in blues)) if one]
    for problem in problems:
        fleet.shown.say(f"Warning: {problem}")


def _started(blues: tuple[Update, ...]) -> set[str]:
    """Those whose green one is started: a sleeping one gets a sleeping one, but somebody has to be asked."""
    started = {blue.id for blue in blues if blue.warm}
    for group in {blue.group for blue in blues}:
        mine = [blue.id for blue in blues if blue.group == group and not blue.standby]
        if mine and not started & set(mine):
            started.add(mine[0])
    return started


async def _green(fleet: Fleet, plan: Plan, blue: Update, tag: str, start: bool, greens: dict[str, str]) -> None:
    config = {**blue.config, "metadata": {**blue.config["metadata"], GREEN_KEY: tag, LAUNCH_KEY: ids.ulid()}}
    region = str(blue.machine.get("region", ""))
    made = await fleet.create(blue.group, region, config, launch=start, cordoned=True)
    id = greens[blue.id] = str(made["id"])
    fleet.shown.machine(id, blue.group, f"green for {blue.id}")
    if start:
        await well(fleet, plan, made, blue.group, since="", look_s=FIRST_LOOK_S)
    else:
        await fleet.client.machines.wait(fleet.app, id, "stopped", timeout_s=_STOP_S)
        fleet.shown.machine(id, blue.group, f"green for {blue.id}, asleep as that is", "done")


async def _uncordon(fleet: Fleet, id: str) -> None:
    await fleet.client.machines.uncordon(fleet.app, id, nonce=fleet.leases.nonce(id))


async def _tried(do: Callable[[], Awaitable[None]]) -> None:
    for attempt in range(_TRIES):
        try:
            return await do()
        except RetryableError:
            if attempt == _TRIES - 1:
                raise
        await asyncio.sleep(0.2 * 2**attempt)


async def _retire(fleet: Fleet, blue: Update) -> str:
    """Nothing of this is undone. Returns what is left to do by hand, if something is."""
    nonce = fleet.leases.nonce(blue.id)
    machines = fleet.client.machines
    try:
        await _tried(partial(fleet.label, blue.id, **{SAFE_KEY: "true"}))
        await asyncio.sleep(_HEARD_S)
        await _tried(partial(machines.cordon, fleet.app, blue.id, nonce=nonce))
        await asyncio.sleep(_HEARD_S)
        if blue.warm:
            fleet.shown.machine(blue.id, blue.group, "blue: stopping")
            await machines.stop(fleet.app, blue.id, signal=fleet.options.signal, nonce=nonce)
            await machines.wait(fleet.app, blue.id, "stopped", "destroyed", "failed", timeout_s=_STOP_S)
        await fleet.destroy(blue.id)
    except ApiError as error:
        return f"the old Machine {blue.id} is left: {error.text}; caddis machine destroy -f {blue.id} -a {fleet.app}"
    fleet.shown.machine(blue.id, blue.group, "blue: gone", "done")
    return ""
