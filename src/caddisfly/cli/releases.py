"""`caddis releases`: what was deployed when, by whom, and what became of it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import show, target
from caddisfly.cli.apps import milliseconds
from caddisfly.cli.target import App, AsJson

if TYPE_CHECKING:
    from caddisfly.client.calls import Json

Image = Annotated[bool, typer.Option("--image", help="Also the image of each, for `caddis deploy --image`.")]
Limit = Annotated[int, typer.Option("--limit", min=1, max=200, help="How many at most.")]


def releases(app: App = "", image: Image = False, limit: Limit = 25, json: AsJson = False) -> None:
    """List an app's releases, newest first."""
    with target.client() as client:
        found = client.releases.list(target.app_name(app), limit=limit)
    if json:
        show.result(found)
        return
    now_ms = time.time() * 1000
    headers = ["VERSION", "STATUS", "DESCRIPTION", "USER", "DATE"] + ["IMAGE"] * image
    rows = [
        (
            f"v{release['version']}",
            release["status"],
            _description(release),
            (release.get("user") or {}).get("email", ""),
            f"{show.ago(milliseconds(release['created_at']), now_ms)} ago",
            *([release["image_ref"]] if image else []),
        )
        for release in found
    ]
    show.table(headers, rows)
    if found and found[0]["error"]:
        show.note(show.harmless(f"v{found[0]['version']} {found[0]['status']}: {found[0]['error']}"))


def _description(release: Json) -> str:
    return str(release["description"] or release["reason"] or release["strategy"].lower())
