"""What is to run: an image, a Dockerfile, what `[build]` of a fly.toml says, or what detection finds in the folder.

With a fly.toml that is kept, detection still says which files are missing and which secrets and databases the source
asks for; its settings are passed over, because the file has its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from caddisfly.launch.config import AppConfig
from caddisfly.launch.detect import Change, Detection, Folder, Interpreters, Settings, detect, ignores, opened
from caddisfly.launch.detect.settings import settings, web
from caddisfly.launch.plan.values import GIVEN, Value
from caddisfly.launch.plan.wishes import Wishes

_USUAL_PORT = 8080
_IN_FILE = "[build] of your fly.toml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """`title` names it for people. `framework` is detection's, empty where nothing was detected.

    `again`: it was found by a launch that did not come to its end. `ignored` is a `.dockerignore` for a Dockerfile that
    is not ours and has none: to be agreed to.
    """

    title: Value[str]
    framework: str = ""
    again: bool = False
    settings: Settings = field(default_factory=Settings)
    changes: tuple[Change, ...] = ()
    review: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    ignored: Change | None = None


def found(
    directory: Path,
    wishes: Wishes,
    kept: AppConfig | None,
    *,
    again: str = "",
    local: Interpreters | None = None,
) -> Source:
    """`again` is the framework that a launch which did not come to its end has found.

    Raises `FailedPrecondition` for a folder that says nothing, with what would help.
    """
    if wishes.image:
        return _unseen(f"image {wishes.image}")
    dockerfile = wishes.dockerfile or (kept.build.dockerfile if kept else "")
    if wishes.dockerfile and not _within(directory, wishes.dockerfile):
        return _unseen(f"Dockerfile {wishes.dockerfile}")
    if kept and not (wishes.dockerfile or wishes.framework):
        if kept.build.image:
            return Source(title=Value(f"image {kept.build.image}", _IN_FILE))
        if kept.build.builder or kept.build.buildpacks or kept.build.builtin:
            return Source(title=Value("buildpacks", _IN_FILE))
        if kept.build.dockerfile and not _within(directory, kept.build.dockerfile):
            return Source(title=Value(f"Dockerfile {kept.build.dockerfile}", _IN_FILE))
    folder = opened(directory)
    folder.dockerfile = dockerfile
    one = detect(folder, framework=wishes.framework or again, local=local)
    tied = (
        f"as much speaks for {other.framework.title}; take it with --framework {other.framework.name}"
        for other in one.tied
    )
    return Source(
        title=Value(one.chosen.framework.title, _why(one, wishes, again)),
        framework=one.chosen.framework.name,
        again=bool(again),
        settings=one.recipe.settings,
        changes=one.changes,
        review=one.recipe.review,
        notes=(*tied, *one.recipe.notes),
        ignored=_ignored(folder, one, dockerfile),
    )


def _unseen(title: str) -> Source:
    """What cannot be looked into."""
    port = web(_USUAL_PORT, "what most listen on; --internal-port says another")
    return Source(title=Value(title, GIVEN), settings=settings(port))


def _within(directory: Path, dockerfile: str) -> bool:
    """A URL and a path that leads out of the folder are not."""
    return "://" not in dockerfile and (directory / dockerfile).resolve().is_relative_to(directory.resolve())


def _why(one: Detection, wishes: Wishes, again: str) -> str:
    if wishes.framework or wishes.dockerfile:
        return GIVEN
    return "as the launch before this one found" if again else one.chosen.reasons


def _ignored(folder: Folder, one: Detection, dockerfile: str) -> Change | None:
    written = any(change.path == ignores.NAME for change in one.changes)
    if written or folder.content(ignores.NAME) is not None or not folder.text(".gitignore").strip():
        return None
    text = folder.text(dockerfile or folder.first("Dockerfile", "Containerfile"))
    return Change(ignores.NAME, None, ignores.content(folder, text, ()))
