"""The app of a plan: one that is there and meant, or a new one, made once however often it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

from caddisfly.client import Client, FinalError, NotFoundError
from caddisfly.launch.plan import naming
from caddisfly.launch.plan.plan import Plan
from caddisfly.launch.plan.unfinished import Unfinished
from caddisfly.model.errors import AlreadyExists, FailedPrecondition

_TAKEN = "name_taken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """An app of this account with the plan's name. `meant` says why it is the one, empty when nothing says so."""

    name: str
    org: str
    machines: int
    meant: str


def own(client: Client, plan: Plan, unfinished: Unfinished) -> Own | None:
    """Raises `FailedPrecondition` when it belongs to another organization than the one that was named."""
    name = plan.name.value
    try:
        app = client.apps.get(name)
    except NotFoundError:
        return None
    org = str((app.get("organization") or {}).get("slug", ""))
    if plan.wishes.org and org != plan.wishes.org:
        raise FailedPrecondition(
            f"app {name} belongs to {org}, not to {plan.wishes.org}",
            why="an app stays in its organization",
            next=f"--org {org}, or another --name",
        )
    machines = len(client.machines.list(name))
    config = plan.present.config
    if name == unfinished.name:
        meant = "the launch before this one made it"
    elif config is not None and config.app == name:
        meant = f"{plan.present.path.name} names it"
    elif plan.wishes.name == name and not machines:
        meant = "it has no Machines yet"
    else:
        meant = ""
    return Own(name=name, org=org, machines=machines, meant=meant)


def create(client: Client, plan: Plan, unfinished: Unfinished) -> tuple[Plan, Unfinished]:
    """The plan with the name that it came to. Raises `AlreadyExists`."""
    for name in naming.candidates(plan.name):
        unfinished = unfinished.intending(name.value, framework=plan.remembered)
        try:
            client.apps.create(name.value, org_slug=plan.org.value, idempotency_key=unfinished.key)
        except FinalError as error:
            if error.status != _TAKEN:
                raise
            continue
        return plan.named(name), unfinished
    unfinished.done()
    raise AlreadyExists(
        f"the name {plan.name.value} is taken",
        why="names of apps are unique on the whole platform, and somebody has it",
        next="--name with another one, or --generate-name",
    )
