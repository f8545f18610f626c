"""The config of a Machine that is to be like another one. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from caddisfly.launch.config.translate import STANDBY_ENV

Machine = Mapping[str, Any]


def of(machine: Machine, *, standby_for: Sequence[str] = ()) -> dict[str, Any]:
    """With the image by digest: it runs the same, wherever the tag points by now. It stands by for nobody else's."""
    config: dict[str, Any] = copy.deepcopy(dict(machine["config"]))
    reference = machine.get("image_ref") or {}
    if config.get("image") and reference.get("digest") and "@" not in config["image"]:
        config["image"] = f"{tagged(reference)}@{reference['digest']}"
    config.pop("standbys", None)
    env = {name: value for name, value in (config.get("env") or {}).items() if name != STANDBY_ENV}
    if standby_for:
        config["standbys"] = list(standby_for)
        env[STANDBY_ENV] = ",".join(standby_for)
    return {**config, "env": env} if env or "env" in config else config


def tagged(reference: Mapping[str, Any]) -> str:
    """The image of an `image_ref`, without its digest."""
    registry = f"{reference['registry']}/" if reference.get("registry") else ""
    tag = f":{reference['tag']}" if reference.get("tag") else ""
    return f"{registry}{reference['repository']}{tag}"
