"""`machine_checks`: a command run by a Machine of its own beside each new Machine, which says whether it is well."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from caddisfly.client.errors import NotFoundError, RetryableError
from caddisfly.launch.config import check_machine
from caddisfly.launch.deploy.fleet import Fleet
from caddisfly.launch.deploy.plan import Plan
from caddisfly.launch.deploy.watch import Unhealthy
from caddisfly.launch.events import last_exit

_PAUSE_S = 0.25


async def run(fleet: Fleet, plan: Plan, tested: Mapping[str, Any], group: str) -> None:
    """Raises `Unhealthy` for one that does not end with 0."""
    for check in plan.config.machine_checks_of(group):
        command = " ".join(check.command)
        id = str(tested["id"])
        fleet.shown.machine(id, group, f"machine check: {command}")
        async with fleet.image.use() as image:
            config = check_machine(
                plan.config,
                check,
                tested=tested["config"],
                private_ip=str(tested.get("private_ip", "")),
                image=image,
            )
        made = await fleet.client.machines.create(fleet.app, config, region=str(tested.get("region", "")))
        try:
            code = await _ended(fleet, str(made["id"]))
            if code:
                words = await fleet.last_words(str(made["id"]))
                raise Unhealthy(
                    f"Machine {id} [{group}]: the machine check '{command}' ended with {code}",
                    why="\n".join(["It printed last:", *(f"  {line}" for line in words if line)]),
                    next=f"caddis logs -a {fleet.app} -i {made['id']}",
                )
        except BaseException:
            await fleet.destroy(str(made["id"]))
            raise


async def _ended(fleet: Fleet, id: str) -> int:
    deadline = time.monotonic() + fleet.options.wait_timeout_s
    while True:
        try:
            machine: Mapping[str, Any] = await fleet.get(id)
        except NotFoundError:
            raise Unhealthy(f"the Machine of a machine check, {id}, was destroyed by somebody else") from None
        except RetryableError:  # the platform is away for a moment, its Machines are not
            machine = {}
        if (left := last_exit(machine)) is not None:
            return int(left.get("exit_code") or 0) or int(bool(left.get("error")))
        if time.monotonic() >= deadline:
            raise Unhealthy(f"a machine check did not end within {fleet.options.wait_timeout_s:g} s")
        await asyncio.sleep(_PAUSE_S)
