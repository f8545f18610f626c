"""From files to what they mean: the door through which every command reads a fly.toml."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from caddisfly.launch.config import app_config, definition, document, locate, overlay, rules
from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.locate import Files
from caddisfly.launch.config.node import Node

_HERE = Path()


def find_and_load(
    given: str = "",
    *,
    environment: str = "",
    strict: bool = True,
    directory: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> AppConfig:
    """`given` is what `--config` says. Raises `NotFound`, `FailedPrecondition` or `ConfigInvalid`."""
    return load(locate.find(given, environment=environment, directory=directory, environ=environ), strict=strict)


def load(files: Files, *, strict: bool = True) -> AppConfig:
    """Raises `FailedPrecondition` for a file that cannot be read, `ConfigInvalid` with all that is wrong in it."""
    root = document.read(files.base)
    if files.overlay:
        root = overlay.merged(root, document.read(files.overlay))
    return of_node(root, directory=files.directory, strict=strict, sources=tuple(map(str, files.all)))


def text(content: str, *, name: str = "fly.toml", directory: Path | None = _HERE, strict: bool = True) -> AppConfig:
    """Of a text that is in no file. Without a `directory` it can name no files. Raises `ConfigInvalid`."""
    root = document.parse(content, name=name)
    return of_node(root, directory=directory, strict=strict, sources=(name,))


def of_release(kept: Mapping[str, Any]) -> AppConfig:
    """Of the `definition` that a release was deployed with. Raises `ConfigInvalid` if another platform wrote it.

    Whoever may deploy the app has written it, and no file of this computer is read because they say so.
    """
    return text(json.dumps(kept), name=definition.NAME, directory=None, strict=False)


def of_node(root: Node, *, directory: Path | None, strict: bool, sources: tuple[str, ...]) -> AppConfig:
    findings = Findings(strict)
    app = app_config.read(root, findings, directory=directory, sources=sources)
    rules.check(app, root, findings)
    return replace(app, warnings=findings.settled(), definition=definition.of(root, app))
