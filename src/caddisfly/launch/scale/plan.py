"""What has to be made and destroyed so that process groups have the counts that were asked for. Pure.

A standby is no capacity: it is not counted, and goes only with the last Machine that it stands by for. A new Machine
is like the best one of its group, but for the size, which is what flags or the deployed config say. Removed are first
those that do not run, and last those that a standby waits for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from caddisfly.launch.config.running import Machine, metadata
from caddisfly.launch.config.translate import machine_config
from caddisfly.launch.deploy.plan import RELEASE_ID_KEY, RELEASE_VERSION_KEY
from caddisfly.launch.deploy.spread import spread
from caddisfly.launch.fleet import likeness
from caddisfly.launch.fleet.deployed import Deployed, is_standby
from caddisfly.launch.scale import size
from caddisfly.launch.scale.size import Size
from caddisfly.launch.scale.wanted import Count
from caddisfly.model import states
from caddisfly.model.errors import NotFound, Unimplemented

_REMOVED_FIRST = ("failed", "created", "stopped", "suspended", "stopping", "suspending")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What is remembered of a group. No regions and no `max_per_region` are no rule."""

    count: int | None = None
    regions: tuple[str, ...] = ()
    max_per_region: int | None = None

    @staticmethod
    def from_wire(wire: Mapping[str, Any]) -> Rules:
        return Rules(
            count=wire["count"], regions=tuple(wire.get("regions") or ()), max_per_region=wire.get("max_per_region")
        )

    def to_wire(self) -> dict[str, Any]:
        return {"count": self.count, "regions": list(self.regions), "max_per_region": self.max_per_region}


@dataclass(frozen=True, slots=True, kw_only=True)
class Flags:
    """What was said beside the counts. `max_per_region` is None when nothing was said, negative for no limit."""

    regions: tuple[str, ...] = ()
    max_per_region: int | None = None
    size: Size = field(default_factory=Size)
    env: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    group: str
    region: str
    config: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    group: str
    machine: Machine

    @property
    def region(self) -> str:
        return str(self.machine.get("region", ""))


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupPlan:
    group: str
    before: Rules
    after: Rules
    """What is to be remembered."""
    additions: tuple[Addition, ...] = ()
    removals: tuple[Removal, ...] = ()

    @property
    def changes(self) -> bool:
        return bool(self.additions or self.removals)


def plan(
    deployed: Deployed, wanted: Mapping[str, Count], flags: Flags, *, remembered: Mapping[str, Rules]
) -> tuple[GroupPlan, ...]:
    """Raises `InvalidArgument` for what cannot be, `Unimplemented` for groups with volumes."""
    return tuple(
        _group(deployed, group, count, flags, remembered.get(group, Rules())) for group, count in wanted.items()
    )


def _group(deployed: Deployed, group: str, count: Count, flags: Flags, before: Rules) -> GroupPlan:
    _refuse_volumes(deployed, group)
    members = deployed.of_group(group)
    capacity = [machine for machine in members if not is_standby(machine)]
    regions = flags.regions or _regions(deployed, group, capacity, before)
    here = [machine for machine in capacity if _region(machine) in regions]
    elsewhere = [machine for machine in capacity if _region(machine) not in regions]
    limit = _limit(deployed, group, flags, before)
    total = count.from_present(len(here))
    present = Counter(map(_region, here))
    wanted = spread(present, total, regions, limit)
    changes = {region: number - present[region] for region, number in wanted.items()}
    more = {region: change for region, change in changes.items() if change > 0}
    config = _like(deployed, group, flags) if more else {}
    removals = [one for region, change in changes.items() for one in _removed(here, members, region, -change)]
    removals += _without_work(members, removals, left=total + len(elsewhere))
    added = [region for region, number in more.items() for _ in range(number)]
    return GroupPlan(
        group=group,
        before=before,
        after=Rules(
            count=total + len(elsewhere),
            regions=_rule(flags, before, elsewhere),
            max_per_region=before.max_per_region if flags.max_per_region is None else limit,
        ),
        additions=tuple(Addition(group=group, region=region, config=config) for region in added),
        removals=tuple(Removal(group=group, machine=machine) for machine in removals),
    )


