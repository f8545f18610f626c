"""`caddis build`: an image from a folder, on the platform or by a builder of this computer."""

from __future__ import annotations

import os
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caddisfly.cli import show, target
from caddisfly.cli.config import Environment, Lenient
from caddisfly.cli.target import App, AsJson
from caddisfly.model.errors import InvalidArgument

if TYPE_CHECKING:
    from caddisfly.launch.build.display import Display
    from caddisfly.launch.build.image import Extras, Made, Prepared
    from caddisfly.launch.build.recipe import Wishes
    from caddisfly.launch.build.remote import RegistryPlace
    from caddisfly.launch.config import AppConfig

_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([kmg]?)b?", re.IGNORECASE)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_UNITS = {"": 10**6, "k": 10**3, "m": 10**6, "g": 10**9}


def build(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="The folder. Default: this one.")] = Path("."),
    app: App = "",
    config: Annotated[
        str, typer.Option("--config", "-c", help="fly.toml to read. Default: FLY_CONFIG, else that of the folder.")
    ] = "",
    env: Environment = "",
    lenient: Lenient = False,
    dockerfile: Annotated[str, typer.Option("--dockerfile", help="Path or URL of the Dockerfile.")] = "",
    ignorefile: Annotated[str, typer.Option("--ignorefile", help="Instead of .dockerignore.")] = "",
    build_target: Annotated[str, typer.Option("--build-target", help="Stage of the Dockerfile to build.")] = "",
    build_arg: Annotated[
        list[str] | None, typer.Option("--build-arg", metavar="NAME=VALUE", help="Can be repeated.")
    ] = None,
    build_secret: Annotated[
        list[str] | None,
        typer.Option(
            "--build-secret",
            metavar="NAME[=VALUE]",
            help="For RUN --mount=type=secret,id=NAME. Without a value: that of the environment variable NAME.",
        ),
    ] = None,
    label: Annotated[
        list[str] | None, typer.Option("--label", metavar="NAME=VALUE", help="Of the image. Can be repeated.")
    ] = None,
    tag: Annotated[str, typer.Option("--tag", "--image-label", help="Of the image. Default: a new one.")] = "",
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Run every step again.")] = False,
    local_only: Annotated[
        bool, typer.Option("--local-only", help="Build here, with docker, podman or buildah.")
    ] = False,
    push: Annotated[
        bool, typer.Option("--push", help="With --local-only: push the image to the platform's registry.")
    ] = False,
    build_context_warn_size: Annotated[
        str,
        typer.Option(
            envvar=["CADDIS_BUILD_CONTEXT_WARN_SIZE", "FLY_BUILD_CONTEXT_WARN_SIZE"],
            help="Warn above this size, such as 100MB.",
        ),
    ] = "100MB",
    json: AsJson = False,
) -> None:
    """Build an image from a folder."""
    from caddisfly.launch.build import display, image
    from caddisfly.launch.build.recipe import Wishes, placed

    here = Path.cwd()
    folder = (here / directory).resolve()
    toml, section = _fly_toml(directory, config, env, lenient=lenient)
    flags = Wishes(
        dockerfile=placed(dockerfile, here),
        ignorefile=placed(ignorefile, here),
        target=build_target,
        args=_pairs(build_arg, "--build-arg"),
    )
    extras = image.Extras(
        tag=_tag(tag) if tag else image.generated_tag(),
        labels=_pairs(label, "--label"),
        secrets=_secrets(build_secret),
        no_cache=no_cache,
    )
    warn_bytes = _size(build_context_warn_size)
    prepared = image.prepare(folder, section=section, flags=flags)
    if prepared.recipe.image:
        show.note("There is nothing to build: [build] in fly.toml names an image")
        made = image.Made(image=prepared.recipe.image)
    else:
        with display.choose(sys.stderr) as shown:
            image.describe(prepared, shown, warn_bytes=warn_bytes)
            name = app or os.environ.get("FLY_APP", "") or toml.app
            if local_only:
                made = _here(prepared, extras, shown, app=name, push=push)
            else:
                made = _on_platform(prepared, extras, shown, app=target.app_name(name))
    if json:
        show.result({"image": made.image, "digest": made.digest, "build": made.build})
        return
    show.pairs({"image": made.image, **({"digest": made.digest} if made.digest else {})})


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


def _place(client: Any) -> RegistryPlace:
    from caddisfly.launch.build import remote

    place = remote.registry(client)
    url = os.environ.get("CADDIS_REGISTRY_URL", "")
    return remote.RegistryPlace(place.host, url.rstrip("/")) if url else place


def _fly_toml(folder: Path, given: str, env: str, *, lenient: bool) -> tuple[AppConfig, Wishes]:
    """The file, and what its `[build]` says. Only one that is named has to be there."""
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


def _pairs(given: list[str] | None, flag: str) -> dict[str, str]:
    found = {}
    for one in given or ():
        name, equals, value = one.partition("=")
        if not name or not equals:
            raise InvalidArgument(f"{flag} {one} cannot be read", next=f"{flag} NAME=VALUE")
        found[name] = value
    return found


def _secrets(given: list[str] | None) -> dict[str, str]:
    """Messages name a secret and never show it."""
    found = {}
    for one in given or ():
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
