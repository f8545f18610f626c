"""What a deploy will do, decided before anything is touched. Pure.

Three things are known: what the config says, which Machines there are, and what was remembered of the groups (a count
that was asked for, and a group that an interrupted deploy had begun to make). What follows is a list of Machines to
update, to create and to remove, and a sentence for each choice that was made for the user.

    group has Machines   count said in the file   then
    no                   no, and none remembered  2 with services, 1 and a standby without, 1 with `--ha=false`
    no                   no, but remembered       as many as was asked for: a group scaled to zero stays so
    yes                  no                       as many as there are
    either               yes                      that many
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from caddisfly.launch.config import AppConfig, machine_config, vm
from caddisfly.launch.config.running import Machine, managed, metadata
from caddisfly.launch.config.translate import (
    GROUP_KEY,
    PLATFORM,
    PLATFORM_KEY,
    RELEASE_GROUP,
    STANDBY_ENV,
)
from caddisfly.launch.deploy.options import Options
from caddisfly.launch.deploy.spread import spread
from caddisfly.model import states
from caddisfly.model.errors import FailedPrecondition, InvalidArgument
from caddisfly.model.guest import Guest

CANARY_KEY = "fly_canary"
GREEN_KEY = "fly_bluegreen_deployment_tag"
SAFE_KEY = "safe_to_destroy"
RELEASE_ID_KEY, RELEASE_VERSION_KEY = "fly_release_id", "fly_release_version"
WARM = ("started", "starting", "restarting", "failed")
"""Machines in these states are up, or should be: they are started with the new version (reference 2.7)."""
_DEFAULT_SIZE = "shared-cpu-1x"

Wire = dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Remembered:
    """What is known of a group besides its Machines. `making` is the count that a deploy had begun to make."""

    count: int | None = None
    regions: tuple[str, ...] = ()
    max_per_region: int | None = None
    making: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Halfway:
    """Where a bluegreen deploy was killed: with this tag on the new Machines, `blues` being the old ones."""

    tag: str = ""
    switched: bool = False
    """Whether all of the new ones take requests already."""
    blues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """A Machine gets the new version. `probe`: it sleeps, and is started once to see whether it works."""

    machine: Machine
    group: str
    config: Wire
    probe: bool = False

    @property
    def id(self) -> str:
        return str(self.machine["id"])

    @property
    def state(self) -> str:
        return str(self.machine.get("state", ""))

    @property
    def standby(self) -> bool:
        return bool(self.config.get("standbys"))

    @property
    def warm(self) -> bool:
        return self.state in WARM and not self.standby


@dataclass(frozen=True, slots=True, kw_only=True)
class Creation:
    """A Machine to be made. `standby` is one for the group's first Machine, whose id is not known yet."""

    group: str
    region: str
    config: Wire
    standby: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """`leftover`: of a deploy that was killed. It goes first; everything else goes last."""

    machine: Machine
    group: str
    why: str
    leftover: bool = False

    @property
    def id(self) -> str:
        return str(self.machine["id"])


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """`first`: nothing of the app runs yet. `choices` are sentences about what was decided for the user."""

    app: str
    config: AppConfig
    groups: tuple[str, ...]
    strategy: str
    first: bool
    updates: tuple[Update, ...] = ()
    creations: tuple[Creation, ...] = ()
    removals: tuple[Removal, ...] = ()
    release_command: tuple[str, ...] = ()
    seed_command: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    """Ids of Machines that Launch does not manage."""
    making: Mapping[str, int] = field(default_factory=dict)
    """How many Machines each new group will have."""

    def updates_of(self, group: str) -> tuple[Update, ...]:
        return tuple(update for update in self.updates if update.group == group)


def plan(
    config: AppConfig,
    machines: Sequence[Machine],
    *,
    app: str,
    options: Options,
    remembered: Mapping[str, Remembered] | None = None,
    halfway: Halfway | None = None,
) -> Plan:
    """`halfway` is where the deploy before this one was killed, if it was and that matters.

    Raises `FailedPrecondition` or `InvalidArgument` for what cannot work.
    """
    if not options.restart_only:
        _refuse_volumes(config)
    _check_groups(config, options)
    memory = remembered or {}
    every = managed(machines)
    leftovers = _leftovers(machines, halfway or Halfway())
    gone = {removal.id for removal in leftovers}
    present = [machine for machine in every if str(machine["id"]) not in gone]
    by_group: dict[str, list[Machine]] = {}
    for machine in sorted(present, key=lambda one: str(one["id"])):
        by_group.setdefault(metadata(machine).get(GROUP_KEY) or config.groups.default, []).append(machine)
    made = _Groups(config, options, by_group, present)
    known = tuple(sorted(by_group)) if options.restart_only else config.groups.names
    names = tuple(name for name in known if options.selection.group(name))
    for name in names:
        if options.restart_only:
            made.keep(name)
        else:
            made.settle(name, memory.get(name, Remembered()))
    for name in sorted(set(by_group) - set(known)):
        if options.selection.group(name):
            made.drop(name)
    if options.selection.narrows:
        taking_part = len(made.updates)
        made.choices.append(f"filters applied, deploying to {taking_part}/{len(present)} Machines")
    return Plan(
        app=app,
        config=config,
        groups=names,
        strategy=options.strategy,
        first=not present,
        updates=_probed(made.updates),
        creations=() if options.update_only else tuple(made.creations),
        removals=(*leftovers, *made.removals),
        release_command=() if options.skip_release_command or options.restart_only else config.deploy.release_command,
        seed_command=config.deploy.seed_command if options.seed else (),
        choices=tuple(made.choices),
        warnings=tuple(_warnings(config)),
        skipped=_unmanaged(machines),
        making=made.making,
    )


