"""`caddis detect`: what launch would make of a folder. Nothing is written, and nobody is asked."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caddisfly.cli import show
from caddisfly.cli.target import AsJson

if TYPE_CHECKING:
    from caddisfly.launch.detect import Detection

Directory = Annotated[Path, typer.Argument(metavar="DIR", help="The folder with the source.")]
Framework = Annotated[str, typer.Option("--framework", help="Take this framework instead of what is found.")]


def detect(directory: Directory = Path("."), framework: Framework = "", as_json: AsJson = False) -> None:
    """Show which framework a folder holds, which files launch would write, and what fly.toml would hold."""
    from caddisfly.launch import detect as detection

    found = detection.detect(detection.opened(directory), framework=framework)
    if as_json:
        show.result(found.to_record())
        return
    _verdict(found)
    _settings(found)
    for change in found.changes:
        show.line()
        show.line(f"{'New file' if change.new else 'Change of'} {change.path}:")
        show.line(change.diff().rstrip("\n"))
    if not found.changes:
        show.line()
        show.line("No file would be written.")


def _verdict(found: Detection) -> None:
    recipe = found.recipe
    title = found.chosen.framework.title
    facts = {"Framework": f"{title} (named with --framework)" if found.forced else title}
    if found.chosen.evidence:
        facts["Evidence"] = found.chosen.reasons
    if recipe.version:
        facts["Version"] = f"{recipe.runtime} {recipe.version.value} ({recipe.version.origin})"
    if recipe.start:
        facts["Start"] = " ".join(recipe.start)
    show.pairs(facts)
    if found.tied:
        names = ", ".join(one.framework.title for one in found.tied)
        show.note(f"As much speaks for {names}: take one with --framework {found.tied[0].framework.name}")
    for one in (one for one in found.others if one not in found.tied and not one.framework.bare):
        show.note(f"Also possible: {one.framework.title} ({one.reasons})")
    for text in recipe.review:
        show.note(f"Look at this before the first deploy: {text}")
    for text in recipe.notes:
        show.note(f"Note: {text}")


def _settings(found: Detection) -> None:
    settings = found.recipe.settings
    show.line()
    show.line("fly.toml would hold:")
    for one in settings.defaults:
        show.line(f"  {'.'.join(one.path)} = {_value(one.value)}  # {one.why}")
    for secret in settings.secrets:
        origin = {"file": f"from {secret.file}", "given": "to be set by you"}.get(secret.source, "generated")
        show.line(f"  secret {secret.name}, {origin}  # {secret.why}")
    for service in settings.services:
        show.line(f"  needs {service.kind}, as {', '.join(service.secrets)}  # {service.why}")


def _value(value: Any) -> str:
    """As TOML writes it."""
    import json

    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {_value(member)}" for key, member in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_value(member) for member in value) + "]"
    return json.dumps(value, ensure_ascii=False)
