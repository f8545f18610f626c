"""One deploy from its beginning to its end, or back to its beginning.

A deploy can end in five ways, and leaves no leases and no half-made Machines in any of them:

    complete      everything runs the new version
    refused       before anything was touched: the plan cannot work, or somebody else holds the app
    failed        and was put back (or, without rollback, left as it is, as on Fly)
    interrupted   by Ctrl-C, and was put back; a second Ctrl-C leaves it
    killed        nothing was tidied up: leases end on their own, and the next deploy reads from the release how far
                  it came and goes on from there
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from caddisfly.client import AsyncClient
from caddisfly.client.errors import ApiError, NotFoundError
from caddisfly.launch.config import AppConfig
from caddisfly.launch.config.running import Machine
from caddisfly.launch.deploy import bluegreen, canary, creating, leases, release_command, rolling, undo
from caddisfly.launch.deploy import release as releases
from caddisfly.launch.deploy.fleet import Fleet
from caddisfly.launch.deploy.options import Options
from caddisfly.launch.deploy.plan import RELEASE_ID_KEY, RELEASE_VERSION_KEY, Halfway, Plan, Remembered, plan
from caddisfly.launch.deploy.progress import Progress
from caddisfly.launch.deploy.release import Earlier, Release
from caddisfly.model.errors import Aborted, Problem

VERSION_KEY = "fly_flyctl_version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to deploy, and how. `description` says in the list of releases what it was."""

    app: str
    config: AppConfig
    options: Options
    image: str = ""
    description: str = ""
    by: str = "caddis deploy"
    version: str = ""
    """Of the program, for the Machines' metadata."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What there is before a deploy, and what it will do about it."""

    machines: tuple[Machine, ...]
    earlier: Earlier
    plan: Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    release: str
    version: int
    image: str
    machines: tuple[Mapping[str, Any], ...] = field(default=())


class Interrupted(Aborted):
    """Ctrl-C."""


class RolledBack(Problem):
    """It failed, and what was touched was put back, or not: `why` begins with what failed."""

    code = "failed"


async def look(client: AsyncClient, order: Order) -> Situation:
    """Raises what `plan` raises, `NotFoundError` for an app that is not there. Touches nothing."""
    machines, before, remembered = await asyncio.gather(
        client.machines.list(order.app), releases.earlier(client, order.app), _remembered(client, order.app)
    )
    making: Mapping[str, int] = before.progress.get("making") or {} if before.unfinished else {}
    memory = {
        name: Remembered(**{**remembered.get(name, {}), "making": making.get(name)}) for name in {*remembered, *making}
    }
    return Situation(
        machines=tuple(machines),
        earlier=before,
        plan=plan(
            order.config,
            machines,
            app=order.app,
            options=order.options,
            remembered=memory,
            halfway=_halfway(before),
        ),
    )


async def deploy(client: AsyncClient, order: Order, found: Situation, shown: Progress) -> Outcome:
    """Carry out the plan. Raises `RolledBack`, `Interrupted`, or `Aborted` when nothing was done."""
    todo = found.plan
    if todo.strategy == "bluegreen":
        bluegreen.refuse(todo)
    lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
    async with releases.begun(
        client,
        order.app,
        found.machines,
        image=order.image,
        strategy=todo.strategy,
        definition=order.config.definition,
        description=order.description,
        ttl_s=order.options.lease_ttl_s,
        lost=lost,
    ) as release:
        try:
            outcome = await _leased(client, order, found, shown, release, lost)
        except (asyncio.CancelledError, Interrupted) as stop:
            await release.end(releases.INTERRUPTED, "interrupted")
            raise (stop if isinstance(stop, Interrupted) else Interrupted("the deploy was interrupted")) from None
        except Exception as error:
            await release.end(releases.FAILED, str(error))
            raise
        if problem := await release.end(releases.COMPLETE):
            shown.say(f"Warning: the Machines run the new version, but its release could not be noted: {problem}")
        return outcome


async def _leased(
    client: AsyncClient, order: Order, found: Situation, shown: Progress, release: Release, lost: asyncio.Future[str]
) -> Outcome:
    ids = [*(update.id for update in found.plan.updates), *(removal.id for removal in found.plan.removals)]
    async with leases.held(client, order.app, ids, ttl_s=order.options.lease_ttl_s, by=order.by) as held:
        fleet = Fleet(
            client,
            order.app,
            leases=held,
            options=order.options,
            shown=shown,
            image=order.image,
            container=order.config.container,
            labels={
                RELEASE_ID_KEY: release.id,
                RELEASE_VERSION_KEY: str(release.version),
                VERSION_KEY: order.version,
            },
        )
        work = asyncio.create_task(_guarded(fleet, found, release, order), name="deploy")
        try:
            waited: set[asyncio.Future[Any]] = {work, held.lost, lost}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            work.cancel()
            await asyncio.wait({work})
            raise
        if not work.done():
            work.cancel("lost")
            await asyncio.wait({work})
            what = f"the lease on Machine {held.lost.result()} ended" if held.lost.done() else lost.result()
            raise Aborted(
                "somebody else took over while this deploy was under way",
                why=f"{what}; the Machines are left as they are",
                next=f"caddis status -a {order.app}; then deploy again",
            )
        return work.result()


