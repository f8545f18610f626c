"""The flags that say how an image is built, shared by `build`, `deploy` and `launch`, and what they mean together.

Typer knows a command by its parameters and has no way to share some of them. `taken` puts them there.
"""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caddisfly.cli import target
from caddisfly.model.errors import InvalidArgument

if TYPE_CHECKING:
    from caddisfly.client import Client
    from caddisfly.launch.build.display import Display
    from caddisfly.launch.build.image import Extras, Made, Prepared
    from caddisfly.launch.build.recipe import Wishes
    from caddisfly.launch.build.remote import RegistryPlace

Dockerfile = Annotated[str, typer.Option("--dockerfile", help="Path or URL of the Dockerfile.")]
Ignorefile = Annotated[str, typer.Option("--ignorefile", help="Instead of .dockerignore.")]
BuildTarget = Annotated[str, typer.Option("--build-target", help="Stage of the Dockerfile to build.")]
BuildArg = Annotated[list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="Can be repeated.")]
BuildSecret = Annotated[
    list[str] | None,
    typer.Option(
        "--build-secret",
        metavar="NAME[=VALUE]",
        help="For RUN --mount=type=secret,id=NAME. Without a value: that of the environment variable NAME.",
    ),
]
Label = Annotated[
    list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Of the image. Can be repeated.")
]
Tag = Annotated[str, typer.Option("--tag", "--image-label", help="Of the image. Default: a new one.")]
NoCache = Annotated[bool, typer.Option("--no-cache", help="Run every step again.")]
LocalOnly = Annotated[bool, typer.Option("--local-only", help="Build here, with docker, podman or buildah.")]
WarnSize = Annotated[
    str,
    typer.Option(
        envvar=["CADDIS_BUILD_CONTEXT_WARN_SIZE", "FLY_BUILD_CONTEXT_WARN_SIZE"],
        help="Warn above this size, such as 100MB.",
    ),
]
WARN_SIZE = "100MB"
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", re.IGNORECASE)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_UNITS = {"": 10**6, "k": 10**3, "m": 10**6, "g": 10**9}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What the flags of a build say, as they were typed."""

    dockerfile: str = ""
    ignorefile: str = ""
    target: str = ""
    args: Sequence[str] = ()
    secrets: Sequence[str] = field(default=(), repr=False)
    labels: Sequence[str] = ()
    tag: str = ""
    no_cache: bool = False
    local_only: bool = False
    warn_size: str = WARN_SIZE

    def prepare(self, folder: Path, section: Wishes) -> Prepared:
        """Raises a `Problem` for what cannot work, before anything is sent."""
        from caddisfly.launch.build import image
        from caddisfly.launch.build.recipe import Wishes, placed

        here = Path.cwd()
        flags = Wishes(
            dockerfile=placed(self.dockerfile, here),
            ignorefile=placed(self.ignorefile, here),
            target=self.target,
            args=pairs(self.args, "--build-arg"),
        )
        return image.prepare(folder, section=section, flags=flags)

    def extras(self) -> Extras:
        from caddisfly.launch.build import image

        return image.Extras(
            tag=_tag(self.tag) if self.tag else image.generated_tag(),
            labels=pairs(self.labels, "--label"),
            secrets=_secrets(self.secrets),
            no_cache=self.no_cache,
        )

    @property
    def warn_bytes(self) -> int:
        return _size(self.warn_size)

    def make(self, prepared: Prepared, shown: Display, *, app: str, push: bool = True) -> Made:
        """Build it, on the platform or here. What is built here is pushed unless told otherwise."""
        from caddisfly.launch.build import image

        extras = self.extras()
        image.describe(prepared, shown, warn_bytes=self.warn_bytes)
        if self.local_only:
            return _here(prepared, extras, shown, app=app, push=push)
        return _on_platform(prepared, extras, shown, app=target.app_name(app))


UNSAID = Order()


def _order(
    dockerfile: Dockerfile = "",
    ignorefile: Ignorefile = "",
    build_target: BuildTarget = "",
    build_arg: BuildArg = None,
    build_secret: BuildSecret = None,
    label: Label = None,
    tag: Tag = "",
    no_cache: NoCache = False,
    local_only: LocalOnly = False,
    build_context_warn_size: WarnSize = WARN_SIZE,
) -> Order:
    return Order(
        dockerfile=dockerfile,
        ignorefile=ignorefile,
        target=build_target,
        args=build_arg or (),
        secrets=build_secret or (),
        labels=label or (),
        tag=tag,
        no_cache=no_cache,
        local_only=local_only,
        warn_size=build_context_warn_size,
    )


