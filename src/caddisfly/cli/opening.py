"""`caddis open`: where an app is reached from outside."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.target import App, AsJson
from caddisfly.model.errors import FailedPrecondition

if TYPE_CHECKING:
    from caddisfly.client.calls import Json

Path = Annotated[str, typer.Argument(metavar="PATH", help="Path of the page, such as /admin.", show_default=False)]


def open_(path: Path = "", app: App = "", json: AsJson = False) -> None:
    """Print an app's address, and open it where there is a browser."""
    name = target.app_name(app)
    with target.client() as client:
        found, machines = client.apps.get(name), client.machines.list(name)
    url = f"{address(found, machines)}/{path.removeprefix('/')}"
    if json:
        show.result({"url": url})
        return
    show.line(url)
    if sys.stdout.isatty() and (sys.platform == "darwin" or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))):
        import webbrowser

        webbrowser.open(url)


def address(app: Json, machines: list[Json]) -> str:
    """Raises `FailedPrecondition` when nothing can be opened there."""
    name = app["name"]
    if not any(map(_serves, machines)):
        raise FailedPrecondition(
            f"nothing of {name} can be opened",
            why="none of its Machines has a service with the handler http" if machines else "it has no Machines",
            next="caddis status shows what it has" if machines else "caddis deploy",
        )
    if not app.get("url"):
        raise FailedPrecondition(
            f"where {name} is reached is not known",
            why="this platform has no edge, or does not say where",
            next="its operator sets [control] apps_public_url",
        )
    return str(app["url"]).rstrip("/")


def _serves(machine: Json) -> bool:
    services = (machine.get("config") or {}).get("services") or ()
    ports = (port for service in services for port in service.get("ports") or ())
    return any("http" in (port.get("handlers") or ()) for port in ports)
