"""`caddis secrets …`: values that an app's Machines find in their environment, and nobody else anywhere.

A value that is typed on a command line is seen by who lists processes and kept by the shell, so `NAME=-` reads it from
standard input, and `import` reads many.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from caddisfly.cli import deploying, show, target
from caddisfly.cli.group import group
from caddisfly.cli.machine_update import followed
from caddisfly.cli.target import App, AsJson
from caddisfly.model.errors import InvalidArgument

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.client.calls import Json

_LEASE_S = 120

AllMachines = Annotated[
    bool, typer.Option("--all-machines", help="Also those that Launch did not make, where there are both.")
]
Stage = Annotated[bool, typer.Option("--stage", help="Only keep them: Machines get them with the next update.")]


def build() -> typer.Typer:
    secrets = group("Secrets of an app.")
    secrets.command("list")(list_)
    secrets.command("set")(set_)
    secrets.command()(unset)
    secrets.command("import")(import_)
    secrets.command()(deploy)
    return secrets


def list_(app: App = "", json: AsJson = False) -> None:
    """List an app's secrets, without their values."""
    with target.client() as client:
        found = client.secrets.list(target.app_name(app))
    if json:
        show.result(found)
        return
    show.table(
        ("NAME", "DIGEST", "UPDATED"), [(secret["name"], secret["digest"], secret["updated_at"]) for secret in found]
    )


def set_(
    values: Annotated[list[str], typer.Argument(metavar="NAME=VALUE...", help="- as the value reads standard input.")],
    app: App = "",
    stage: Stage = False,
    all_machines: AllMachines = False,
) -> None:
    """Set secrets, and give them to the Machines, one after the other."""
    changes: dict[str, str | None] = {**said(values, "argument", next="caddis secrets set NAME=VALUE")}
    _change(app, changes, stage=stage, everywhere=all_machines)


def unset(
    names: Annotated[list[str], typer.Argument(metavar="NAME...")],
    app: App = "",
    stage: Stage = False,
    all_machines: AllMachines = False,
) -> None:
    """Remove secrets, from the Machines too."""
    _change(app, dict.fromkeys(names), stage=stage, everywhere=all_machines)


def import_(app: App = "", stage: Stage = False, all_machines: AllMachines = False) -> None:
    """Set secrets from lines of NAME=VALUE on standard input. A value of several lines stands in triple quotes."""
    changes = parse(sys.stdin.read())
    if not changes:
        raise InvalidArgument("nothing to import", why="standard input has no line NAME=VALUE")
    _change(app, dict(changes), stage=stage, everywhere=all_machines)


def deploy(app: App = "", all_machines: AllMachines = False) -> None:
    """Give the newest secrets to all Machines, one after the other."""
    name = target.app_name(app)
    with target.client() as client:
        _deploy(client, name, client.secrets.change(name, {}), everywhere=all_machines)


def said(values: Sequence[str], what: str, *, next: str) -> dict[str, str]:
    """`NAME=VALUE` words of a command line; the value - is read from standard input."""
    found = {}
    for number, entry in enumerate(values, 1):
        name, sign, value = entry.partition("=")
        if not sign:
            # The entry itself is not shown: it may be a value whose name was forgotten.
            raise InvalidArgument(f"{what} {number} is not NAME=VALUE", next=next)
        found[name] = sys.stdin.read().removesuffix("\n") if value == "-" else value
    return found


def parse(text: str) -> dict[str, str]:
    """Lines of NAME=VALUE; empty ones and comments are skipped. Raises `InvalidArgument` naming the line."""
    found: dict[str, str] = {}
    lines = iter(enumerate(text.splitlines(), 1))
    for number, line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        name, sign, value = line.removeprefix("export ").partition("=")
        if not sign:
            raise InvalidArgument(f"line {number} is not NAME=VALUE", next="write one secret on each line")
        value = value.strip()
        for quotes in ('"""', "'''"):
            if value.startswith(quotes):
                value = _until(quotes, value.removeprefix(quotes), lines, number)
                break
        else:
            if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
                value = value[1:-1]
        found[name.strip()] = value
    return found


def _until(quotes: str, value: str, lines: Iterator[tuple[int, str]], number: int) -> str:
    rest = [value]
    while not rest[-1].rstrip().endswith(quotes):
        following = next(lines, None)
        if following is None:
            raise InvalidArgument(
                f"the value that begins on line {number} does not end", next=f"close it with {quotes}"
            )
        rest.append(following[1])
    rest[-1] = rest[-1].rstrip().removesuffix(quotes)
    return "\n".join(rest)


def _change(app: str, changes: dict[str, str | None], *, stage: bool, everywhere: bool) -> None:
    name = target.app_name(app)
    with target.client() as client:
        version = client.secrets.change(name, changes)
        show.note(f"The secrets of {name} are at version {version}.")
        if stage:
            show.note(f"Machines get them with their next update, or by: caddis secrets deploy -a {name}")
        else:
            _deploy(client, name, version, everywhere=everywhere)


def _deploy(client: Client, app: str, version: int, *, everywhere: bool) -> None:
    """Machines of Launch as a release; others, one after the other, if there are only such or they are asked for."""
    from caddisfly.launch.config.running import managed

    launched = managed(client.machines.list(app))
    others = deploying.restart(app, description="Set secrets", min_secrets_version=version)
    if launched and others and not everywhere:
        show.note(f"{', '.join(others)} keep the secrets that they have: Launch did not make them (--all-machines)")
        return
    for id in others:
        with client.machines.lease(app, id, ttl_s=_LEASE_S, description="caddis secrets") as nonce:
            before = client.machines.get(app, id)
            after = _updated(client, app, before, version, nonce)
        followed(client, app, before, after, skip_start=False)
        show.line(f"{id} has the secrets of version {version}")


def _updated(client: Client, app: str, now: Json, version: int, nonce: str) -> Json:
    return client.machines.update(
        app,
        now["id"],
        now["config"],
        current_version=str(now.get("instance_id", "")),
        skip_service_registration=bool(now.get("cordoned")),
        min_secrets_version=version,
        nonce=nonce,
    )
