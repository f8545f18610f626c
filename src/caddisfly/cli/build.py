"""`caddis build`: an image from a folder, on the platform or by a builder of this computer."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from caddisfly.cli import build_flags, show
from caddisfly.cli.build_flags import Order
from caddisfly.cli.config import Config, Environment, Lenient
from caddisfly.cli.target import App, AsJson


@build_flags.taken
def build(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder. Default: this one.")] = Path("."),
    app: App = "",
    config: Config = "",
    env: Environment = "",
    lenient: Lenient = False,
    order: Order = build_flags.UNSAID,
    push: Annotated[
        bool, typer.Option("--push", help="With --local-only: push the image to the platform's registry.")
    ] = False,
    json: AsJson = False,
) -> None:
    """Build an image from a folder."""
    from caddisfly.launch.build import display, image

    toml, section = build_flags.fly_toml(directory, config, env, lenient=lenient)
    prepared = order.prepare((Path.cwd() / directory).resolve(), section)
    if prepared.recipe.image:
        show.note("There is nothing to build: [build] in fly.toml names an image")
        made = image.Made(image=prepared.recipe.image)
    else:
        with display.choose(sys.stderr) as shown:
            made = order.make(prepared, shown, app=app or os.environ.get("FLY_APP", "") or toml.app, push=push)
    if json:
        show.result({"image": made.image, "digest": made.digest, "build": made.build})
        return
    show.pairs({"image": made.image, **({"digest": made.digest} if made.digest else {})})
