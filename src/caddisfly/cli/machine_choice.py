"""Which Machine of an app a command is to run in, and that it runs."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.model import states
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json

Machine = Annotated[str, typer.Option("--machine", "--id", help="In this Machine.")]
Select = Annotated[bool, typer.Option("--select", "-s", help="Ask in which Machine.")]
Region = Annotated[str, typer.Option("--region", "-r", help="In a Machine of this region.")]
Group = Annotated[str, typer.Option("--group", "-g", "--process-group", help="In a Machine of this process group.")]
User = Annotated[str, typer.Option("--user", "-u", help="As this user of the image.")]
Container = Annotated[str, typer.Option(help="In this one of several containers; the first by default.")]

_ASLEEP = (states.STOPPED, states.SUSPENDED, states.CREATED)
_GONE = (states.DESTROYED, states.DESTROYING)
_GROUP = "fly_process_group"
_TEMPORARY = ("fly_app_release_command", "fly_app_console", "fly_app_test_machine_command")
_START_S = 60


def meant(client: Client, app: str, *, machine: str, select: bool, region: str, group: str) -> tuple[str, Json]:
    """The app's name, and one of its Machines that runs, as the flags say."""
    if machine and not app:
        name, _ = target.machine(client, app, machine)
    else:
        name = target.app_name(app)
    return name, running(client, name, machine=machine, select=select, region=region, group=group)


def running(
    client: Client, app: str, *, machine: str = "", select: bool = False, region: str = "", group: str = ""
) -> Json:
    """One that runs; one that sleeps is started, and that is said. Raises `NotFound` when there is none."""
    if machine:
        return awake(client, app, _named(client, app, machine))
    found = [one for one in client.machines.list(app) if _fits(one, region, group)]
    if not found:
        where = "".join(f" {what} {word}" for what, word in (("in region", region), ("of group", group)) if word)
        raise NotFound(
            f"app {app} has no Machine{where}", next=f"caddis machine list -a {app}; caddis console makes one"
        )
    found.sort(key=lambda one: (one["state"] != states.STARTED, one.get("created_at", ""), one["id"]))
    return awake(client, app, _asked(found) if select else found[0])


def awake(client: Client, app: str, machine: Json) -> Json:
    """The same, once it runs."""
    id = machine["id"]
    if machine["state"] == states.STARTED:
        return machine
    if machine["state"] in _GONE:
        raise FailedPrecondition(f"Machine {id} is {machine['state']}", next=f"caddis machine list -a {app}")
    with show.waiting(f"Machine {id} is {machine['state']}; waiting until it runs"):
        if machine["state"] in _ASLEEP:
            client.machines.start(app, id)
        client.machines.wait(app, id, states.STARTED, timeout_s=_START_S)
    return machine


def _named(client: Client, app: str, id: str) -> Json:
    from caddisfly.client import NotFoundError

    try:
        return client.machines.get(app, id)
    except NotFoundError as error:
        raise NotFound(f"no Machine {id} in app {app}", next=f"caddis machine list -a {app}") from error


def _fits(machine: Json, region: str, group: str) -> bool:
    of_group = _metadata(machine).get(_GROUP, "")
    return (
        machine["state"] not in _GONE
        and of_group not in _TEMPORARY
        and (not region or machine.get("region") == region)
        and (not group or of_group == group)
    )


def _metadata(machine: Json) -> Mapping[str, str]:
    return (machine.get("config") or {}).get("metadata") or {}


def _asked(found: list[Json]) -> Json:
    if not sys.stdin.isatty():
        raise InvalidArgument(
            "--select has nobody to ask", why="standard input is no terminal", next="name one with --machine ID"
        )
    for number, one in enumerate(found, 1):
        of_group = _metadata(one).get(_GROUP) or "-"
        show.note(f"{number:>3}  {one['id']}  {one['state']:<10} {one.get('region', ''):<6} {of_group}  {one['name']}")
    wanted: int = typer.prompt("Which", type=int, err=True)
    if not 1 <= wanted <= len(found):
        raise InvalidArgument(f"{wanted} is not one of 1 to {len(found)}")
    return found[wanted - 1]