async def _guarded(fleet: Fleet, found: Situation, release: Release, order: Order) -> Outcome:
    """The work, and what to do when it does not work out."""
    try:
        return await _work(fleet, found, release)
    except asyncio.CancelledError as stop:
        if stop.args == ("lost",):
            raise
        task = asyncio.current_task()
        if task is not None:
            task.uncancel()
        raise await _back(fleet, order, Interrupted("the deploy was interrupted")) from None
    except (Problem, ApiError) as error:
        raise await _back(fleet, order, error) from error


async def _back(fleet: Fleet, order: Order, error: Problem | ApiError) -> Problem:
    """Undo what was done, if that is wanted. Returns what to raise."""
    what = error.what if isinstance(error, Problem) else error.text
    why, next = error.why, error.next or "correct it and deploy again"
    touched = bool(fleet.ledger.changed or fleet.ledger.made)
    kind = Interrupted if isinstance(error, Interrupted) else RolledBack
    if not touched:
        return kind(what, why=_lines(why, "Nothing was changed."), next=next)
    if not order.options.rollback:
        left = "Nothing was put back (--no-rollback): " + ", ".join([*fleet.ledger.changed, *fleet.ledger.made])
        return kind(what, why=_lines(why, left), next=next)
    fleet.shown.say(f"{what}. Going back to the version before; Ctrl-C leaves it as it is")
    problems = await undo.undo(fleet)
    after = ["These could not be put back:", *problems] if problems else ["Everything is as it was before."]
    return kind(what, why=_lines(why, *after), next=next)


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


async def _work(fleet: Fleet, found: Situation, release: Release) -> Outcome:
    todo = found.plan
    going_on, done = _release_command(found, fleet.image.reference)
    for removal in todo.removals:
        if removal.leftover and removal.id != going_on:
            fleet.shown.say(f"Removing {removal.id}: {removal.why}")
            await fleet.destroy(removal.id)
    await release.note(image=fleet.image.reference)
    if todo.release_command and done:
        fleet.shown.say("The release command has run already: the deploy that ran it was interrupted after it")
    else:
        await release_command.run(fleet, todo, release, found.machines, going_on=going_on)
    await release_command.seed(fleet, todo, release, found.machines)
    await release.note(image=fleet.image.reference, making=dict(todo.making))
    if todo.creations:
        await creating.create(fleet, todo)
    if todo.strategy == "bluegreen":
        await bluegreen.bluegreen(fleet, todo, release)
    elif todo.strategy == "immediate":
        await rolling.immediate(fleet, todo)
    elif todo.strategy == "canary":
        await canary.canary(fleet, todo)
    else:
        await rolling.rolling(fleet, todo)
    for removal in todo.removals:
        if not removal.leftover:
            fleet.shown.machine(removal.id, removal.group, f"destroying: {removal.why}")
            await fleet.destroy(removal.id)
            fleet.shown.machine(removal.id, removal.group, f"destroyed: {removal.why}", "done")
    await release.note(image=fleet.image.reference, making={})
    machines = await fleet.client.machines.list(fleet.app)
    return Outcome(release=release.id, version=release.version, image=fleet.image.reference, machines=tuple(machines))


def _release_command(found: Situation, image: str) -> tuple[str, bool]:
    """The Machine of a killed deploy that runs the same release command, and whether that had ended well."""
    before = found.earlier
    noted = before.progress.get(release_command.RELEASE) or {}
    same = before.status == releases.INTERRUPTED or before.status == releases.RUNNING
    same = same and _digest(str(before.progress.get("image") or before.image)) == _digest(image)
    same = same and before.definition == found.plan.config.definition
    if not same or not noted:
        return "", False
    return ("", True) if noted.get("ended") else (str(noted.get("machine", "")), False)


def _digest(image: str) -> str:
    """By which two references are the same; of a tag alone that cannot be said."""
    return image.partition("@")[2] or f"{image} by itself"


def _halfway(before: Earlier) -> Halfway | None:
    noted = before.progress.get("bluegreen") or {}
    if not before.unfinished or not noted:
        return None
    return Halfway(tag=str(noted["tag"]), switched=bool(noted["switched"]), blues=tuple(noted["blues"]))


async def _remembered(client: AsyncClient, app: str) -> dict[str, dict[str, Any]]:
    try:
        groups = await client.scale.get(app)
    except NotFoundError:
        return {}  # Fly remembers nothing
    return {
        name: {
            "count": said.get("count"),
            "regions": tuple(said.get("regions") or ()),
            "max_per_region": said.get("max_per_region"),
        }
        for name, said in groups.items()
    }
