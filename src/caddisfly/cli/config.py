"""`caddis config …`: is this fly.toml right, what does it mean, does the app run it, what would it be."""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caddisfly.cli import show, target
from caddisfly.cli.group import group
from caddisfly.cli.target import App, AsJson
from caddisfly.model import differences
from caddisfly.model.errors import FailedPrecondition

if TYPE_CHECKING:
    from caddisfly.launch.config import AppConfig
    from caddisfly.launch.config.running import GroupComparison

Config = Annotated[str, typer.Option("--config", "-c", help="The file. Default: FLY_CONFIG, else fly.toml here.")]
Environment = Annotated[
    str, typer.Option("--env", metavar="NAME", help="Put fly.NAME.toml over it, as in --env staging.")
]
Lenient = Annotated[bool, typer.Option("--lenient", help="Take what Fly's own tools would ignore.")]


def build() -> typer.Typer:
    app = group("The fly.toml of an app.")
    for command in (validate, show_, env, diff, save):
        app.command(command.__name__.rstrip("_"))(command)
    return app


def validate(config: Config = "", env: Environment = "", lenient: Lenient = False, json: AsJson = False) -> None:
    """Say everything that is wrong with a fly.toml. Asks no server."""
    from caddisfly.launch import config as launch

    files = launch.find(config, environment=env)
    if not json:
        show.line(f"Validating {' + '.join(map(str, files.all))}")
    try:
        app = launch.load(files, strict=not lenient)
    except launch.ConfigInvalid as invalid:
        if json:
            show.result({"valid": False, "findings": [finding.to_wire() for finding in invalid.findings]})
        else:
            _warn(finding for finding in invalid.findings if finding.warning)
            show.line(f"✘ {files.base.name} is not valid")
        raise
    if json:
        show.result({"valid": True, "findings": [finding.to_wire() for finding in app.warnings]})
        return
    _warn(app.warnings)
    show.line("✓ Configuration is valid")


def show_(config: Config = "", env: Environment = "", lenient: Lenient = False, json: AsJson = False) -> None:
    """Print what a fly.toml means: the config of each group's Machines, with every default that the file decides."""
    from caddisfly.launch.config.meaning import meaning

    app = _loaded(config, env, lenient=lenient)
    meant = meaning(app)
    if json:
        show.result(meant)
        return
    groups = meant.pop("groups")
    release = meant.pop("release_machine")
    for line in differences.between({}, meant):
        show.line(line.removeprefix("+ "))
    for name, parts in [*groups.items(), *([("release command", release)] if release else [])]:
        show.line(f"\n[{name}]")
        for line in differences.between({}, parts):
            show.line(line.removeprefix("+ "))


def env(config: Config = "", env: Environment = "", lenient: Lenient = False, json: AsJson = False) -> None:
    """Print the variables that each group gets from a fly.toml."""
    from caddisfly.launch.config import machine_config

    app = _loaded(config, env, lenient=lenient)
    groups = {name: machine_config(app, name)["env"] for name in app.groups.names}
    if json:
        show.result(groups)
        return
    rows = [(name, key, value) for name, pairs in groups.items() for key, value in sorted(pairs.items())]
    show.table(("GROUP", "NAME", "VALUE"), rows)


def diff(
    app: App = "",
    config: Config = "",
    env: Environment = "",
    lenient: Lenient = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when something differs.")] = False,
    json: AsJson = False,
) -> None:
    """Print how what the app's Machines run differs from what a fly.toml says. Images are not compared."""
    from caddisfly.launch.config import app_name, running

    wanted = _loaded(config, env, lenient=lenient)
    name = app_name(app, wanted.app)
    if wanted.app and name != wanted.app:
        show.note(f"{wanted.sources[-1]} is of app {wanted.app}; it is compared with {name}")
    with target.client() as client:
        found = running.compare(wanted, client.machines.list(name))
    if json:
        show.result([_wire(group) for group in found])
    else:
        for one in found:
            _show_group(one)
    if check and not all(one.same for one in found):
        raise typer.Exit(1)


def save(
    app: App = "",
    config: Config = "",
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Write a fly.toml from what the app's Machines run. Comments, order, build and deploy of a file stay."""
    from caddisfly.launch.config import app_name, locate, saving

    path = Path(config or os.environ.get(locate.VARIABLE, "") or locate.NAMES[0])
    path = path / locate.NAMES[0] if path.is_dir() else path
    before = saving.Present.read(path)
    name = app_name(app, before.app)
    locate.refuse_other(name, before.app, str(path))
    with target.client() as client:
        saved = saving.saved(before, name, client.machines.list(name))
    for note in saved.notes:
        show.note(f"Note: {note}")
    if saved.text == before.text:
        show.line(f"{path} says so already.")
        return
    for line in difflib.unified_diff(
        before.text.splitlines(), saved.text.splitlines(), str(path), str(path), "", "", 3, ""
    ):
        show.note(line)
    if before.text and not yes:
        typer.confirm(f"Change {path}?", abort=True, err=True)
    try:
        before.write(saved.text)
    except OSError as error:
        raise FailedPrecondition(f"{path} cannot be written", why=str(error)) from error
    show.line(f"Saved {path}")


def _loaded(config: str, environment: str, *, lenient: bool) -> AppConfig:
    from caddisfly.launch import config as launch

    app = launch.find_and_load(config, environment=environment, strict=not lenient)
    _warn(app.warnings)
    return app


def _warn(findings: Any) -> None:
    for finding in findings:
        show.note(f"Warning: {finding}")


def _show_group(found: GroupComparison) -> None:
    count = len(found.machines)
    wanted = "" if found.wanted_count in (None, count) else f", wanted {found.wanted_count}"
    show.line(f"{found.group}: {count} Machine{'' if count == 1 else 's'}{wanted}")
    if not found.in_file:
        show.line("  not in the file: a deploy destroys them")
    elif not count and found.wanted_count != 0:
        show.line("  a deploy makes them")
    for machine in found.machines if found.in_file else ():
        lines = differences.between(machine.running, machine.wanted)
        unknown = "" if machine.known else ", as last heard: its host does not answer"
        show.line(f"  {machine.id} ({machine.region}, {machine.state}{unknown}){'' if lines else ': the same'}")
        for line in lines:
            show.line(f"    {line}")


def _wire(found: GroupComparison) -> dict[str, Any]:
    return {
        "group": found.group,
        "in_file": found.in_file,
        "count": len(found.machines),
        "wanted_count": found.wanted_count,
        "machines": [
            {
                "id": machine.id,
                "state": machine.state,
                "region": machine.region,
                "host_known": machine.known,
                "changes": differences.between(machine.running, machine.wanted) if found.in_file else [],
            }
            for machine in found.machines
        ],
    }
