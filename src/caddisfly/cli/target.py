"""What a command is about: which platform, which app, which Machine."""

from __future__ import annotations

import os
import tomllib
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound

if TYPE_CHECKING:
    from caddisfly.client import AsyncClient, Client
    from caddisfly.client.calls import Json

Result = TypeVar("Result")

App = Annotated[
    str, typer.Option("--app", "-a", help="Name of the app. Default: FLY_APP, else `app` of the fly.toml here.")
]
AsJson = Annotated[bool, typer.Option("--json", "-j", help="Print JSON.")]
MachineId = Annotated[str, typer.Argument(metavar="ID", help="Id of the Machine.")]
MachineIds = Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of Machines.")]


def client() -> Client:
    """For the account that is logged in. Raises `Unauthenticated`."""
    from caddisfly.cli import account
    from caddisfly.client import Client

    known = account.load().needed()
    return Client(known.api_url, token=known.token)


def machines(client: Client, app: str) -> list[Json]:
    """An app's, by id, without those that are gone or about to be."""
    found = (one for one in client.machines.list(app) if one["state"] not in ("destroyed", "destroying"))
    return sorted(found, key=lambda one: str(one["id"]))


def at_once(act: Callable[[AsyncClient], Coroutine[Any, Any, Result]]) -> Result:
    """Run what is done to many Machines at once, with a client for it."""
    import asyncio

    from caddisfly.cli import account
    from caddisfly.client import AsyncClient

    known = account.load().needed()

    async def run() -> Result:
        async with AsyncClient(known.api_url, token=known.token) as client:
            return await act(client)

    return asyncio.run(run())


def app_of_directory(directory: Path | None = None) -> str:
    """`FLY_APP`, else `app` of the config file here or of FLY_CONFIG; empty when nothing says.

    Raises `FailedPrecondition` for a file that is broken, `NotFound` for one that is named and missing.
    """
    if name := os.environ.get("FLY_APP"):
        return name
    here = directory or Path.cwd()
    if os.environ.get("FLY_CONFIG") or any((here / other).is_file() for other in ("fly.json", "fly.yaml")):
        return _app_of_config(here)
    path = here / "fly.toml"
    try:
        found = tomllib.loads(path.read_text()).get("app", "")
    except FileNotFoundError:
        return ""
    except (OSError, ValueError) as error:
        raise FailedPrecondition(f"{path} cannot be read", why=str(error), next="correct it, or name --app") from error
    return found if isinstance(found, str) else ""


def _app_of_config(directory: Path) -> str:
    """By Launch's own rules, which take longer to import than most commands to run."""
    from caddisfly.launch.config import document, locate

    app = document.read(locate.find(directory=directory).base).members.get("app")
    return app.value if app is not None and isinstance(app.value, str) else ""


def app_name(given: str) -> str:
    """The app this command is about. Raises `InvalidArgument` when nothing says."""
    name = given or app_of_directory()
    if not name:
        raise InvalidArgument(
            "which app?", why="there is no --app and no fly.toml here", next="add -a APP; `caddis apps list` lists them"
        )
    return name


def machine(client: Client, app: str, id: str) -> tuple[str, Json]:
    """The Machine and its app's name. Without an app, every app of the account is asked. Raises `NotFound`."""
    from caddisfly.client import NotFoundError

    name = app or app_of_directory()
    names = [name] if name else [found["name"] for found in client.apps.list()]
    for candidate in names:
        try:
            return candidate, client.machines.get(candidate, id)
        except NotFoundError:
            continue
    where = f"app {name}" if name else "any app of yours"
    raise NotFound(f"no Machine {id} in {where}", next=f"caddis machine list -a {name or 'APP'}")
