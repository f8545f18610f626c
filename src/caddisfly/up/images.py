"""`caddis image`: what lies in this host's image store, brought, shown, checked and deleted.

The agent does the work and is asked over its Unix socket. A pull is one long call; how far it is is asked beside it, so
that a command that is interrupted leaves the pull going and a second one joins it.
"""

from __future__ import annotations

from collections.abc import Coroutine
from pathlib import Path
from typing import Annotated, Any

import typer

from caddisfly.cli import image as of_app
from caddisfly.cli import show, target
from caddisfly.cli.group import group
from caddisfly.up.options import Config, Json

_LOOK_EVERY_S = 0.2
_MIB = 1 << 20


def register(app: typer.Typer) -> None:
    image = group("Images: of an app's Machines, and of this host.")
    image.command("list")(list_)
    image.command("show")(show_)
    image.command("pull")(pull)
    image.command("import")(import_)
    image.command("rm")(rm)
    image.command("gc")(gc)
    image.command("verify")(verify)
    image.command("update")(of_app.update)
    app.add_typer(image, name="image")


def list_(config: Config = None, json: Json = False) -> None:
    """List the images of this host."""
    import time

    from caddisfly.bus import contract

    images = _ask(config, contract.LIST_IMAGES, contract.Nothing()).images
    if json:
        show.result(list(images))
        return
    now_ms = time.time() * 1000
    rows = [
        (
            image["name"],
            image["digest"][7:19],
            _size(image["size_bytes"]),
            _size(image["unpacked_bytes"]) if image["unpacked"] else "not unpacked",
            "a file" if image["imported"] else "a registry",
            show.ago(image["used_at"] * 1000, now_ms),
            "yes" if image["in_use"] else "",
        )
        for image in images
    ]
    show.table(("NAME", "DIGEST", "SIZE", "UNPACKED", "FROM", "LAST USED", "IN USE"), rows)


