"""`caddis machine leases …`: who may change a Machine now, and until when."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.group import group
from caddisfly.cli.target import App, AsJson, MachineIds
from caddisfly.model.errors import FailedPrecondition

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json


def build() -> typer.Typer:
    leases = group("Leases: who may change a Machine now.")
    leases.command()(view)
    leases.command()(clear)
    return leases


def view(
    ids: Annotated[
        list[str] | None, typer.Argument(metavar="ID...", help="Ids of Machines. Default: all of the app.")
    ] = None,
    app: App = "",
    json: AsJson = False,
) -> None:
    """Show the leases of Machines."""
    with target.client() as client:
        if ids:
            found = [_asked(client, app, id) for id in ids]
        else:
            name = target.app_name(app)
            machines = client.machines.list(name, include_leases=True)
            found = [{"id": machine["id"], "app": name, "lease": machine.get("lease")} for machine in machines]
    if json:
        show.result(found)
        return
    rows = []
    for one in found:
        lease = one["lease"] or {}
        rows.append((one["id"], lease.get("owner", "none"), left(lease), lease.get("description", "")))
    show.table(("ID", "HELD BY", "ENDS IN", "FOR"), rows)


def clear(
    ids: MachineIds,
    app: App = "",
    nonce: Annotated[str, typer.Option("--nonce", help="Where the API does not tell it.")] = "",
    json: AsJson = False,
) -> None:
    """End leases. Whoever holds one can change its Machine no more."""
    results = []
    with target.client() as client:
        for id in ids:
            one = _asked(client, app, id)
            lease = one["lease"]
            if lease is not None:
                _release(client, one["app"], id, lease, nonce)
            results.append({"id": id, "app": one["app"], "result": "cleared" if lease else "no lease"})
            if not json:
                show.line(f"{id} {results[-1]['result']}")
    if json:
        show.result(results)


def _release(client: Client, app: str, id: str, lease: Json, given: str) -> None:
    nonce = given or str(lease.get("nonce") or "")
    if not nonce:
        raise FailedPrecondition(
            f"the lease of {id} cannot be cleared without its nonce",
            why=f"the platform tells it only to its holder, {lease.get('owner')}",
            next=f"wait {left(lease)} until it ends, or name --nonce",
        )
    client.machines.leases.release(app, id, nonce)


def _asked(client: Client, app: str, id: str) -> Json:
    name, _ = target.machine(client, app, id)
    return {"id": id, "app": name, "lease": held(client, name, id)}


def held(client: Client, app: str, id: str) -> Json | None:
    """The Lease of a Machine that is there."""
    from caddisfly.client import NotFoundError

    try:
        return client.machines.leases.get(app, id)
    except NotFoundError:
        return None


def left(lease: Json) -> str:
    """How long it still lasts."""
    return show.ago(time.time() * 1000, float(lease.get("expires_at") or 0) * 1000) if lease else ""
