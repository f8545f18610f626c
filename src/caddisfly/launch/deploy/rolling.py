"""The strategies that change Machines in place: rolling, and immediate (reference fly-launch, 2.7).

Rolling: groups side by side; in a group the first Machine alone, then as many at once as may be down together. Machines
that sleep get the new version asleep. Where everything sleeps, the first is woken to see whether the version works, and
put to sleep again: a bad release must not look fine because nobody asked for it (superfly/flyctl#4707).
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial

from caddisfly.client.errors import ApiError
from caddisfly.launch.deploy import machine_checks, watch
from caddisfly.launch.deploy.fleet import Fleet, Wire
from caddisfly.launch.deploy.gate import Expectation
from caddisfly.launch.deploy.options import FIRST_LOOK_S, LATER_LOOK_S
from caddisfly.launch.deploy.plan import Plan, Update
from caddisfly.launch.deploy.watch import Unhealthy
from caddisfly.launch.events import newest, undone
from caddisfly.model.errors import Problem

_GROUPS_AT_ONCE, _COLD_AT_ONCE = 16, 30
_SETTLE_S = 300.0


async def rolling(fleet: Fleet, plan: Plan) -> None:
    """Raises what went wrong first; what was under way then is left where it is."""
    await together((partial(_group, fleet, plan, plan.updates_of(group)) for group in plan.groups), _GROUPS_AT_ONCE)


async def immediate(fleet: Fleet, plan: Plan) -> None:
    """All of them, without waiting for anything. Raises at the end, with everything that went wrong."""
    room = asyncio.Semaphore(fleet.options.concurrent)

    async def one(update: Update) -> Problem | ApiError | None:
        async with room:
            try:
                await _replaced(fleet, update)
            except (Problem, ApiError) as error:
                fleet.shown.machine(update.id, update.group, str(error), "failed")
                return error
            fleet.shown.machine(update.id, update.group, "told to be the new version", "done")
            return None

    failures = [error for error in await asyncio.gather(*(one(update) for update in plan.updates)) if error]
    if failures:
        raise Unhealthy(
            f"{len(failures)} of {len(plan.updates)} Machines could not be updated",
            why="\n".join(str(error) for error in failures),
            next="deploy again",
        )


async def together(work: Iterable[Callable[[], Awaitable[None]]], at_once: int) -> None:
    """Do all of it, so many at a time. The first that fails ends the others, and is raised."""
    room = asyncio.Semaphore(at_once)

    async def one(do: Callable[[], Awaitable[None]]) -> None:
        async with room:
            await do()

    try:
        async with asyncio.TaskGroup() as group:
            for do in work:
                group.create_task(one(do))
    except BaseExceptionGroup as failures:
        raise _first(failures) from None


def _first(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


async def _group(fleet: Fleet, plan: Plan, updates: Sequence[Update]) -> None:
    warm = [update for update in updates if update.warm]
    probed = [update for update in updates if update.probe]
    cold = [update for update in updates if not update.warm and not update.probe]
    for update in probed:
        await _probe(fleet, plan, update)
    at_once = fleet.options.at_once(len(warm))

    async def awake() -> None:
        if fleet.options.known_good:
            await together((partial(_awake, fleet, plan, one, look_s=LATER_LOOK_S) for one in warm), len(warm) or 1)
        elif warm:
            await _awake(fleet, plan, warm[0], look_s=FIRST_LOOK_S)
            rest = (partial(_awake, fleet, plan, one, look_s=LATER_LOOK_S) for one in warm[1:])
            await together(rest, at_once)

    async def asleep() -> None:
        if cold:
            await _asleep(fleet, cold[0])
            await together((partial(_asleep, fleet, one) for one in cold[1:]), _COLD_AT_ONCE)

    await together((awake, asleep), 2)


async def _awake(fleet: Fleet, plan: Plan, update: Update, *, look_s: float) -> None:
    after, since = await _replaced(fleet, update)
    await well(fleet, plan, after, update.group, since=since, look_s=look_s)


async def _asleep(fleet: Fleet, update: Update) -> None:
    await _replaced(fleet, update)
    await _settled(fleet, update)
    fleet.shown.machine(update.id, update.group, f"has the new version, still {update.state}", "done")


async def _probe(fleet: Fleet, plan: Plan, update: Update) -> None:
    await _replaced(fleet, update)
    now = await _settled(fleet, update)
    fleet.shown.machine(update.id, update.group, "asleep like all of its group: started once to see whether it works")
    await fleet.client.machines.start(fleet.app, update.id, nonce=fleet.leases.nonce(update.id))
    await well(fleet, plan, now, update.group, since=newest(now), look_s=FIRST_LOOK_S, quiet=True)
    await back_to_sleep(fleet, update)
    fleet.shown.machine(update.id, update.group, f"works, and is {update.state} again", "done")


async def back_to_sleep(fleet: Fleet, update: Update) -> None:
    """As it was: suspended if that works, else stopped."""
    nonce = fleet.leases.nonce(update.id)
    if update.state == "suspended":
        try:
            await fleet.client.machines.suspend(fleet.app, update.id, nonce=nonce)
        except ApiError as error:
            fleet.shown.say(f"{update.id} cannot be suspended again, it is stopped instead: {error.text}")
        else:
            await fleet.client.machines.wait(fleet.app, update.id, "suspended", "stopped", timeout_s=_SETTLE_S)
            return
    await fleet.client.machines.stop(fleet.app, update.id, nonce=nonce)
    await fleet.client.machines.wait(fleet.app, update.id, "stopped", timeout_s=_SETTLE_S)


async def _replaced(fleet: Fleet, update: Update) -> tuple[Wire, str]:
    fleet.shown.machine(update.id, update.group, "updating")
    after, since = await fleet.update(update.machine, update.group, update.config)
    if update.state == "failed" and update.warm:  # it got the new version where it lay
        await fleet.client.machines.wait(fleet.app, update.id, "settled", timeout_s=_SETTLE_S)
        await fleet.client.machines.start(fleet.app, update.id, nonce=fleet.leases.nonce(update.id))
    return after, since


async def _settled(fleet: Fleet, update: Update) -> Wire:
    """Once a sleeping Machine has its new version. Raises `Unhealthy` when that was undone."""
    await fleet.client.machines.wait(fleet.app, update.id, "settled", timeout_s=_SETTLE_S)
    now = await fleet.get(update.id)
    if (why := undone(now)) is not None:
        raise Unhealthy(f"Machine {update.id} [{update.group}]: the update was undone", why=why)
    return now


async def well(
    fleet: Fleet, plan: Plan, machine: Wire, group: str, *, since: str, look_s: float, quiet: bool = False
) -> None:
    """The gate that every Machine which runs the new version passes. Raises `Unhealthy`."""
    id, config = str(machine["id"]), machine["config"]
    options = fleet.options
    if options.detach:
        config = {name: value for name, value in config.items() if name not in ("checks", "services")}
    expected = Expectation(
        config=config,
        since=since,
        version=str(machine.get("instance_id", "")),
        look_s=look_s if options.smoke_checks and not options.detach else 0.0,
    )
    note = await watch.until_well(fleet, id, group, expected)
    if options.detach:
        fleet.shown.machine(id, group, "started", "done")
        return
    await machine_checks.run(fleet, plan, machine, group)
    if not expected.checks and (found := await watch.elsewhere(fleet, id, config)):
        fleet.shown.say(f"WARNING {found}")
    if not quiet:
        fleet.shown.machine(id, group, f"good, {note}" if note else "good", "done")
