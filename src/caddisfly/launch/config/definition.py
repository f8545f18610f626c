"""A config as it is kept with a release: as JSON, and without the files that it was written in.

A rollback reads it back on another day, perhaps on another computer. So what a fly.toml takes from files beside it
(`files.local_path`, a `machine_config` in a file, Compose) stands in it as content. It is read as any other config is,
leniently: what could once be deployed can be deployed again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.node import Node

NAME = "release.json"
"""What messages call it."""


def of(root: Node, app: AppConfig) -> dict[str, Any]:
    kept: dict[str, Any] = root.plain
    if app.files:
        kept["files"] = [_file(entry.to_wire(), entry.processes) for entry in app.files]
    if app.base:
        kept["machine_config"] = json.dumps(app.base, default=str)
        older = kept.get("experimental")
        if isinstance(older, dict):
            older.pop("machine_config", None)
        build = kept.get("build")
        if isinstance(build, dict):
            build.pop("compose", None)
    plain: dict[str, Any] = json.loads(json.dumps(kept, default=str))  # TOML and YAML have dates
    return plain


def _file(wire: Mapping[str, Any], processes: tuple[str, ...]) -> dict[str, Any]:
    return {**wire, **({"processes": list(processes)} if processes else {})}
