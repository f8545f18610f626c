"""Carrying a deploy out, for every command that is one: `deploy`, `launch`, `rollback` and the change of a secret.

Exit codes are Fly's: 0 done, 1 failed, 126 out of time, 127 interrupted (reference fly-launch, 2.11); 2 wrong usage.
"""

from __future__ import annotations

import json as encoder
import os
import signal
import sys
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import typer

import caddisfly
from caddisfly.cli import show, target
from caddisfly.model.errors import FailedPrecondition

if TYPE_CHECKING:
    from caddisfly.client import AsyncClient
    from caddisfly.launch.deploy.deployment import Order, Outcome

OUT_OF_TIME, INTERRUPTED = 126, 127
_T = TypeVar("_T")


def carry_out(order: Order) -> Outcome:
    """Say what will happen, then do it. Raises what `deployment.deploy` raises."""
    from caddisfly.launch.deploy import deployment, describe, progress

    async def work(client: AsyncClient) -> Outcome:
        found = await deployment.look(client, order)
        with progress.choose(sys.stderr) as shown:
            for line in describe.lines(found.plan, image=order.image, files=order.config.sources):
                shown.say(line)
            outcome: Outcome = await deployment.deploy(client, order, found, shown)
            return outcome

    return run(work)


def restart(app: str, *, description: str, min_secrets_version: int = 0) -> list[str]:
    """Start an app's Machines anew as a release of its own, with the config that they have.

    Returns the ids of those that Launch does not manage, which are left alone.
    """
    from caddisfly.launch.config import AppConfig
    from caddisfly.launch.deploy import deployment, past, progress
    from caddisfly.launch.deploy.deployment import Order
    from caddisfly.launch.deploy.options import Options

    async def work(client: AsyncClient) -> list[str]:
        now = await past.current(client, app)
        config = now.config if now else AppConfig(app=app)
        strategy = "rolling" if config.deploy.strategy in ("canary", "bluegreen") else config.deploy.strategy
        order = Order(
            app=app,
            config=config,
            description=description,
            by=f"caddis: {description}",
            version=caddisfly.__version__,
            options=Options(
                strategy=strategy,
                max_unavailable=config.deploy.max_unavailable,
                wait_timeout_s=config.deploy.wait_timeout.seconds,
                restart_only=True,
                min_secrets_version=min_secrets_version,
            ),
        )
        found = await deployment.look(client, order)
        if found.plan.updates:
            with progress.choose(sys.stderr) as shown:
                outcome = await deployment.deploy(client, order, found, shown)
            show.note(f"Release v{outcome.version} of {app} is complete")
        return list(found.plan.skipped)

    return run(work)


def run(work: Callable[[AsyncClient], Awaitable[_T]]) -> _T:
    """With a client, on a loop of its own, where SIGTERM is as Ctrl-C. Leaves with Fly's exit code when it failed."""
    import asyncio

    from caddisfly.cli import account
    from caddisfly.client import AsyncClient
    from caddisfly.launch.deploy.deployment import Interrupted
    from caddisfly.launch.deploy.watch import Slow

    known = account.load().needed()

    async def main() -> _T:
        task = asyncio.current_task()
        if task is not None:
            asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        async with AsyncClient(known.api_url, token=known.token) as client:
            return await work(client)

    try:
        return asyncio.run(main())
    except Interrupted as stop:
        show.error(stop.what, why=stop.why, next=stop.next)
        raise typer.Exit(INTERRUPTED) from stop
    except KeyboardInterrupt:
        show.error("interrupted", why="what was under way is left as it is", next="deploy again: it goes on from there")
        raise typer.Exit(INTERRUPTED) from None
    except Exception as error:
        if isinstance(error.__cause__, Slow) or isinstance(error, Slow):
            show.error(
                getattr(error, "what", str(error)), why=getattr(error, "why", ""), next=getattr(error, "next", "")
            )
            raise typer.Exit(OUT_OF_TIME) from error
        raise


def finish(outcome: Outcome, order: Order, *, json: bool) -> None:
    """Print the result. `FLY_EMIT_RELEASE_JSON=1` is flyctl's way to have one line of JSON."""
    release = {"id": outcome.release, "version": outcome.version, "image_ref": outcome.image}
    if os.environ.get("FLY_EMIT_RELEASE_JSON") == "1":
        show.line(encoder.dumps(release))
        return
    url = _url(order.app, outcome)
    if json:
        machines = [{name: one.get(name) for name in ("id", "state", "region")} for one in outcome.machines]
        show.result({"app": order.app, "release": release, "machines": machines, "url": url})
        return
    show.line(f"Release v{outcome.version} of {order.app} is complete: {outcome.image}")
    if url:
        show.line(f"Visit your newly deployed app at {url}")


def _url(app: str, outcome: Outcome) -> str:
    """Where it is opened; empty when it is not, or nobody knows."""
    from caddisfly.cli import opening
    from caddisfly.client import ApiError

    try:
        with target.client() as client:
            found = client.apps.get(app)
        return opening.address(found, [dict(one) for one in outcome.machines])
    except (FailedPrecondition, ApiError):  # the deploy is done all the same
        return ""
