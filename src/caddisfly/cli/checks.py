"""`caddis checks list`: what the health checks of an app's Machines last found."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.apps import milliseconds
from caddisfly.cli.group import group
from caddisfly.cli.target import App, AsJson
from caddisfly.launch.fleet.outcome import plain


def build() -> typer.Typer:
    checks = group("Health checks of an app.")
    checks.command("list")(list_)
    return checks


def list_(
    app: App = "",
    check_name: Annotated[str, typer.Option("--check-name", help="Only this check.")] = "",
    json: AsJson = False,
) -> None:
    """List the health checks of an app, Machine by Machine."""
    name = target.app_name(app)
    with target.client() as client:
        machines = client.machines.list(name)
    found = [
        {"machine": machine["id"], **check}
        for machine in sorted(machines, key=lambda machine: str(machine["id"]))
        for check in machine.get("checks") or ()
        if check_name in ("", check["name"])
    ]
    if json:
        show.result(found)
        return
    now_ms = time.time() * 1000
    rows = [
        (
            check["name"],
            check["status"],
            check["machine"],
            f"{show.ago(milliseconds(check['updated_at']), now_ms)} ago" if check.get("updated_at") else "",
            plain(check.get("output")),
        )
        for check in found
    ]
    show.table(("NAME", "STATUS", "MACHINE", "LAST UPDATED", "OUTPUT"), rows)
