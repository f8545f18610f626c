"""`caddis apps restart|suspend|resume`: all Machines of an app."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.consent import confirm
from caddisfly.cli.target import App, AsJson

if TYPE_CHECKING:
    from caddisfly.client import AsyncClient
    from caddisfly.client.calls import Json

Name = Annotated[str, typer.Argument(metavar="APP", help="The app. Default: as with --app.", show_default=False)]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]


def restart(
    name: Name = "",
    app: App = "",
    force: Annotated[bool, typer.Option("--force-stop", help="Kill instead of asking.")] = False,
    json: AsJson = False,
) -> None:
    """Restart the Machines of an app that run, one after the other, each seen up before the next."""
    from caddisfly.launch.fleet import changing

    chosen = target.app_name(name or app)
    machines = [machine for machine in _machines(chosen) if machine["state"] in changing.RUNS]

    async def act(client: AsyncClient) -> list[str]:
        done = []
        for machine in machines:
            show.note(f"Restarting {machine['id']}")
            after = await changing.restart(client, chosen, machine["id"], force=force, why="caddis apps restart")
            done.append(str(after["id"]))
        return done

    _tell(chosen, "restarted", target.at_once(act) if machines else [], json=json)


def suspend(name: Name = "", app: App = "", yes: Yes = False, json: AsJson = False) -> None:
    """Stop all Machines of an app. Requests do not wake them, until `apps resume`."""
    from caddisfly.launch.fleet import suspension

    chosen = target.app_name(name or app)
    machines = _machines(chosen)
    if machines:
        confirm(f"Stop all {len(machines)} Machines of {chosen}?", yes=yes)
    done = target.at_once(lambda client: suspension.suspend(client, chosen, machines, say=show.note))
    _tell(chosen, "suspended", done, json=json)


def resume(name: Name = "", app: App = "", json: AsJson = False) -> None:
    """Bring a suspended app back as it was; start all Machines of one that was not."""
    from caddisfly.launch.fleet import suspension

    chosen = target.app_name(name or app)
    machines = _machines(chosen)
    done = target.at_once(lambda client: suspension.resume(client, chosen, machines, say=show.note))
    _tell(chosen, "resumed", done, json=json)


def _machines(app: str) -> list[Json]:
    with target.client() as client:
        return target.machines(client, app)


def _tell(app: str, what: str, ids: list[str], *, json: bool) -> None:
    if json:
        show.result({"app": app, "result": what, "machines": ids})
    else:
        show.line(f"{app} {what}: {len(ids)} Machine{'s' * (len(ids) != 1)}")
