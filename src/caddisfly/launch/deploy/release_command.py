"""The release command: run once for each release, by a Machine of its own, before any other is touched.

Its Machine's id is noted before it is started. A deploy that is killed while it runs leaves it running; the next one
with the same image and the same config goes on waiting for it instead of running it twice, and one for which it had
ended well does not run it at all.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any

from caddisfly.client.errors import ApiError, NotFoundError, RetryableError
from caddisfly.launch.config import release_machine
from caddisfly.launch.config.running import Machine, managed, metadata
from caddisfly.launch.config.translate import GROUP_KEY, RELEASE_GROUP
from caddisfly.launch.deploy.fleet import Fleet
from caddisfly.launch.deploy.plan import Plan
from caddisfly.launch.deploy.release import Release
from caddisfly.launch.deploy.watch import Slow, Unhealthy
from caddisfly.launch.events import last_exit

RELEASE = "release_command"
"""Under which a release's progress tells how far it came."""
_PAUSE_S = 0.25
_LINES = 100
_OVER = ("stopped", "destroyed", "failed", "destroying")


async def run(fleet: Fleet, plan: Plan, release: Release, machines: Sequence[Machine], *, going_on: str = "") -> None:
    """`going_on` is the id of a Machine that an earlier deploy started for it. Raises `Unhealthy`."""
    if plan.release_command:
        await _run(fleet, plan, release, machines, RELEASE, plan.release_command, going_on=going_on)


async def seed(fleet: Fleet, plan: Plan, release: Release, machines: Sequence[Machine]) -> None:
    """What fills an empty database: run as the release command is, after it. Raises `Unhealthy`."""
    if plan.seed_command:
        await _run(fleet, plan, release, machines, "seed_command", plan.seed_command)


async def _run(
    fleet: Fleet,
    plan: Plan,
    release: Release,
    machines: Sequence[Machine],
    name: str,
    words: tuple[str, ...],
    *,
    going_on: str = "",
) -> None:
    command = " ".join(words)
    if going_on and (there := await _there(fleet, going_on)) is not None:
        fleet.shown.say(f"Going on with the release command that the last deploy began: {command}")
        id = str(there["id"])
    else:
        fleet.shown.say(f"Running {plan.config.app or fleet.app} {name}: {command}")
        config = release_machine(plan.config, guest=_guest(plan, machines), command=words)
        made = await fleet.create(RELEASE_GROUP, plan.config.primary_region, config, launch=False)
        id = str(made["id"])
        await release.note(**{name: {"machine": id, "ended": False}})
        await fleet.client.machines.wait(fleet.app, id, "stopped", timeout_s=_limit(fleet.options.wait_timeout_s))
        await fleet.client.machines.start(fleet.app, id, nonce=fleet.leases.nonce(id))
    exit = await _followed(fleet, id)
    fleet.leases.forget(id)
    code = int(exit.get("exit_code") or 0)
    if code or exit.get("oom_killed") or exit.get("error"):
        raise await _failure(fleet, id, exit, code)
    await release.note(**{name: {"machine": id, "ended": True}})
    fleet.shown.machine(id, "release command", "ended with exit code 0", "done")


async def _there(fleet: Fleet, id: str) -> Mapping[str, Any] | None:
    try:
        machine = await fleet.get(id)
    except NotFoundError:
        return None
    begun = machine.get("state") != "created" and any(one["type"] == "start" for one in machine.get("events") or ())
    return machine if begun else None


async def _followed(fleet: Fleet, id: str) -> Mapping[str, Any]:
    """Its exit, with what it prints shown as it comes. Raises `Slow`."""
    deadline, token = time.monotonic() + fleet.options.release_command_timeout_s, ""
    while True:
        try:
            machine: Mapping[str, Any] = await fleet.get(id)
        except NotFoundError:
            raise Unhealthy(
                f"the Machine of the release command, {id}, was destroyed", why="how it ended is not known"
            ) from None
        except RetryableError:
            machine = {}
        state = str(machine.get("state", ""))
        exit = last_exit(machine) if state in _OVER else None
        token = await _show_logs(fleet, id, token)
        if exit is not None:
            await _show_logs(fleet, id, token)  # what came between
            return exit
        if time.monotonic() >= deadline:
            await fleet.destroy(id)
            limit_s = fleet.options.release_command_timeout_s
            raise Slow(
                f"the release command did not end within {limit_s:g} s",
                why=f"its Machine {id} was destroyed",
                next="--release-command-timeout, or release_command_timeout in [deploy]",
            )
        if state:
            fleet.shown.machine(id, "release command", state)
        await asyncio.sleep(_PAUSE_S)


async def _show_logs(fleet: Fleet, id: str, token: str) -> str:
    try:
        page = await fleet.client.logs.page(fleet.app, machine=id, next_token=token)
    except ApiError:
        return token  # shown at the next try, or with the failure
    for entry in page.entries:
        fleet.shown.output(str(entry.get("message", "")))
    return page.next_token


async def _failure(fleet: Fleet, id: str, exit: Mapping[str, Any], code: int) -> Unhealthy:
    fleet.shown.machine(id, "release command", f"ended with exit code {code}", "failed")
    if exit.get("oom_killed"):
        how, next = "ran out of memory", "give it more: release_command_vm in [deploy]"
    elif exit.get("error"):
        how, next = f"could not run: {exit['error']}", "correct release_command in [deploy]"
    else:
        how, next = f"exited with non-zero status of {code}", "correct it and deploy again"
    words = [line for line in await fleet.last_words(id, _LINES) if line]
    return Unhealthy(
        f"release command failed - aborting deployment. machine {id} {how}",
        why="\n".join(["No other Machine was touched. It printed last:", *(f"  {line}" for line in words)]),
        next=next,
    )


def _guest(plan: Plan, machines: Sequence[Machine]) -> Mapping[str, Any] | None:
    """The size of the default group's largest Machine (reference 2.3)."""
    default = plan.config.groups.default
    guests = [
        (one.get("config") or {}).get("guest")
        for one in managed(machines)
        if (metadata(one).get(GROUP_KEY) or default) == default
    ]
    return max((guest for guest in guests if guest), key=lambda guest: int(guest.get("memory_mb", 0)), default=None)


def _limit(seconds: float) -> float:
    return seconds if seconds != math.inf else 10.0**9
