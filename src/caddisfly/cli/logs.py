"""`caddis logs`: what Machines wrote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.target import App

if TYPE_CHECKING:
    from caddisfly.client.calls import Json


def logs(
    app: App = "",
    follow: Annotated[
        bool, typer.Option("--follow/--no-tail", "-f/-n", help="Go on with new lines until Ctrl-C, or stop.")
    ] = True,
    machine: Annotated[str, typer.Option("--machine", "-i", "--instance", help="Only this Machine.")] = "",
    region: Annotated[str, typer.Option("--region", "-r", help="Only this region.")] = "",
    json: Annotated[bool, typer.Option("--json", "-j", help="One JSON object per line.")] = False,
) -> None:
    """Show the logs of an app."""
    import json as codec

    name = target.app_name(app)
    with target.client() as client:
        if follow:
            entries = client.logs.follow(name, machine=machine, region=region)
        else:
            entries = iter(client.logs.page(name, machine=machine, region=region).entries)
        for entry in entries:
            show.line(codec.dumps(entry) if json else line(entry))
            sys.stdout.flush()


def line(entry: Json) -> str:
    """`time app[machine] region [level] message`, as flyctl prints it."""
    meta = entry.get("meta") or {}
    event = (meta.get("event") or {}).get("provider") or "app"
    instance = entry.get("instance") or meta.get("instance") or ""
    where = entry.get("region") or meta.get("region") or ""
    container = (meta.get("container") or {}).get("name")
    words = (
        entry.get("timestamp"),
        f"{event}[{instance}{f'/{container}' if container else ''}]",
        where,
        f"[{entry.get('level') or 'info'}]",
        entry.get("message"),
    )
    return " ".join(str(word or "") for word in words)
