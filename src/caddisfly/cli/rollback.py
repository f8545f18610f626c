"""`caddis rollback`: the image and the config of an earlier release, on all Machines, as a release of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

import caddisfly
from caddisfly.cli import deploy, deploying, show, target
from caddisfly.cli.deploy import Strategy, WaitTimeout
from caddisfly.cli.target import App, AsJson
from caddisfly.model.errors import InvalidArgument

if TYPE_CHECKING:
    from caddisfly.client import AsyncClient
    from caddisfly.launch.deploy.past import Past


def rollback(
    version: Annotated[
        str, typer.Argument(metavar="[VERSION]", help="As 7 or v7. Default: the good one before the newest.")
    ] = "",
    app: App = "",
    strategy: Strategy = "",
    wait_timeout: WaitTimeout = "",
    json: AsJson = False,
) -> None:
    """Go back to an earlier release: its image and its config. Secrets stay as they are now."""
    from caddisfly.launch.deploy import past
    from caddisfly.launch.deploy.deployment import Order
    from caddisfly.launch.deploy.options import Options

    name, number = target.app_name(app), _number(version)

    async def find(client: AsyncClient) -> Past:
        return await past.before(client, name, number)

    found = deploying.run(find)
    show.note(f"Going back to v{found.version} of {name}. Secrets stay as they are; no release command is run.")
    config = deploy.with_flags(found.config, {}, "", strategy or "rolling")
    order = Order(
        app=name,
        config=config,
        image=found.image,
        description=f"Rollback to v{found.version}",
        by="caddis rollback",
        version=caddisfly.__version__,
        options=Options(
            strategy=strategy or "rolling",
            max_unavailable=config.deploy.max_unavailable,
            wait_timeout_s=deploy.seconds(wait_timeout, "--wait-timeout", config.deploy.wait_timeout.seconds),
            skip_release_command=True,
            known_good=not strategy,
        ),
    )
    deploying.finish(deploying.carry_out(order), order, json=json)


def _number(given: str) -> int:
    text = given.removeprefix("v")
    if text and not text.isdecimal():
        raise InvalidArgument(f"{given!r} is not the number of a release", next="caddis releases shows them")
    return int(text or 0)
