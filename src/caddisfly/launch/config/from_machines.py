"""From an app's Machines back to a fly.toml: what `config save` writes.

Within a group the commonest config wins. A fly.toml has one `[env]` and one stop signal for all groups, and no words
for some things; what cannot be said is returned as notes, never dropped in silence.
"""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config.processes import ONLY_GROUP
from caddisfly.launch.config.restart import POLICIES
from caddisfly.launch.config.running import Machine, managed, metadata
from caddisfly.launch.config.service_sections import service_sections
from caddisfly.launch.config.translate import GROUP_KEY, PLATFORM_KEY, STANDBY_ENV
from caddisfly.model import states
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.guest import Guest

OWNED = (
    *("app", "primary_region", "kill_signal", "kill_timeout", "swap_size_mb", "processes", "env", "http_service"),
    *("services", "checks", "mounts", "mount", "vm", "compute", "computes", "restart", "files", "statics"),
    *("metrics", "metric"),
)
"""Keys whose whole meaning is in the Machines. The rest of a file (build, deploy, ...) is the user's."""
_OF_DEPLOY = ("FLY_PROCESS_GROUP", "PRIMARY_REGION", STANDBY_ENV)
_POLICIES = {wire: said for said, wire in POLICIES.items()}
_SAID = (
    *("image", "init", "env", "metadata", "guest", "services", "checks", "mounts", "restart", "files", "statics"),
    *("metrics", "stop_config", "standbys", "dns"),
)
_GUEST_SAID = (
    "cpu_kind",
    "cpus",
    "memory_mb",
    "host_dedication_id",
    "persist_rootfs",
    "kernel_args",
    "gpus",
    "gpu_kind",
)

Configs = Mapping[str, Mapping[str, Any]]
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Saved:
    """`values` as a TOML parser would give them, `configs` of each group as they are."""

    values: Values
    configs: Configs
    notes: tuple[str, ...]


def of(app: str, machines: Sequence[Machine]) -> Saved:
    """Raises `FailedPrecondition` when Launch has made none of them."""
    configs = _commonest(managed(machines))
    if not configs:
        raise FailedPrecondition(
            f"app {app} has no Machines that a fly.toml describes",
            why=f"none of its {len(machines)} Machines has the metadata {PLATFORM_KEY}",
            next="caddis deploy makes some",
        )
    notes = [
        f"{machine['id']}: its host does not answer; what was last heard counts"
        for machine in managed(machines)
        if machine.get("host_status") in states.HOST_AWAY
    ]
    stop = _common(configs, "stop_config", notes)
    init = {group: config.get("init") or {} for group, config in configs.items()}
    commands = _processes(init)
    http_service, services = service_sections(configs, named=bool(commands))
    overrides = {
        name: words
        for name in ("entrypoint", "exec")
        if (words := _agreed({group: one.get(name) for group, one in init.items()}, f"init.{name}", notes))
    }
    values = {
        "app": app,
        "primary_region": _first(one.get("env", {}).get("PRIMARY_REGION") for one in configs.values()),
        "kill_signal": stop.get("signal"),
        "kill_timeout": stop.get("timeout"),
        "swap_size_mb": _agreed({group: one.get("swap_size_mb") for group, one in init.items()}, "swap_size_mb", notes),
        "experimental": overrides,
        "build": {"image": image} if (image := _image(configs)) else {},
        "processes": commands,
        "env": _env(configs, notes),
        "http_service": http_service,
        "services": services,
        "checks": _checks(configs, notes),
        "mounts": _shared(configs, "mounts", _mount),
        "vm": _vms(configs),
        "restart": _shared(configs, "restart", _restart),
        "files": _shared(configs, "files", dict),
        "statics": [
            {name: value for name, value in static.items() if value}
            for static in _common_list(configs, "statics", notes)
        ],
        "metrics": _shared(configs, "metrics", dict),
    }
    for group, config in configs.items():
        left = [name for name, value in config.items() if value and name not in _SAID]
        notes += [f"group '{group}': {name} has no place in a fly.toml and stays on the Machines" for name in left]
    said = {name: value for name, value in values.items() if value not in (None, "", {}, [])}
    return Saved(said, configs, tuple(notes))


def _commonest(machines: Sequence[Machine]) -> Configs:
    groups: dict[str, list[str]] = {}
    for machine in machines:
        config = {name: value for name, value in machine["config"].items() if name not in ("metadata", "standbys")}
        config["env"] = {name: value for name, value in (config.get("env") or {}).items() if name != STANDBY_ENV}
        config["mounts"] = [_unattached(mount) for mount in config.get("mounts") or ()]
        group = metadata(machine).get(GROUP_KEY) or ONLY_GROUP
        groups.setdefault(group, []).append(json.dumps(config, sort_keys=True))
    return {group: json.loads(Counter(texts).most_common(1)[0][0]) for group, texts in sorted(groups.items())}


def _unattached(mount: Mapping[str, Any]) -> Values:
    return {name: value for name, value in mount.items() if name not in ("volume", "size_gb", "encrypted")}


