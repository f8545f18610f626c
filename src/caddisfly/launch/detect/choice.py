"""From a folder to one answer: every framework looks, the best one cooks, and what the project says itself goes on top.

Fly takes the first scanner that matches. Here all of them look and the sum of their points decides, so that a Django
project with a package.json for its style sheets is a Django project, whatever stands first in a list.

A Dockerfile of the project is always used as it is. A rich framework beside it still says what a Dockerfile cannot:
which secrets, which database, what to run before a release. Naming a framework asks for a new Dockerfile, as a diff.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from caddisfly.launch.build.dockerfile import meant
from caddisfly.launch.detect import compose, dockerfile, ignores, procfile
from caddisfly.launch.detect.catalog import CATALOG
from caddisfly.launch.detect.changes import Change
from caddisfly.launch.detect.findings import Candidate, File, Framework, Recipe
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import Settings
from caddisfly.launch.detect.versions import Interpreters
from caddisfly.model.errors import FailedPrecondition, InvalidArgument

_SHOWN = 6
_OF_OUR_IMAGE = (("statics",), ("processes",), ("build", "args"), ("console_command",), ("kill_signal",))
"""What only holds in an image that we have written."""


@dataclass(frozen=True, slots=True)
class Detection:
    """`others` also fit, best first; those of `tied` fit as well as the chosen one."""

    folder: Folder
    chosen: Candidate
    recipe: Recipe
    changes: tuple[Change, ...]
    others: tuple[Candidate, ...] = ()
    forced: bool = False

    @property
    def tied(self) -> tuple[Candidate, ...]:
        if self.forced:
            return ()
        return tuple(one for one in self.others if one.score == self.chosen.score)

    def to_record(self) -> dict[str, Any]:
        version = self.recipe.version
        return {
            "framework": self.chosen.framework.name,
            "title": self.chosen.framework.title,
            "forced": self.forced,
            "score": self.chosen.score,
            "evidence": [one.text for one in self.chosen.evidence],
            "others": [{"framework": one.framework.name, "score": one.score} for one in self.others],
            "tied": [one.framework.name for one in self.tied],
            "runtime": self.recipe.runtime,
            "version": version.value if version else "",
            "version_from": version.origin if version else "",
            "start": list(self.recipe.start),
            "fly_toml": self.recipe.settings.document(),
            "reasons": [one.to_record() for one in self.recipe.settings.defaults],
            "secrets": [one.to_record() for one in self.recipe.settings.secrets],
            "services": [one.to_record() for one in self.recipe.settings.services],
            "files": [change.to_record() for change in self.changes],
            "review": list(self.recipe.review),
            "notes": list(self.recipe.notes),
        }


def detect(folder: Folder, *, framework: str = "", local: Interpreters | None = None) -> Detection:
    """Raises `InvalidArgument` for a framework that nobody knows, `FailedPrecondition` when nothing fits."""
    local = local or Interpreters(outside=folder.root)
    found = look(folder)
    if framework:
        wanted = named(framework)
        chosen = next((one for one in found if one.framework is wanted), Candidate(wanted, ()))
    elif found:
        chosen = found[0]
    else:
        raise nothing(folder)
    others = tuple(one for one in found if one is not chosen)
    own = dockerfile.name(folder)
    recipe = chosen.framework.cook(folder, local)
    if own and not framework and chosen.framework is not dockerfile.FRAMEWORK:
        recipe = _beside(folder, recipe, local)
    recipe = _as_the_project_says(folder, recipe)
    recipe, changes = _written(folder, recipe)
    recipe = replace(recipe, notes=(*recipe.notes, *folder.doubts))
    return Detection(folder, chosen, recipe, changes, others, forced=bool(framework))


def look(folder: Folder) -> list[Candidate]:
    """All that fit, best first; equals in the order of the catalog."""
    own = dockerfile.name(folder)
    found = []
    for framework in CATALOG:
        seen = framework.look(folder)
        if seen and (not own or framework.rich or framework is dockerfile.FRAMEWORK):
            found.append(Candidate(framework, seen))
    return sorted(found, key=lambda one: -one.score)


def named(name: str) -> Framework:
    known = {one.name: one for one in CATALOG}
    wanted = name.strip().lower()
    if wanted in known:
        return known[wanted]
    near = meant(wanted, known)
    raise InvalidArgument(
        f"there is no framework '{name}'",
        why=f"known are {', '.join(sorted(known))}",
        next=f"did you mean {near}?" if near else "use one of these, or bring a Dockerfile",
    )


def nothing(folder: Folder) -> FailedPrecondition:
    """The answer for a folder that says nothing: what is in it, and what would help."""
    names = sorted(name for name in folder.names() if not name.startswith("."))
    shown = ", ".join(names[:_SHOWN]) + (f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else "")
    why = f"it holds {shown}, and none of that tells how to build or run it" if names else "there is nothing in it"
    if folder.doubts:
        why += "\n" + "\n".join(folder.doubts)
    below = []
    for name in folder.directories:
        found = look(Folder(folder.root / name))
        if found:
            own = found[0].framework is dockerfile.FRAMEWORK
            below.append(f"{name}/ has a Dockerfile" if own else f"{name}/ looks like {found[0].framework.title}")
    return FailedPrecondition(
        f"no app found in {folder.root}",
        why=why,
        next=f"{'; '.join(below)}: name that directory"
        if below
        else "add a Dockerfile, name a --framework, or deploy an image with --image",
    )


def _beside(folder: Folder, recipe: Recipe, local: Interpreters) -> Recipe:
    """A framework's settings with the project's own Dockerfile. Paths in the image are the Dockerfile's matter."""
    mine = dockerfile.FRAMEWORK.cook(folder, local)
    settings = recipe.settings.without(*_OF_OUR_IMAGE)
    kept = [one for one in mine.settings.defaults if one.path[0] in ("build", "mounts")]
    port = dockerfile.exposed(folder)
    if port and settings.port is not None:
        kept += [one for one in mine.settings.defaults if one.path == ("http_service", "internal_port")]
        if settings.get("env", "PORT"):
            kept.append(replace(next(one for one in settings.defaults if one.path == ("env", "PORT")), value=str(port)))
    note = f"{dockerfile.name(folder)} is used as it is; name a --framework to see a new one as a diff"
    release = settings.get("deploy", "release_command")
    notes = [note]
    if not port and settings.port is not None:
        notes.append(f"the app must listen on 0.0.0.0:{settings.port}; say EXPOSE in it if it is another port")
    if release:
        notes.append(f"`{release}` runs before each deploy, in your image: it must find what it needs there")
    return replace(
        mine,
        version=recipe.version,
        runtime=recipe.runtime,
        settings=settings.plus(*kept),
        notes=tuple(notes),
    )