class _Groups:
    """Collects what is to be done, group by group."""

    def __init__(
        self, config: AppConfig, options: Options, by_group: Mapping[str, list[Machine]], present: Sequence[Machine]
    ) -> None:
        self._config, self._options, self._by_group, self._present = config, options, by_group, present
        self.updates: list[Update] = []
        self.creations: list[Creation] = []
        self.removals: list[Removal] = []
        self.choices: list[str] = []
        self.making: dict[str, int] = {}

    def settle(self, name: str, memory: Remembered) -> None:
        there = self._by_group.get(name, [])
        standbys = [one for one in there if (one.get("config") or {}).get("standbys")]
        workers = [one for one in there if one not in standbys]
        said = self._config.placement(name)
        if said.count is None and not self._options.selection.narrows:
            if not workers:
                self._make(name, memory)
            elif memory.making is not None and memory.making > len(workers):
                self._complete(name, workers, standbys, memory)
        extra: list[Machine] = []
        if said.count is not None and not self._options.selection.narrows:
            extra = self._adjust(name, workers, said.count, said.regions, said.max_per_region)
            if not said.count:
                extra += standbys
        for machine in there:
            if machine in extra or not self._options.selection.machine(machine):
                continue
            self.updates.append(Update(machine=machine, group=name, config=self._config_for(name, machine)))

    def keep(self, name: str) -> None:
        """Its Machines as they are, started anew."""
        for machine in self._by_group[name]:
            if self._options.selection.machine(machine):
                self.updates.append(Update(machine=machine, group=name, config=_known(machine)))

    def drop(self, name: str) -> None:
        """A group that the file no longer has."""
        for machine in self._by_group[name]:
            if self._options.selection.machine(machine):
                self.removals.append(Removal(machine=machine, group=name, why=f"the file has no group '{name}'"))

    def _make(self, name: str, memory: Remembered) -> None:
        """All of a group."""
        config = self._new(name)
        if memory.count is not None:
            if not memory.count:
                self.choices.append(f"leave '{name}' at 0 Machines, as it was scaled (caddis scale count {name}=1)")
            regions = memory.regions or (self._config.primary_region,)
            for region, count in spread({}, memory.count, regions, memory.max_per_region).items():
                self._create(name, region, config, count)
            return
        regions = self._config.placement(name).regions or (self._config.primary_region,)
        pair = self._options.ha and not self._config.mounts_of(name)
        if not pair:
            self._create(name, regions[0], config, 1)
        elif self._config.services_of(name):
            for region, count in spread({}, 2, regions, self._config.placement(name).max_per_region).items():
                self._create(name, region, config, count)
            self.choices.append(
                f"make 2 Machines for '{name}', for high availability and zero downtime (--ha=false makes 1)"
            )
        else:
            self._create(name, regions[0], config, 1)
            self.creations.append(Creation(group=name, region=regions[0], config=config, standby=True))
            self.choices.append(
                f"make 1 Machine for '{name}', and a standby that starts if the first one's host is lost"
                " (--ha=false makes none)"
            )
        self.making[name] = sum(one.group == name and not one.standby for one in self.creations)

    def _complete(self, name: str, workers: list[Machine], standbys: list[Machine], memory: Remembered) -> None:
        """A deploy was killed while it made the group."""
        missing = (memory.making or 0) - len(workers)
        regions = self._config.placement(name).regions or (str(workers[0].get("region", "")),)
        self._create(name, regions[0], self._new(name), missing)
        self.making[name] = memory.making or 0
        self.choices.append(
            f"make {missing} more for '{name}': the last deploy was interrupted before it had made them all"
        )

    def _adjust(
        self, name: str, workers: list[Machine], count: int, regions: tuple[str, ...], most: int | None
    ) -> list[Machine]:
        """To the count that the file says. Returns the Machines that are too many."""
        there = Counter(str(one.get("region", "")) for one in workers)
        where = regions or tuple(there) or (self._config.primary_region,)
        wanted = spread(there, count, where, most)
        extra = []
        for region in dict.fromkeys((*there, *wanted)):
            mine = [one for one in workers if str(one.get("region", "")) == region]
            difference = wanted.get(region, 0) - len(mine)
            if difference > 0:
                self._create(name, region, self._new(name), difference)
            for machine in _least_needed(mine)[: max(0, -difference)]:
                extra.append(machine)
                self.removals.append(
                    Removal(machine=machine, group=name, why=f"the file says {wanted.get(region, 0)} in {region}")
                )
        return extra

    def _create(self, name: str, region: str, config: Wire, count: int) -> None:
        self.creations += [Creation(group=name, region=region, config=config)] * count

    def _new(self, name: str) -> Wire:
        """Its config: of the file's size, else that of the flags, else that of the app's other Machines."""
        config = machine_config(self._config, name)
        if vm.chosen(self._config.vms, name) is None and "guest" not in config:
            others = [(one.get("config") or {}).get("guest") for one in self._by_group.get(name, [])]
            config["guest"] = dict(
                self._options.guest
                or next((guest for guest in others if guest), {})
                or Guest.of_preset(_DEFAULT_SIZE).to_wire()
            )
        return config

    def _config_for(self, name: str, machine: Machine) -> Wire:
        config = machine_config(self._config, name, existing=_known(machine))
        if config.get("standbys") and self._config.services_of(name):
            del config["standbys"]
            config["env"].pop(STANDBY_ENV, None)
        return config