def _image(configs: Configs) -> str:
    images = {str(config.get("image", "")) for config in configs.values()}
    return images.pop() if len(images) == 1 else ""


def _processes(init: Configs) -> dict[str, str]:
    commands = {group: shlex.join(one.get("cmd") or ()) for group, one in init.items()}
    return {} if commands == {ONLY_GROUP: ""} else commands


def _env(configs: Configs, notes: list[str]) -> dict[str, str]:
    env: dict[str, str] = {}
    for group, config in configs.items():
        for name, value in (config.get("env") or {}).items():
            if name in _OF_DEPLOY:
                continue
            if env.setdefault(name, value) != value:
                notes.append(f"env.{name} of group '{group}' is another than saved: a fly.toml has one env for all")
    for name in env:
        lacking = [group for group, config in configs.items() if name not in (config.get("env") or {})]
        if lacking:
            notes.append(f"env.{name} is saved for all groups; {', '.join(lacking)} did not have it")
    return env


def _checks(configs: Configs, notes: list[str]) -> dict[str, Values]:
    checks: dict[str, Values] = {}
    owners: dict[str, list[str]] = {}
    for group, config in configs.items():
        for name, check in (config.get("checks") or {}).items():
            said = dict(check)
            if said.get("headers"):
                said["headers"] = {one["name"]: next(iter(one.get("values") or ("",))) for one in said["headers"]}
            if checks.setdefault(name, said) != said:
                notes.append(f"check {name} of group '{group}' is another than saved: names of checks are the app's")
            else:
                owners.setdefault(name, []).append(group)
    return {name: _owned(check, owners[name], configs) for name, check in checks.items()}


def _mount(mount: Mapping[str, Any]) -> Values:
    said: Values = {"source": mount.get("name", ""), "destination": mount.get("path", "")}
    if mount.get("extend_threshold_percent"):
        said["auto_extend_size_threshold"] = mount["extend_threshold_percent"]
        said["auto_extend_size_increment"] = f"{mount.get('add_size_gb', 1)}gb"
    if mount.get("size_gb_limit"):
        said["auto_extend_size_limit"] = f"{mount['size_gb_limit']}gb"
    return said


def _restart(restart: Mapping[str, Any]) -> Values:
    retries = {"retries": restart["max_retries"]} if restart.get("max_retries") else {}
    return {"policy": _POLICIES.get(restart.get("policy", ""), "on-failure"), **retries}


def _vms(configs: Configs) -> list[Values]:
    sizes = {group: _vm(config["guest"]) for group, config in configs.items() if config.get("guest")}
    if len(sizes) == len(configs) and len({json.dumps(size, sort_keys=True) for size in sizes.values()}) == 1:
        return [next(iter(sizes.values()))]
    return [{**size, "processes": [group]} for group, size in sizes.items()]


def _vm(guest: Mapping[str, Any]) -> Values:
    said = {name: guest[name] for name in _GUEST_SAID if guest.get(name)}
    shape = Guest(
        cpu_kind=said.pop("cpu_kind", "shared"), cpus=said.pop("cpus", 1), memory_mb=said.pop("memory_mb", 256)
    )
    if name := shape.preset:
        memory = {} if Guest.of_preset(name).memory_mb == shape.memory_mb else {"memory": f"{shape.memory_mb}mb"}
        return {"size": name, **memory, **said}
    return {"cpu_kind": shape.cpu_kind, "cpus": shape.cpus, "memory": f"{shape.memory_mb}mb", **said}


def _shared(configs: Configs, member: str, say: Any) -> list[Values]:
    """One entry for all the groups that have the same."""
    entries: list[tuple[Values, list[str]]] = []
    for group, config in configs.items():
        value = config.get(member) or []
        for one in value if isinstance(value, list) else [value]:
            said = say(one)
            owners = next((owners for entry, owners in entries if entry == said), None)
            if owners is None:
                entries.append((said, [group]))
            else:
                owners.append(group)
    return [_owned(said, owners, configs) for said, owners in entries]


def _owned(said: Values, owners: Sequence[str], configs: Configs) -> Values:
    return said if len(configs) == 1 else {**said, "processes": list(owners)}


def _common(configs: Configs, member: str, notes: list[str]) -> Values:
    found = _agreed({group: config.get(member) for group, config in configs.items()}, member, notes)
    return dict(found) if isinstance(found, Mapping) else {}


def _common_list(configs: Configs, member: str, notes: list[str]) -> list[Any]:
    found = _agreed({group: config.get(member) for group, config in configs.items()}, member, notes)
    return list(found or ())


def _agreed(values: Mapping[str, Any], what: str, notes: list[str]) -> Any:
    """The value of all groups; of the first one, with a note, when they differ."""
    first = next(iter(values.values()))
    for group, value in values.items():
        if value != first:
            notes.append(f"{what} of group '{group}' is another than saved: a fly.toml has one for all")
    return first


def _first(values: Iterable[str | None]) -> str:
    return next((value for value in values if value), "")