def _as_the_project_says(folder: Folder, recipe: Recipe) -> Recipe:
    settings: Settings = recipe.settings
    notes = list(recipe.notes)
    stack = compose.read(folder)
    if stack is not None:
        settings = compose.over(settings, stack, dockerfile=not recipe.start)
        notes += dict.fromkeys(compose.notes(stack))
    commands = procfile.lines(folder)
    if commands:
        settings = procfile.over(settings, commands)
    return replace(recipe, settings=settings, notes=tuple(notes))


def _written(folder: Folder, recipe: Recipe) -> tuple[Recipe, tuple[Change, ...]]:
    """What would change in the folder. An ignore file that is there stays, and is checked against what is copied.

    A project with its own Dockerfile gets no ignore file: what it copies may be what its .gitignore leaves out.
    """
    files = list(recipe.files)
    notes = list(recipe.notes)
    built = next((file.content for file in files if file.path == dockerfile.NAME), "")
    if built and folder.content(ignores.NAME) is None:
        files.append(File(ignores.NAME, ignores.content(folder, built, recipe.ignored)))
    elif built:
        for path in ignores.hidden(folder, built):
            notes.append(f".dockerignore leaves out {path}, which the Dockerfile copies: add !{path} to it")
    changes = tuple(
        Change(file.path, before, file.content, file.executable)
        for file in files
        if (before := folder.content(file.path)) != file.content
    )
    return replace(recipe, notes=tuple(notes)), changes
