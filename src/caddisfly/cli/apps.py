"""`caddis apps …`."""

from __future__ import annotations

import time
from datetime import datetime
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.group import group
from caddisfly.cli.target import AsJson

if TYPE_CHECKING:
    from caddisfly.client.calls import Json

Org = Annotated[str, typer.Option("--org", "-o", help="Organization.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def build() -> typer.Typer:
    from caddisfly.cli import fleet, opening, releases

    app = group("Apps: names that Machines belong to.")
    app.command("list")(list_)
    app.command()(create)
    app.command()(destroy)
    app.command()(releases.releases)
    app.command("open")(opening.open_)
    for command in (fleet.restart, fleet.suspend, fleet.resume):
        app.command()(command)
    app.command()(move)
    return app


def move(
    name: Annotated[str, typer.Argument(metavar="APP")],
    org: Annotated[str, typer.Option("--org", "-o", help="The organization to move it to.")] = "",
) -> None:
    """Move an app to another organization. Not there yet: says what to do instead."""
    from caddisfly.model.errors import Unimplemented

    raise Unimplemented(
        f"{name} cannot be moved" + (f" to {org}" if org else ""),
        why="its Machines would need addresses in the other organization's network, and none may be in both",
        next="caddis launch --org ORG --name NEW-NAME in its folder makes it anew there; then caddis apps destroy "
        + name,
    )


def list_(org: Org = "personal", json: AsJson = False) -> None:
    """List apps."""
    with target.client() as client:
        found = client.apps.list(org)
    if json:
        show.result(found)
        return
    rows = [
        (
            app["name"],
            (app.get("organization") or {}).get("slug", ""),
            app.get("status", ""),
            app.get("machine_count", ""),
        )
        for app in found
    ]
    show.table(("NAME", "ORGANIZATION", "STATUS", "MACHINES"), rows)


def create(
    name: Annotated[str, typer.Argument(help="Default: a generated name.")] = "",
    org: Org = "personal",
    network: Annotated[str, typer.Option(help="Private network of its own.")] = "",
    json: AsJson = False,
) -> None:
    """Make an app."""
    from caddisfly.model import ids

    with target.client() as client:
        made = client.apps.create(name or ids.generated_name(), org_slug=org, network=network)
    if json:
        show.result(made)
    else:
        show.line(f"New app: {made['name']}")


def destroy(names: Annotated[list[str], typer.Argument(metavar="APP...")], yes: Yes = False) -> None:
    """Destroy apps and all their Machines. This cannot be undone."""
    with target.client() as client:
        for name in names:
            client.apps.get(name)
            if not yes:
                typer.confirm(f"Destroy {name} and all its Machines?", abort=True, err=True)
            client.apps.delete(name)
            show.line(f"Destroyed app {name}")


def show_machines(machines: list[Json]) -> None:
    now_ms = time.time() * 1000
    rows = [
        (
            machine["id"],
            machine.get("name", ""),
            machine["state"],
            machine.get("region", ""),
            image_of(machine),
            machine.get("private_ip", ""),
            show.ago(milliseconds(machine["updated_at"]), now_ms),
        )
        for machine in sorted(machines, key=lambda machine: str(machine.get("created_at", "")))
    ]
    show.table(("ID", "NAME", "STATE", "REGION", "IMAGE", "IP ADDRESS", "UPDATED"), rows)


def image_of(machine: Json) -> str:
    reference = machine.get("image_ref") or {}
    if not reference.get("repository"):
        return str((machine.get("config") or {}).get("image", ""))
    return f"{reference['repository']}:{reference['tag']}" if reference.get("tag") else str(reference["repository"])


def milliseconds(rfc3339: str) -> float:
    """Since the epoch."""
    return datetime.fromisoformat(rfc3339).timestamp() * 1000
