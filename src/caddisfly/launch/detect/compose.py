"""A Compose file tells what an app is made of: what is built, what it is told, and which databases stand beside it.

It is no way to build anything, so it changes the recipe of what is built: the Dockerfile that it names, or the language
of the folder. Databases become services of the platform. What has no place in one app is said, key by key, and not
dropped in silence.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from caddisfly.launch.detect.folder import Folder, table
from caddisfly.launch.detect.settings import (
    Default,
    Service,
    Settings,
    as_command,
    env,
    mongodb,
    mount,
    mysql,
    postgres,
    process,
    redis,
)

NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
_DATABASES: tuple[tuple[str, Callable[[str], Service]], ...] = (
    (r"(postgres|postgis|timescaledb|pgvector)", postgres),
    (r"(mysql|mariadb|percona)", mysql),
    (r"(redis|valkey|keydb)", redis),
    (r"mongo", mongodb),
)
_CARRIED = frozenset(
    "build image command entrypoint environment ports expose volumes depends_on restart container_name networks links "
    "tty stdin_open healthcheck labels profiles init".split()
)
_SECRET = re.compile(r"PASSWORD|SECRET|TOKEN|_KEY$|_URL$|_URI$|_DSN$|CREDENTIAL", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Part:
    """One service of the file."""

    name: str
    image: str
    context: str
    dockerfile: str
    body: dict[str, Any] = field(repr=False)

    @property
    def built(self) -> bool:
        return bool(self.context)

    @property
    def database(self) -> Callable[[str], Service] | None:
        bare = re.sub(r"[:@].*", "", self.image).rpartition("/")[2]
        return next((make for pattern, make in _DATABASES if re.match(pattern, bare)), None)


@dataclass(frozen=True, slots=True)
class Stack:
    """The file, read. `apps` are built from this folder; the first of them is the one that is served."""

    file: str
    apps: tuple[Part, ...]
    elsewhere: tuple[Part, ...]
    """Built from another folder: apps of their own."""
    databases: tuple[Part, ...]
    images: tuple[Part, ...]
    """Images of others that are no database."""

    @property
    def main(self) -> Part | None:
        return (self.apps or self.images or (None,))[0]


def read(folder: Folder) -> Stack | None:
    """None when there is no Compose file with services."""
    file = folder.first(*NAMES)
    services = table(folder.yaml(file), "services") if file else {}
    parts = [_part(_scalar(name), body) for name, body in services.items() if isinstance(body, dict)]
    if not parts:
        return None
    apps = sorted((one for one in parts if one.built and one.context == "."), key=_rank)
    return Stack(
        file,
        tuple(apps),
        tuple(one for one in parts if one.built and one.context != "."),
        tuple(one for one in parts if not one.built and one.database),
        tuple(sorted((one for one in parts if not one.built and one.image and not one.database), key=_rank)),
    )


def over(settings: Settings, stack: Stack, *, dockerfile: bool) -> Settings:
    """The settings of what is built, in the surroundings that the file describes.

    With a `dockerfile` of the project, what the file tells it is carried over, too. Without one the image is of our own
    making, and a development server in the file must not replace the start that it was made for.
    """
    more: list[Default | Service] = []
    for part in stack.databases:
        if part.database:
            more.append(part.database(f"service {part.name} of {stack.file} runs {part.image}"))
    main = stack.main
    if main is not None:
        if dockerfile:
            more += _environment(main, stack)
        more += _volumes(main, stack)
        command = main.body.get("command")
        groups = [one for one in stack.apps if one is not main and one.body.get("command")]
        if command and dockerfile:
            more.append(process("app", _command(command), f"command of {main.name} in {stack.file}"))
        elif groups:
            more.append(process("app", "", f"{main.name} of {stack.file} runs what the image says"))
        for one in groups:
            more.append(process(one.name, _command(one.body["command"]), f"service {one.name} of {stack.file}"))
        port = ports(main)
        if port and settings.port is not None and dockerfile:
            why = f"{main.name} of {stack.file} listens there"
            more.append(Default(("http_service", "internal_port"), port, why))
    return settings.plus(*more)


def ports(part: Part) -> int:
    """The port inside of the container that it publishes first; 0 when it publishes none."""
    published, exposed = part.body.get("ports"), part.body.get("expose")
    for entry in [*(published if isinstance(published, list) else []), *(exposed if isinstance(exposed, list) else [])]:
        said = entry.get("target") if isinstance(entry, dict) else entry
        target = _scalar(said).partition("/")[0].rpartition(":")[2]
        if re.fullmatch(r"[0-9]{1,5}", target) and 0 < int(target) < 65536:
            return int(target)
    return 0


def notes(stack: Stack) -> Iterator[str]:
    """What of the file has no place in one app."""
    for part in stack.elsewhere:
        yield f"{stack.file}: {part.name} is built from {part.context}; launch it as an app of its own from there"
    main = stack.main
    for part in stack.images:
        if part is not main:
            yield f"{stack.file}: {part.name} runs {part.image}; launch it as an app of its own with --image"
    for part in (one for one in (*stack.apps, main) if one is not None):
        for key in sorted(set(part.body) - _CARRIED):
            yield f"{stack.file}: {key} of {part.name} is not carried over"
        if part.body.get("healthcheck"):
            yield f"{stack.file}: healthcheck of {part.name} runs a command inside; give http_service.checks a path"
        yield from _unset(part, stack)


def _unset(part: Part, stack: Stack) -> Iterator[str]:
    given = {name for one in stack.databases if one.database for name in one.database("").secrets}
    for name in _pairs(part.body.get("environment")):
        if _SECRET.search(name) and name not in given:
            yield f"{stack.file}: {name} of {part.name} looks like a secret; set it with: caddis secrets set {name}=..."


def _part(name: str, body: dict[str, Any]) -> Part:
    build = body.get("build")
    context = build if isinstance(build, str) else table(build).get("context", ".") if build else ""
    dockerfile = table(build).get("dockerfile", "") if isinstance(build, dict) else ""
    clean = re.sub(r"^\./", "", _scalar(context)).rstrip("/")
    return Part(name, _scalar(body.get("image")), clean or ("." if build else ""), _scalar(dockerfile), body)


def _rank(part: Part) -> tuple[bool, bool, str]:
    """What publishes a port is the app, and what is called like one."""
    return (not ports(part), part.name not in ("web", "app", "api", "server"), part.name)


def _command(command: object) -> str:
    return shlex.join(map(_scalar, command)) if isinstance(command, list) else as_command(_scalar(command))


def _pairs(environment: object) -> dict[str, str | None]:
    """A table, or a list of `NAME=value`."""
    if isinstance(environment, dict):
        return {
            _scalar(name): _scalar(value) if isinstance(value, str | int | float) else None
            for name, value in environment.items()
        }
    found: dict[str, str | None] = {}
    for entry in environment if isinstance(environment, list) else []:
        name, equals, value = _scalar(entry).partition("=")
        found[name] = value if equals else None
    return found


def _scalar(value: object) -> str:
    """As the file has it. What is no single value is empty: a few lines of aliases can stand for gigabytes of text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, str | int | float) else ""


def _environment(part: Part, stack: Stack) -> Iterator[Default]:
    """Without secrets, and without what names another service: there is no such name on the platform."""
    others = {one.name for one in (*stack.databases, *stack.images, *stack.apps, *stack.elsewhere)}
    for name, value in _pairs(part.body.get("environment")).items():
        told = value is not None and "${" not in value and value not in others
        if value is not None and told and not _SECRET.search(name):
            yield env(name, value, f"environment of {part.name} in {stack.file}")


def _volumes(part: Part, stack: Stack) -> Iterator[Default]:
    """The first named volume. Folders of the host are for development."""
    volumes = part.body.get("volumes")
    for entry in volumes if isinstance(volumes, list) else []:
        if isinstance(entry, dict):
            source, target = _scalar(entry.get("source")), _scalar(entry.get("target"))
        else:
            source, _, target = _scalar(entry).partition(":")
        if re.fullmatch(r"[A-Za-z0-9][\w-]*", source) and target.startswith("/"):
            name = re.sub(r"[^a-z0-9_]", "_", source.lower())
            yield mount(name, target.partition(":")[0], f"volume {source} of {part.name} in {stack.file}")
            return