def show_(
    name: Annotated[str, typer.Argument(help="An image of this host.", show_default=False)] = "",
    app: target.App = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Show what an app's Machines run; or one image of this host: what it runs, its layers, which Machines have it."""
    if not name:
        of_app.show_(app, json=json)
        return
    from caddisfly.bus import contract

    record = _ask(config, contract.SHOW_IMAGE, contract.ImageName(name=name)).record
    if json:
        show.result(record)
        return
    of_image = record["config"]
    show.pairs(
        {
            "name": record["name"],
            "digest": record["digest"],
            "platform": f"linux/{of_image['architecture']}" if of_image["architecture"] else "linux",
            "entrypoint": " ".join(of_image["entrypoint"]),
            "command": " ".join(of_image["cmd"]),
            "user": of_image["user"] or "root",
            "directory": of_image["working_dir"] or "/",
            "ports": ", ".join(of_image["exposed_ports"]),
            "env": " ".join(of_image["env"]),
            "size": f"{_size(record['size_bytes'])} in {len(record['layers'])} layers",
            "Machines": ", ".join(record["machines"]) or "none",
        }
    )
    rows = [
        (layer["digest"], _size(layer["size"]), _size(layer["unpacked_bytes"]), layer["state"])
        for layer in record["layers"]
    ]
    show.table(("LAYER", "SIZE", "UNPACKED", "STATE"), rows)


def pull(
    name: Annotated[str, typer.Argument(help="Such as nginx:1.27 or ghcr.io/acme/web@sha256:….")],
    username: Annotated[
        str,
        typer.Option(help="User at the registry; the password comes from standard input. Default: as docker knows."),
    ] = "",
    anonymous: Annotated[bool, typer.Option("--anonymous", help="Use no credentials of this computer.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Bring an image here from its registry. It stays until it is removed, for all who may start Machines here.

    Credentials are those of docker's and podman's files and helpers on this computer. They are used once, not kept.
    """
    from caddisfly.bus import contract

    login = _login(name, username, anonymous=anonymous)
    reply = _watched(config, contract.PULL_IMAGE, contract.PullImage(name=name, login=login), name=name)
    if json:
        show.result(reply.model_dump())
    else:
        show.line(f"{reply.name}  {reply.digest}")


def import_(
    path: Annotated[Path, typer.Argument(help="OCI layout (directory or tar) or docker-archive.")],
    name: Annotated[str, typer.Argument(help="Name that Machines use, such as hello:latest.")],
    select: Annotated[str, typer.Option(help="Name inside the file, when it holds several images.")] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Put an image from a file into this host's store."""
    from caddisfly.bus import contract

    request = contract.ImportImage(path=str(path.resolve()), name=name, select=select)
    with show.waiting(f"Importing {path}"):
        reply = _ask(config, contract.IMPORT_IMAGE, request)
    if json:
        show.result(reply.model_dump())
    else:
        show.line(f"{reply.name}  {reply.digest}")


def rm(
    name: str,
    force: Annotated[bool, typer.Option("--force", help="Also when Machines have it.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Remove an image from this host."""
    from caddisfly.bus import contract

    _ask(config, contract.REMOVE_IMAGE, contract.RemoveImage(name=name, force=force))
    if json:
        show.result({"removed": name})
    else:
        show.line(f"removed {name}")


def gc(
    everything: Annotated[
        bool, typer.Option("--all", help="Also images with a tag that no Machine has, if a registry has them.")
    ] = False,
    check: Annotated[bool, typer.Option("--verify", help="Then check what is left, as `image verify` does.")] = False,
    config: Config = None,
    json: Json = False,
) -> None:
    """Delete what no Machine, running or stopped, and no name needs."""
    from caddisfly.bus import contract

    done = _ask(config, contract.COLLECT_IMAGES, contract.CollectImages(all_unused=everything))
    if json and not check:
        show.result(done.model_dump())
    elif not json:
        show.line(f"removed {done.images} images and {done.layers} layers, {_size(done.bytes)} freed")
    if check:
        verify(config=config, json=json)


def verify(
    name: Annotated[str, typer.Argument(help="One image. Default: everything in the store.")] = "",
    config: Config = None,
    json: Json = False,
) -> None:
    """Read images in full, and fetch again what is damaged. Ends with 1 when something could not be repaired."""
    from caddisfly.bus import contract

    with show.waiting("Reading"):
        found = _ask(config, contract.VERIFY_IMAGES, contract.VerifyImages(name=name))
    if json:
        show.result(found.model_dump())
    else:
        show.line(f"{found.layers} layers read, {len(found.damaged)} damaged, {len(found.repaired)} fetched again")
        for problem in found.problems:
            show.line(f"not repaired: {problem}")
    if found.problems or len(found.repaired) < len(found.damaged):
        raise typer.Exit(1)


def _login(name: str, username: str, *, anonymous: bool) -> Any:
    import sys

    from caddisfly.bus import contract
    from caddisfly.host.images.reference import Reference
    from caddisfly.launch.build import credentials

    if anonymous:
        return None
    if username:
        password = typer.prompt("Password", hide_input=True, err=True) if sys.stdin.isatty() else sys.stdin.readline()
        return contract.RegistryLogin(username=username, password=password.rstrip("\n"))
    reference = Reference.parse(name)
    found = credentials.find(reference.registry, reference.repository)
    if found is None:
        return None
    if found.identity_token:
        return contract.RegistryLogin(username="<token>", password=found.identity_token)
    return contract.RegistryLogin(username=found.user, password=found.password)


def _ask(config: Path | None, method: Any, request: Any) -> Any:
    import asyncio

    return asyncio.run(_caller(config).call(method, request))


def _watched(config: Path | None, method: Any, request: Any, *, name: str) -> Any:
    """A long call, with the layers of `name` shown while it lasts."""
    import asyncio

    caller = _caller(config)
    return asyncio.run(_follow(caller, caller.call(method, request), name))


async def _follow(caller: Any, work: Coroutine[Any, Any, Any], name: str) -> Any:
    import asyncio

    from caddisfly.bus import contract
    from caddisfly.model.errors import Problem
    from caddisfly.up.bars import Bars

    call = asyncio.create_task(work)
    with Bars(name) as bars:
        while not call.done():
            await asyncio.wait((call,), timeout=_LOOK_EVERY_S)
            try:
                progress = await caller.call(contract.WATCH_IMAGE, contract.ImageName(name=name))
            except Problem:
                continue  # how the pull itself ends is what counts
            bars.update(progress.layers, ended=call.done())
        return await call


def _caller(config: Path | None) -> Any:
    from caddisfly.bus.rpc import LocalCaller
    from caddisfly.up.settings import load

    return LocalCaller(load(config).host.socket)


def _size(count: int) -> str:
    return f"{count / _MIB:.1f} MiB" if count >= _MIB else f"{count / 1024:.1f} KiB"