def _regions(deployed: Deployed, group: str, capacity: Sequence[Machine], before: Rules) -> tuple[str, ...]:
    """Where nobody says: as was said before, as is declared, where the app is, where it should be; else where the
    platform likes. Wherever the group has Machines belongs to it, so that a count is that of all of them."""
    config = deployed.config
    primary = config.primary_region if config else ""
    declared = config.placement(group).regions if config and group in config.groups.names else ()
    there = sorted({_region(machine) for machine in deployed.machines}, key=lambda region: (region != primary, region))
    meant = before.regions or declared or tuple(there) or (primary,)
    return tuple(dict.fromkeys((*meant, *sorted(map(_region, capacity)))))


def _limit(deployed: Deployed, group: str, flags: Flags, before: Rules) -> int | None:
    if flags.max_per_region is not None:
        return flags.max_per_region if flags.max_per_region >= 0 else None
    if before.max_per_region is not None:
        return before.max_per_region
    config = deployed.config
    return config.placement(group).max_per_region if config and group in config.groups.names else None


def _rule(flags: Flags, before: Rules, elsewhere: Sequence[Machine]) -> tuple[str, ...]:
    """Regions become a rule when they are named; those with Machines that were left alone belong to it."""
    if not flags.regions:
        return before.regions
    return tuple(dict.fromkeys((*flags.regions, *sorted(map(_region, elsewhere)))))


def _like(deployed: Deployed, group: str, flags: Flags) -> dict[str, Any]:
    """The config of a new Machine."""
    members = [machine for machine in deployed.of_group(group) if machine.get("config")]
    model = max(members, key=_fitness, default=None)
    if model is not None:
        config = likeness.of(model)
        own: Mapping[str, Any] | None = config.get("guest")
    else:
        config = _of_release(deployed, group)
        own = next((other["config"].get("guest") for other in deployed.machines if other.get("config")), None)
    config["guest"] = size.of_new(deployed.config, group, like=own, flags=flags.size)
    config["env"] = {**(config.get("env") or {}), **flags.env}
    return config


def _of_release(deployed: Deployed, group: str) -> dict[str, Any]:
    """Of a group that has no Machine to be like."""
    release = deployed.release
    config = deployed.config
    if release is None or config is None or group not in config.groups.names or not deployed.image:
        raise NotFound(
            f"process group '{group}' has no Machine to make others like",
            why=deployed.note or "and no release of this app says what it runs",
            next="caddis deploy",
        )
    made = machine_config(config, group, image=deployed.image)
    made["metadata"] |= {RELEASE_ID_KEY: str(release["id"]), RELEASE_VERSION_KEY: str(release["version"])}
    return made


def _fitness(machine: Machine) -> tuple[Any, ...]:
    """Of the newest release before older ones, what runs before what does not, the older Machine before the younger."""
    version = metadata(machine).get(RELEASE_VERSION_KEY, "")
    return (
        int(version) if version.isdecimal() else 0,
        not is_standby(machine),
        machine.get("state") == "started",
        [-ord(letter) for letter in str(machine["id"])],
    )


def _removed(here: Sequence[Machine], members: Sequence[Machine], region: str, number: int) -> list[Machine]:
    watched = {id for one in members if is_standby(one) for id in one["config"]["standbys"]}

    def usefulness(machine: Machine) -> tuple[Any, ...]:
        state = machine.get("state")
        runs = _REMOVED_FIRST.index(state) if state in _REMOVED_FIRST else len(_REMOVED_FIRST)
        return (
            machine.get("host_status") in states.HOST_AWAY,  # it cannot be destroyed now
            runs,
            machine["id"] in watched,
            str(machine.get("created_at", "")),
            str(machine["id"]),
        )

    return sorted((machine for machine in here if _region(machine) == region), key=usefulness)[: max(0, number)]


def _without_work(members: Sequence[Machine], removed: Sequence[Machine], *, left: int) -> list[Machine]:
    """Standbys of which every Machine goes."""
    going = {machine["id"] for machine in removed}
    standbys = [one for one in members if is_standby(one)]
    return [one for one in standbys if not left or (going and going.issuperset(one["config"]["standbys"]))]


def _region(machine: Machine) -> str:
    return str(machine.get("region", ""))


def _refuse_volumes(deployed: Deployed, group: str) -> None:
    mounts = bool(deployed.config and group in deployed.config.groups.names and deployed.config.mounts_of(group))
    if mounts or any((machine.get("config") or {}).get("mounts") for machine in deployed.of_group(group)):
        raise Unimplemented(
            f"process group '{group}' has a volume, and cannot be scaled yet",
            why="each of its Machines needs a volume of its own, and this version makes none",
            next="scale the groups without [[mounts]]",
        )
