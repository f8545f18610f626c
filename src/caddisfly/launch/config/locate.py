"""Which files a command is about: `--config`, else `FLY_CONFIG`, else what lies in the directory.

A file that was named and is not there is an error, never a reason to go on with another one: that is how a wrong app
gets deployed.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caddisfly.launch.config.findings import nearest
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound

NAMES = ("fly.toml", "fly.json", "fly.yaml")
SUFFIXES = (".toml", ".json", ".yaml", ".yml")
VARIABLE = "FLY_CONFIG"
APP_VARIABLE = "FLY_APP"


@dataclass(frozen=True, slots=True, kw_only=True)
class Files:
    """`overlay` goes over `base`. Paths of a config are relative to the directory of `base`."""

    base: Path
    overlay: Path | None = None

    @property
    def directory(self) -> Path:
        return self.base.resolve().parent

    @property
    def all(self) -> tuple[Path, ...]:
        return (self.base, self.overlay) if self.overlay else (self.base,)


def find(
    given: str = "", *, environment: str = "", directory: Path | None = None, environ: Mapping[str, str] | None = None
) -> Files:
    """Raises `NotFound` that says where was looked."""
    variables = os.environ if environ is None else environ
    base = _base(given, variables.get(VARIABLE, ""), directory or Path())
    return Files(base=base, overlay=_overlay(base, environment) if environment else None)


def app_name(given: str, named: str, *, environ: Mapping[str, str] | None = None) -> str:
    """`--app`, else `FLY_APP`, else what the file names. Raises `InvalidArgument` when nothing says."""
    variables = os.environ if environ is None else environ
    name = given or variables.get(APP_VARIABLE, "") or named
    if not name:
        raise InvalidArgument(
            "which app?", why="the config file is missing an app name", next='add app = "NAME" to it, or -a NAME'
        )
    return name


def refuse_other(app: str, named: str, file: str) -> None:
    """Raises `FailedPrecondition` when the file names another app than the one that is meant."""
    if named and named != app:
        raise FailedPrecondition(
            f"{file} is of app {named}, not of {app}",
            why="the file of one app must not become that of another",
            next=f"-c PATH names another file; without -a and FLY_APP it is {named}",
        )


def beside(directory: Path | None, name: str) -> Path:
    """Where a file is that a config in this directory names.

    Raises `OSError` for a config that comes from elsewhere, as with a release: somebody else may have written it, and
    nobody's files are read because another one says so.
    """
    if directory is None:
        raise PermissionError(errno.EPERM, "a config that is no file here has no files beside it")
    return directory / name


def _base(given: str, variable: str, directory: Path) -> Path:
    said, source = (given, "--config") if given else (variable, VARIABLE)
    if said:
        path = directory / said
        path = path / NAMES[0] if path.is_dir() else path
        if not path.is_file():
            raise NotFound(f"config file not found at {path}", why=f"{source} names it", next="correct the path")
        return path
    for name in NAMES:
        if (directory / name).is_file():
            return directory / name
    raise NotFound(
        f"no {NAMES[0]} in {directory.resolve()}",
        why=f"{', '.join(NAMES)} are looked for",
        next="caddis launch makes one; -c PATH names another",
    )


def _overlay(base: Path, environment: str) -> Path:
    for suffix in dict.fromkeys((base.suffix, *SUFFIXES)):
        path = base.with_name(f"{base.stem}.{environment}{suffix}")
        if path.is_file():
            return path
    there = sorted(
        path.name.removeprefix(f"{base.stem}.").removesuffix(path.suffix)
        for path in base.parent.glob(f"{base.stem}.*.*")
        if path.suffix in SUFFIXES
    )
    wanted = base.with_name(f"{base.stem}.{environment}{base.suffix}")
    near = nearest(environment, there)
    raise NotFound(
        f"config file not found at {wanted}",
        why=f"--env {environment} means it" + (f"; there is {', '.join(there)}" if there else ""),
        next=f"did you mean --env {near}?" if near else f"make it, with only what differs from {base.name}",
    )