def _known(machine: Machine) -> Wire:
    """Its config. Raises `FailedPrecondition` when that is not known for sure."""
    if machine.get("host_status") in states.HOST_AWAY or not machine.get("config"):
        raise FailedPrecondition(
            f"the host of Machine {machine['id']} does not answer",
            why="what it runs is not known, and it would stay on the old version",
            next=f"wait for the host, or leave it out: --exclude-machines {machine['id']}",
        )
    return dict(machine["config"])


def _least_needed(machines: list[Machine]) -> list[Machine]:
    """Those that do not run first."""
    return sorted(machines, key=lambda one: (one.get("state") in WARM, str(one["id"])))


def _probed(updates: Sequence[Update]) -> tuple[Update, ...]:
    """In a group of which everything sleeps, one is started to see whether the new version works."""
    awake = {update.group for update in updates if update.warm}
    done: set[str] = set()
    result = []
    for update in updates:
        asleep = update.state in ("stopped", "suspended") and not update.standby
        if asleep and update.group not in awake and update.group not in done:
            done.add(update.group)
            update = replace(update, probe=True)
        result.append(update)
    return tuple(result)


def _leftovers(machines: Sequence[Machine], halfway: Halfway) -> tuple[Removal, ...]:
    """Machines that only a deploy which ended before its time can have left."""
    found = []
    for machine in machines:
        about = metadata(machine)
        if machine.get("state") in ("destroyed", "destroying") or about.get(PLATFORM_KEY) != PLATFORM:
            continue
        why = ""
        if about.get(GROUP_KEY) == RELEASE_GROUP:
            why = "it ran the release command of an earlier deploy"
        elif about.get(CANARY_KEY):
            why = "it is the canary of an earlier deploy"
        elif about.get(SAFE_KEY) or (halfway.switched and machine["id"] in halfway.blues):
            why = "an earlier deploy has replaced it"
        elif halfway.tag and not halfway.switched and about.get(GREEN_KEY) == halfway.tag:
            why = "it never took part: the deploy that made it was interrupted"
        if why:
            group = about.get(GROUP_KEY, "")
            found.append(Removal(machine=machine, group=group, why=why, leftover=True))
    return tuple(found)


def _unmanaged(machines: Sequence[Machine]) -> tuple[str, ...]:
    return tuple(
        str(one["id"])
        for one in machines
        if one.get("state") not in ("destroyed", "destroying") and metadata(one).get(PLATFORM_KEY) != PLATFORM
    )


def _refuse_volumes(config: AppConfig) -> None:
    if config.mounts:
        mount = config.mounts[0]
        raise FailedPrecondition(
            "volumes are not there yet",
            why=f"[[mounts]] of {config.sources[-1] if config.sources else 'the config'} asks for volume "
            f"'{mount.source}' at {mount.destination}",
            next="remove [[mounts]], or wait for a version that has volumes",
        )


def _check_groups(config: AppConfig, options: Options) -> None:
    unknown = [name for name in options.selection.groups if name not in config.groups.names]
    if unknown:
        raise InvalidArgument(
            f"there is no process group '{unknown[0]}'",
            why=f"the file has {', '.join(config.groups.names)}",
            next="correct --process-groups",
        )


def _warnings(config: AppConfig) -> list[str]:
    local = [one.guest_path for one in config.statics if one.local]
    return [f"statics from '{path}' are not uploaded: there is no object storage yet" for path in local]
