"""`caddis image show` and `update` for an app: what its Machines run, and the newest of the same tags."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.consent import confirm
from caddisfly.cli.group import group
from caddisfly.cli.target import App, AsJson

if TYPE_CHECKING:
    from caddisfly.client import AsyncClient, Client
    from caddisfly.client.calls import Json

_VERSION = "fly.version"


def build() -> typer.Typer:
    image = group("Images.")
    image.command("show")(show_)
    image.command()(update)
    return image


def show_(app: App = "", json: AsJson = False) -> None:
    """Show the images that an app's Machines run."""
    from caddisfly.client import ApiError

    name = target.app_name(app)
    with target.client() as client:
        machines = target.machines(client, name)
        try:
            newest = _newest(client, name, machines)
        except ApiError as error:
            newest = {}
            show.note(f"Whether there are newer images is not known: {error.text}")
    rows = []
    for machine in machines:
        reference = machine.get("image_ref") or {}
        found = newest.get(machine["id"])
        rows.append({"machine": machine["id"], **reference, "newest": found["digest"] if found else ""})
    if json:
        show.result(rows)
        return
    show.table(
        ("MACHINE ID", "REGISTRY", "REPOSITORY", "TAG", "VERSION", "DIGEST", "LABELS"),
        [
            (
                row["machine"],
                row.get("registry", ""),
                row.get("repository", ""),
                row.get("tag", ""),
                (row.get("labels") or {}).get(_VERSION, ""),
                row.get("digest", ""),
                ",".join(f"{key}={value}" for key, value in (row.get("labels") or {}).items()),
            )
            for row in rows
        ],
    )
    older = sum(bool(row["newest"]) and row["newest"] != row.get("digest") for row in rows)
    if older:
        show.note(f"Newer images for {older} Machine{'s' * (older != 1)}: caddis image update -a {name}")


def update(
    app: App = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    json: AsJson = False,
) -> None:
    """Give an app's Machines the newest image of the tag that they run, one after the other."""
    from caddisfly.launch.fleet import changing

    name = target.app_name(app)
    with target.client() as client:
        machines = target.machines(client, name)
        newest = _newest(client, name, machines)
    for machine in machines:
        if machine["id"] not in newest:
            show.note(f"{machine['id']} is left as it is: {_why_not(machine)}")
    older = [one for one in machines if one["id"] in newest and newest[one["id"]]["digest"] != _digest(one)]
    if older:
        for machine in older:
            show.note(f"  {machine['id']}: {_digest(machine)} -> {newest[machine['id']]['reference']}")
        confirm(f"Update {len(older)} Machine{'s' * (len(older) != 1)} of {name}?", yes=yes)

    async def act(client: AsyncClient) -> list[Json]:
        after = []
        for machine in older:
            image = newest[machine["id"]]["reference"]

            def with_image(config: Json, image: str = image) -> Json:
                return {**config, "image": image}

            show.note(f"Updating {machine['id']}")
            after.append(await changing.change(client, name, machine["id"], with_image, why="caddis image update"))
        return after

    after = target.at_once(act) if older else []
    if json:
        show.result({"app": name, "updated": [{"id": one["id"], "image_ref": one["image_ref"]} for one in after]})
    elif after:
        show.line(f"Updated {len(after)} Machine{'s' * (len(after) != 1)} of {name}")
    else:
        show.line(f"{name} runs the newest images already")


def _newest(client: Client, app: str, machines: Iterable[Json]) -> dict[str, Json]:
    """By Machine, for those that run one image that is known by a tag."""
    from caddisfly.launch.fleet.likeness import tagged

    names = {machine["id"]: tagged(machine["image_ref"]) for machine in machines if not _why_not(machine)}
    found = {name: client.apps.resolve_image(app, name) for name in sorted(set(names.values()))}
    return {id: found[name] for id, name in names.items()}


def _why_not(machine: Json) -> str:
    config = machine.get("config") or {}
    if config.get("containers") or not config.get("image"):
        return "it runs several images, which a deploy changes"
    return "" if (machine.get("image_ref") or {}).get("tag") else "its image is known by its digest alone"


def _digest(machine: Json) -> str:
    return str((machine.get("image_ref") or {}).get("digest", ""))
