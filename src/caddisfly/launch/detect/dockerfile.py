"""A project that brings its Dockerfile: nothing is written over, and what it says of ports and volumes is believed."""

from __future__ import annotations

import re

from caddisfly.launch.build import dockerfile as build
from caddisfly.launch.detect import compose
from caddisfly.launch.detect.findings import ENTRY, NAMED, Evidence, Framework, Recipe, evidence
from caddisfly.launch.detect.folder import Folder
from caddisfly.launch.detect.settings import Default, Service, mount, settings, web
from caddisfly.launch.detect.versions import Interpreters
from caddisfly.model.errors import InvalidArgument

NAME = "Dockerfile"
_PORT = 8080


def name(folder: Folder) -> str:
    """The one that a build would take, empty when there is none."""
    stack = compose.read(folder)
    chosen = stack.apps[0].dockerfile if stack and stack.apps else ""
    return folder.first(*filter(None, (folder.dockerfile, chosen)), NAME, "Containerfile")


def exposed(folder: Folder) -> int:
    """The first port that it exposes; 0 when it exposes none."""
    for instruction in _instructions(folder):
        if instruction.name == "EXPOSE":
            found = re.match(r"\d+", instruction.rest)
            number = int(found[0]) if found else 0
            if 0 < number < 65536:
                return number
    return 0


def _instructions(folder: Folder) -> tuple[build.Instruction, ...]:
    """Raises `InvalidArgument` for a Dockerfile that cannot be read: there is no app without it."""
    own = name(folder)
    if not own:
        return ()
    return build.read(folder.text(own).encode(errors="surrogateescape"), name=own).instructions


def _look(folder: Folder) -> tuple[Evidence, ...]:
    stack = compose.read(folder)
    own = name(folder)
    file = stack.file if stack else ""
    images_only = stack is not None and stack.images and not (stack.apps or stack.elsewhere)
    return evidence(
        (own, own, NAMED),
        (own and stack and stack.apps, f"what to build in {file}", ENTRY),
        (not own and images_only, f"images in {file}", ENTRY),
    )


def _cook(folder: Folder, local: Interpreters) -> Recipe:
    own = name(folder)
    stack = compose.read(folder)
    if not own:
        return _of_image(folder, stack)
    port = exposed(folder)
    parts: list[Default | Service] = []
    if own != NAME:
        parts.append(Default(("build", "dockerfile"), own, f"the folder's Dockerfile is called {own}"))
    parts += web(port or _PORT, f"{own} exposes it" if port else f"{own} exposes none; {_PORT} is what most listen on")
    parts += _volumes(folder, own)
    notes = [] if port else [f"the app must listen on 0.0.0.0:{_PORT}; say EXPOSE in {own} if it is another port"]
    return Recipe(runtime="Dockerfile", settings=settings(parts), notes=tuple(notes))


def _of_image(folder: Folder, stack: compose.Stack | None) -> Recipe:
    if stack is None or stack.main is None or not stack.main.image:
        raise InvalidArgument(
            f"there is no Dockerfile in {folder.root}",
            next="add one, or leave --framework out to have one made",
        )
    main = stack.main
    port = compose.ports(main)
    parts: list[Default | Service] = [
        Default(("build", "image"), main.image, f"service {main.name} of {stack.file} runs it")
    ]
    if port:
        parts += web(port, f"{main.name} of {stack.file} publishes it")
    return Recipe(runtime="image", settings=settings(parts))


def _volumes(folder: Folder, own: str) -> list[Default]:
    """Fly's rule: the volume is named after the last part of the path. An app has one."""
    for instruction in _instructions(folder):
        if instruction.name == "VOLUME":
            for path in instruction.words("\\"):
                source = re.sub(r"[^a-z0-9_]", "_", path.rstrip("/").rpartition("/")[2].lower())
                if path.startswith("/") and source:
                    return [mount(source, path, f"VOLUME {path} of {own}: kept when the Machine is replaced")]
    return []


FRAMEWORK = Framework("dockerfile", "Dockerfile", _look, _cook)
