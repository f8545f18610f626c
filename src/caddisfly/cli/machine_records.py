"""`caddis machine events`, `versions` and `ps`: what happened to a Machine, what it was told to be, what runs in it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.target import App, AsJson, MachineId
from caddisfly.launch.events import exit_of
from caddisfly.model import differences
from caddisfly.model.errors import InvalidArgument

if TYPE_CHECKING:
    from caddisfly.client.calls import Json

_SORTS = ("pid", "stime", "rtime", "command", "directory", "cpu", "rss")


def events(
    id: MachineId,
    app: App = "",
    limit: Annotated[int, typer.Option("--limit", min=1, max=50, help="At most so many.")] = 20,
    json: AsJson = False,
) -> None:
    """Show what happened to a Machine, newest first."""
    with target.client() as client:
        name, _ = target.machine(client, app, id)
        found = client.machines.events(name, id, limit=limit)
    if json:
        show.result(found)
    else:
        show_events(found)


def show_events(events: list[Json]) -> None:
    now_ms = time.time() * 1000
    rows = []
    for event in events:
        request = event.get("request") or {}
        left = exit_of(event)
        said = str(request.get("error") or request.get("reason") or "")
        detail = f"exit code {left['exit_code']}" if "exit_code" in left else said
        detail += ", out of memory" if left.get("oom_killed") else ""
        detail += f", {left['error']}" if left.get("error") else ""
        detail += f"{request['isolation']} ({request.get('driver', '')})" if "isolation" in request else ""
        rows.append((show.ago(event["timestamp"], now_ms), event["type"], event["status"], event["source"], detail))
    show.table(("AGO", "EVENT", "STATUS", "BY", "DETAIL"), rows)


def isolation_of(machine: Json) -> dict[str, str]:
    """What it runs in, as a fact to show. None where the platform does not say, as Fly's does not."""
    if not machine.get("isolation"):
        return {}
    requests = [event.get("request") or {} for event in machine.get("events") or []]
    driver = next((request["driver"] for request in requests if "driver" in request), "")
    return {"isolation": f"{machine['isolation']} ({driver})" if driver else machine["isolation"]}


def versions(id: MachineId, app: App = "", json: AsJson = False) -> None:
    """Show what a Machine was told to be, newest first, and what each version changed."""
    with target.client() as client:
        name, machine = target.machine(client, app, id)
        found = client.machines.versions(name, id)
    if json:
        show.result(found)
        return
    rows = []
    for number, version in enumerate(found):
        config = version.get("user_config") or {}
        older = found[number + 1].get("user_config") or {} if number + 1 < len(found) else None
        changed = "" if older is None else ", ".join(differences.between(older, config)) or "nothing"
        mark = "yes" if version["version"] == machine.get("instance_id") else ""
        rows.append((version["version"], mark, config.get("image", ""), changed))
    show.table(("VERSION", "CURRENT", "IMAGE", "CHANGED"), rows)


def ps(
    id: MachineId,
    app: App = "",
    sort_by: Annotated[str, typer.Option("--sort-by", help=f"{', '.join(_SORTS)}.")] = "",
    order: Annotated[str, typer.Option("--order", help="asc or desc.")] = "",
    json: AsJson = False,
) -> None:
    """Show the processes in a Machine that runs."""
    if sort_by and sort_by not in _SORTS:
        raise InvalidArgument(f"--sort-by {sort_by!r} is not one of {', '.join(_SORTS)}")
    if order not in ("", "asc", "desc"):
        raise InvalidArgument(f"--order {order!r} is not one of asc, desc")
    with target.client() as client:
        name, _ = target.machine(client, app, id)
        found = client.machines.ps(name, id, sort_by=sort_by, order=order)
    if json:
        show.result(found)
        return
    rows = [
        (
            process["pid"],
            f"{process.get('rss', 0) / 2**20:.1f}",
            process.get("cpu", ""),
            " ".join(f"{socket['proto']}:{socket['address']}" for socket in process.get("listen_sockets") or ()),
            process.get("command", ""),
        )
        for process in found
    ]
    show.table(("PID", "RSS MIB", "CPU", "LISTENS", "COMMAND"), rows)
