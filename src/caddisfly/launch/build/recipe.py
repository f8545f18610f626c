"""Which way to build: an image that exists, a Dockerfile, or buildpacks; and which Dockerfile.

The order is flyctl's. What `[build]` of the fly.toml names counts before the flag of the same meaning, build args
excepted, and paths in it are relative to the fly.toml.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import httpx

import caddisfly
from caddisfly.launch.config.build import Build
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound, Unavailable, Unimplemented

URL_TIMEOUT_S = 30.0
URL_MAX_BYTES = 10 << 20
URL_MAX_REDIRECTS = 10
_SCHEMES = ("http://", "https://")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """What flags or a fly.toml say about a build; empty means nothing. Paths are absolute, or URLs."""

    image: str = ""
    dockerfile: str = ""
    target: str = ""
    ignorefile: str = ""
    builder: str = ""
    builtin: str = ""
    buildpacks: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)

    @staticmethod
    def of_section(section: Build, directory: Path) -> Wishes:
        """`[build]` of the fly.toml in this directory."""
        return Wishes(
            image=section.image,
            dockerfile=placed(section.dockerfile, directory),
            target=section.target,
            ignorefile=placed(section.ignorefile, directory),
            builder=section.builder,
            builtin=section.builtin,
            buildpacks=section.buildpacks,
            args=section.args,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """`dockerfile` is a path, or a URL with what was there in `fetched`; empty where there is none."""

    image: str = ""
    dockerfile: str = ""
    fetched: bytes = b""
    builder: str = ""
    buildpacks: tuple[str, ...] = ()
    target: str = ""
    ignorefile: Path | None = None
    args: Mapping[str, str] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    """What is there as well and is not used, in words."""

    @property
    def path(self) -> Path | None:
        """Of the Dockerfile; None for a URL and where there is none."""
        return Path(self.dockerfile) if self.dockerfile and not self.fetched else None

    def content(self) -> bytes:
        """Of the Dockerfile."""
        if self.path is None:
            return self.fetched
        try:
            return self.path.read_bytes()
        except OSError as error:
            raise FailedPrecondition(f"{self.path} cannot be read", why=error.strerror or str(error)) from error


def choose(context: Path, *, section: Wishes, flags: Wishes) -> Recipe:
    """Raises `NotFound` for a Dockerfile that is not there and for a folder that says nothing about how to build it."""
    ways = _ways(context, section, flags)
    if not ways:
        raise NotFound(
            f"there is no Dockerfile in {context}",
            why="and neither an image nor buildpacks in [build] of a fly.toml",
            next="write a Dockerfile there, or name one: --dockerfile PATH",
        )
    _, chosen = ways[0]
    if chosen == "builtin":
        raise Unimplemented(
            f"[build] builtin = '{section.builtin}' is not supported",
            why="these templates are old, and nothing but flyctl has them",
            next="replace it by a Dockerfile",
        )
    named = section.ignorefile or flags.ignorefile
    common = Recipe(
        target=section.target or flags.target,
        ignorefile=Path(named) if named else None,
        args={**section.args, **flags.args},
        ignored=tuple(label for label, _ in ways[1:]),
    )
    if chosen == "image":
        return replace(common, image=flags.image or section.image)
    if chosen == "buildpacks":
        return replace(common, builder=section.builder, buildpacks=section.buildpacks)
    if chosen.startswith(_SCHEMES):
        return replace(common, dockerfile=chosen, fetched=fetch(chosen))
    if not Path(chosen).is_file():
        raise NotFound(f"dockerfile '{chosen}' not found", next="correct its name")
    return replace(common, dockerfile=chosen)


def _ways(context: Path, section: Wishes, flags: Wishes) -> list[tuple[str, str]]:
    """All that could be meant, in order: how to call it, and what it is."""
    found = []
    if flags.image or section.image:
        found.append((f"image {flags.image or section.image}", "image"))
    if section.dockerfile:
        found.append((f"[build] dockerfile {section.dockerfile}", section.dockerfile))
    if section.builder or section.buildpacks:
        found.append((f"[build] builder {section.builder}".rstrip(), "buildpacks"))
    if section.builtin:
        found.append((f"[build] builtin {section.builtin}", "builtin"))
    if flags.dockerfile:
        found.append((f"--dockerfile {flags.dockerfile}", flags.dockerfile))
    names = {path.name for path in context.iterdir()} if context.is_dir() else set()
    for name in ("Dockerfile", "dockerfile"):  # by their names: a disk may take one for the other
        if name in names and (context / name).is_file():
            found.append((name, str(context / name)))
            break
    return [way for number, way in enumerate(found) if way[1] not in [one[1] for one in found[:number]]]


def placed(name: str, directory: Path) -> str:
    """A path made absolute; URLs and nothing stay as they are."""
    return str(directory / name) if name and not name.startswith(_SCHEMES) else name


def fetch(url: str, *, timeout_s: float = URL_TIMEOUT_S) -> bytes:
    """A Dockerfile from the web. Raises `InvalidArgument` for what is none, `Unavailable` when nobody answers."""
    deadline = time.monotonic() + timeout_s
    here = httpx.URL(url)
    headers = {"user-agent": f"caddisfly/{caddisfly.__version__}"}
    try:
        with httpx.Client(timeout=timeout_s, follow_redirects=False, headers=headers) as http:
            for _ in range(URL_MAX_REDIRECTS + 1):
                with http.stream("GET", here) as response:
                    if response.status_code in (301, 302, 303, 307, 308) and "location" in response.headers:
                        here = _next(here, response.headers["location"], url)
                        continue
                    if response.status_code != 200:
                        raise NotFound(
                            f"dockerfile '{url}' not found", why=f"{here.host} answers {response.status_code}"
                        )
                    return _body(response, url, deadline)
    except httpx.TransportError as error:
        raise Unavailable(f"{url} cannot be fetched", why=str(error) or type(error).__name__) from error
    raise InvalidArgument(f"{url} cannot be fetched", why=f"it redirects more than {URL_MAX_REDIRECTS} times")


def _next(here: httpx.URL, location: str, url: str) -> httpx.URL:
    there = here.join(location)
    if there.scheme not in ("http", "https") or (here.scheme == "https" and there.scheme == "http"):
        raise InvalidArgument(f"{url} cannot be fetched", why=f"it redirects from {here.scheme} to {there.scheme}")
    return there


def _body(response: httpx.Response, url: str, deadline: float) -> bytes:
    body = bytearray()
    for piece in response.iter_bytes():
        body += piece
        if len(body) > URL_MAX_BYTES:
            raise InvalidArgument(f"{url} is no Dockerfile", why=f"it has more than {URL_MAX_BYTES >> 20} MiB")
        if time.monotonic() > deadline:
            raise Unavailable(f"{url} cannot be fetched", why="it takes too long")
    if not body:
        raise InvalidArgument(f"{url} is no Dockerfile", why="it is empty")
    return bytes(body)
