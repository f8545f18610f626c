"""`caddis machine metadata …`: names and values that change without a restart."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.group import group
from caddisfly.cli.machine_config import pairs
from caddisfly.cli.target import App, AsJson, MachineId
from caddisfly.model.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Mapping


def build() -> typer.Typer:
    metadata = group("Metadata: names and values on a Machine, changed without a restart.")
    metadata.command("show")(show_)
    metadata.command("set")(set_)
    metadata.command()(remove)
    return metadata


def show_(
    id: MachineId,
    name: Annotated[str, typer.Argument(metavar="NAME", help="Print this value only.")] = "",
    app: App = "",
    json: AsJson = False,
) -> None:
    """Show a Machine's metadata, or one value."""
    with target.client() as client:
        app_name, _ = target.machine(client, app, id)
        found = client.machines.metadata.get(app_name, id)
    if name and name not in found:
        raise NotFound(f"{id} has no metadata {name!r}", next=f"caddis machine metadata show {id} -a {app_name}")
    if json:
        show.result(found[name] if name else found)
    elif name:
        show.line(found[name])
    else:
        show.table(("NAME", "VALUE"), sorted(found.items()))


def set_(
    id: MachineId,
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="What to set.")],
    app: App = "",
    json: AsJson = False,
) -> None:
    """Set metadata. What is not named stays."""
    changes = pairs(values, "metadata")
    for name, value in changes.items():
        if not value:
            raise InvalidArgument(f"metadata {name!r} has no value", next="`caddis machine metadata remove` removes it")
    _merge(id, app, changes, json=json)


def remove(
    id: MachineId,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="What to remove.")],
    app: App = "",
    json: AsJson = False,
) -> None:
    """Remove metadata, also what is not there."""
    _merge(id, app, dict.fromkeys(names), json=json)


def _merge(id: str, app: str, changes: Mapping[str, str | None], *, json: bool) -> None:
    with target.client() as client:
        app_name, _ = target.machine(client, app, id)
        client.machines.metadata.merge(app_name, id, changes)
    if json:
        show.result({"id": id, "app": app_name, "changed": changes})
        return
    for name, value in changes.items():
        show.line(f"{id} {name} removed" if value is None else f"{id} {name} set")
