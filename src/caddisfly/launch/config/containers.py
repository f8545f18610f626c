"""`machine_config`: a Machine config as JSON, under everything that a fly.toml has keys for (reference fly-launch,
1.13).

It is how a fly.toml says what it has no key for: several containers, a schedule, volumes in memory. One of the
containers gets the image that was built: the one that `container` names, else one called `app`, else the first.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caddisfly.launch.config import compose, locate
from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.units import kind

BUILT = "."
"""What stands for the image that was built."""
_PREFERRED = "app"


def read(
    root: Node, findings: Findings, *, source: Node | None, container: str, build: Node | None, directory: Path | None
) -> dict[str, Any]:
    """The config to begin with, empty when there is none. Compose wins over JSON. Paths are relative to `directory`."""
    composed = build.members.get("compose") if build is not None else None
    if composed is not None:
        at, base = composed, compose.read(composed, findings, directory)
    elif source is not None and source.value != "":
        at, base = source, _json(source, findings, directory)
    else:
        return {}
    containers = base.get("containers")
    if not containers:
        return base
    chosen = _chosen(containers, container)
    if chosen is None:
        names = [str(one.get("name", "")) for one in containers]
        findings.error(
            root.members.get("container", at),
            f'container "{container}" not found',
            allowed=", ".join(names),
            hint=nearest(container, names),
        )
        return {}
    made = []
    for one in containers:
        if one is chosen:
            one = {**one, "image": one.get("image") or BUILT}
        elif not one.get("image"):
            findings.error(at, f'container "{one.get("name", "")}" must have an image specified')
        made.append(_with_files(one, at, findings, directory))
    return {**base, "containers": made}


def with_image(config: Mapping[str, Any], container: str, image: str) -> dict[str, Any]:
    """The config once the image is there."""
    containers = config.get("containers") or []
    chosen = _chosen(containers, container)
    if chosen is None:
        return {**config, "image": image}
    made = [{**one, "image": image} if one is chosen else one for one in containers]
    return {**config, "image": image, "containers": made}


def _chosen(containers: list[Any], wanted: str) -> Any:
    names = [one.get("name") for one in containers]
    if wanted:
        return containers[names.index(wanted)] if wanted in names else None
    return containers[names.index(_PREFERRED)] if _PREFERRED in names else next(iter(containers), None)


def _json(source: Node, findings: Findings, directory: Path | None) -> dict[str, Any]:
    text, what = str(source.value), "machine_config"
    if text.endswith(".json") and not text.lstrip().startswith("{"):
        what = text
        try:
            text = locate.beside(directory, text).read_text()
        except (OSError, UnicodeDecodeError) as error:
            findings.error(source, f"{what} cannot be read: {error}")
            return {}
    elif not text.lstrip().startswith("{"):
        findings.error(
            source,
            f'invalid machine config source: "{text}"',
            allowed="JSON that begins with {, or a path that ends in .json",
        )
        return {}
    try:
        config = json.loads(text)
    except json.JSONDecodeError as error:
        findings.error(source, f"{what} is not JSON: {error}")
        return {}
    if not isinstance(config, dict):
        findings.error(source, f"{what} must hold an object, got {kind(config)}")
        return {}
    if not _objects(config.get("containers")) or not all(
        _objects(one.get("files")) for one in config.get("containers") or ()
    ):
        findings.error(source, f"containers, and the files of each, in {what} must be lists of objects")
        return {}
    return config


def _objects(value: Any) -> bool:
    """Absent, or a list of objects."""
    return not value or (isinstance(value, list) and all(isinstance(one, dict) for one in value))


def _with_files(container: Mapping[str, Any], at: Node, findings: Findings, directory: Path | None) -> dict[str, Any]:
    """Files of the laptop go along as their content."""
    if not container.get("files"):
        return dict(container)
    files = []
    for entry in container["files"]:
        if path := str(entry.get("local_path") or ""):
            try:
                content = base64.b64encode(locate.beside(directory, path).read_bytes()).decode()
            except OSError as error:
                findings.error(at, f"{path} cannot be read: {error.strerror or error}")
                continue
            entry = {**{key: value for key, value in entry.items() if key != "local_path"}, "raw_value": content}
        files.append(entry)
    return {**container, "files": files}