def taken(command: Callable[..., None]) -> Callable[..., None]:
    """The command with these flags in the place of its parameter `order`, which gets what they say."""
    flags = inspect.signature(_order, eval_str=True).parameters
    own = inspect.signature(command, eval_str=True)
    parameters = [one for old in own.parameters.values() for one in (flags.values() if old.name == "order" else [old])]

    def run(*given: Any, **named: Any) -> None:
        said = {name: named.pop(name) for name in flags if name in named}
        command(*given, order=_order(**said), **named)

    run.__name__, run.__doc__ = command.__name__, command.__doc__
    run.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {one.name: one.annotation for one in parameters}
    return run


def _on_platform(prepared: Prepared, extras: Extras, shown: Display, *, app: str) -> Made:
    from caddisfly.cli import account
    from caddisfly.launch.build import image

    with target.client() as client:
        place = _place(client)
        token = account.load().needed().token
        return image.on_platform(prepared, extras, shown, client=client, app=app, place=place, token=token)


def _here(prepared: Prepared, extras: Extras, shown: Display, *, app: str, push: bool) -> Made:
    """Only a push needs the platform."""
    from caddisfly.cli import account
    from caddisfly.launch.build import image, local

    if not push:
        made, _ = image.here(prepared, extras, shown, image=f"{image.FLYS_REGISTRY}/{app or 'app'}:{extras.tag}")
        return made
    name = target.app_name(app)
    with target.client() as client:
        client.apps.get(name)
        place = _place(client)
    made, builder = image.here(prepared, extras, shown, image=f"{place.host}/{name}:{extras.tag}")
    token = account.load().needed().token
    local.push(made.image, shown, builder=builder, url=place.url, user="x", password=token)
    return made


def _place(client: Client) -> RegistryPlace:
    from caddisfly.launch.build import remote

    place = remote.registry(client)
    url = os.environ.get("CADDIS_REGISTRY_URL", "")
    return remote.RegistryPlace(place.host, url.rstrip("/")) if url else place


def pairs(given: Sequence[str] | None, flag: str) -> dict[str, str]:
    found = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise InvalidArgument(f"{flag} {one} cannot be read", next=f"{flag} NAME=VALUE")
        found[name] = value
    return found


def _secrets(given: Sequence[str]) -> dict[str, str]:
    """Messages name a secret and never show it."""
    found = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
            raise InvalidArgument(
                "the name of a --build-secret cannot be read", next="letters, digits and any of _.-, then =VALUE"
            )
        if not equals:
            if name not in os.environ:
                raise InvalidArgument(f"--build-secret {name}: there is no environment variable {name}")
            value = os.environ[name]
        found[name] = value
    return found


def _tag(given: str) -> str:
    if not _TAG.fullmatch(given):
        raise InvalidArgument(
            f"'{given}' cannot be a tag", why="a tag has up to 128 letters, digits and any of _.-", next="--tag v1"
        )
    return given


def _size(given: str) -> int:
    match = _SIZE.fullmatch(given.strip())
    if match is None:
        raise InvalidArgument(f"'{given}' is no size", next="--build-context-warn-size 100MB")
    return int(float(match[1]) * _UNITS[match[2].lower()])


def fly_toml(folder: Path, given: str, env: str, *, lenient: bool) -> tuple[Any, Wishes]:
    """The file, as an `AppConfig`, and what its `[build]` says. Only one that is named has to be there."""
    from caddisfly.cli import show
    from caddisfly.launch import config as launch
    from caddisfly.launch.build.recipe import Wishes
    from caddisfly.launch.config import locate

    named = bool(given or os.environ.get(locate.VARIABLE))
    if not named and not env and not any((folder / name).is_file() for name in locate.NAMES):
        return launch.AppConfig(), Wishes()
    files = launch.find(given, environment=env, directory=None if named else folder)
    config = launch.load(files, strict=not lenient)
    for warning in config.warnings:
        show.note(f"Warning: {warning}")
    return config, Wishes.of_section(config.build, files.directory)
