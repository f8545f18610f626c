"""The config of a Machine that is to be like another one. Pure."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from caddisfly.launch.config.translate import STANDBY_ENV
from caddisfly.launch.deploy.fleet import pinned
from caddisfly.launch.deploy.plan import CANARY_KEY, GREEN_KEY, SAFE_KEY
from caddisfly.launch.fleet.outcome import SUSPENDED

_ITS_OWN = (SUSPENDED, CANARY_KEY, GREEN_KEY, SAFE_KEY)
"""Metadata about what is being done to that very Machine."""

Machine = Mapping[str, Any]


def of(machine: Machine, *, standby_for: Sequence[str] = ()) -> dict[str, Any]:
    """With the image by digest: it runs the same, wherever the tag points by now. It stands by for nobody else's."""
    config: dict[str, Any] = copy.deepcopy(dict(machine["config"]))
    if config.get("image"):
        config["image"] = pinned(machine)
    config.pop("standbys", None)
    if "metadata" in config:
        config["metadata"] = {name: value for name, value in config["metadata"].items() if name not in _ITS_OWN}
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
