"""The Machines that a fly.toml is about, and how what they run differs from what it says.

Managed by Launch is what carries its metadata. Release, console and test Machines come and go and belong to no group.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.translate import GROUP_KEY, PLATFORM, PLATFORM_KEY, SPECIAL_GROUPS, machine_config
from caddisfly.model import states
from caddisfly.model.config import Config
from caddisfly.model.errors import Problem

_GONE = ("destroyed", "destroying")

Machine = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineComparison:
    """What a Machine runs, and what the file says it should. Equal if both mean the same."""

    id: str
    state: str
    region: str
    running: Mapping[str, Any]
    wanted: Mapping[str, Any]
    known: bool = True
    """False when its host does not answer: then `running` is what was last heard."""

    @property
    def same(self) -> bool:
        return bool(self.running == self.wanted)


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupComparison:
    """A group of the file, of the app, or of both."""

    group: str
    in_file: bool
    wanted_count: int | None
    machines: tuple[MachineComparison, ...]

    @property
    def same(self) -> bool:
        count = self.wanted_count in (None, len(self.machines))
        return (
            self.in_file
            and bool(self.machines or self.wanted_count == 0)
            and count
            and all(one.same for one in self.machines)
        )


def managed(machines: Sequence[Machine]) -> list[Machine]:
    """Those that deploys take care of."""
    return [
        machine
        for machine in machines
        if machine.get("state") not in _GONE
        and metadata(machine).get(PLATFORM_KEY) == PLATFORM
        and metadata(machine).get(GROUP_KEY) not in SPECIAL_GROUPS
    ]


def metadata(machine: Machine) -> Mapping[str, str]:
    return (machine.get("config") or {}).get("metadata") or {}


def compare(app: AppConfig, machines: Sequence[Machine]) -> tuple[GroupComparison, ...]:
    """By group, the file's first. A Machine without a group counts as one of the default group."""
    groups: dict[str, list[Machine]] = {name: [] for name in app.groups.names}
    for machine in managed(machines):
        groups.setdefault(metadata(machine).get(GROUP_KEY) or app.groups.default, []).append(machine)
    return tuple(
        GroupComparison(
            group=name,
            in_file=name in app.groups.names,
            wanted_count=app.placement(name).count if name in app.groups.names else 0,
            machines=tuple(_compared(app, name, one) for one in sorted(found, key=lambda one: str(one["id"]))),
        )
        for name, found in groups.items()
    )


def _compared(app: AppConfig, group: str, machine: Machine) -> MachineComparison:
    present = machine.get("config") or {}
    in_file = group in app.groups.names
    running = written(present)
    wanted = written(machine_config(app, group, existing=present)) if in_file else running
    return MachineComparison(
        id=str(machine["id"]),
        state=str(machine.get("state", "")),
        region=str(machine.get("region", "")),
        running=running,
        wanted=wanted,
        known=machine.get("host_status") not in states.HOST_AWAY,
    )


def written(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """As the platform would write it, so that spelling is no difference."""
    try:
        return Config.parse(config).wire
    except Problem:
        return config  # of a platform that allows more than this one
