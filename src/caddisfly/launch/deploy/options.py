"""How to deploy: what flags say, and where they are silent the fly.toml, and where that is, the defaults of Fly."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

LEASE_TTL_S = 13
CONCURRENT_MAX = 8
FIRST_LOOK_S, LATER_LOOK_S = 10.0, 3.0
"""How long a Machine without checks is watched: the first of a version for as long as on Fly, the others, which run
what the first has shown to run, for less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Which Machines take part. Empty means all of them."""

    groups: tuple[str, ...] = ()
    regions: tuple[str, ...] = ()
    without_regions: tuple[str, ...] = ()
    machines: tuple[str, ...] = ()
    without_machines: tuple[str, ...] = ()

    def group(self, name: str) -> bool:
        return not self.groups or name in self.groups

    def machine(self, machine: Mapping[str, Any]) -> bool:
        id, region = str(machine["id"]), str(machine.get("region", ""))
        return (
            (not self.machines or id in self.machines)
            and id not in self.without_machines
            and (not self.regions or region in self.regions)
            and region not in self.without_regions
        )

    @property
    def narrows(self) -> bool:
        """Whether it leaves Machines of a group out."""
        return bool(self.regions or self.without_regions or self.machines or self.without_machines)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Times are in seconds; `math.inf` is without end. `max_unavailable` below 1 is a share of a group."""

    strategy: str = "rolling"
    max_unavailable: float = 0.33
    wait_timeout_s: float = 300.0
    release_command_timeout_s: float = 300.0
    lease_ttl_s: int = LEASE_TTL_S
    concurrent: int = CONCURRENT_MAX
    ha: bool = True
    smoke_checks: bool = True
    detach: bool = False
    known_good: bool = False
    """The version has run before: none has to try it alone, and all may change at once, for requests are held."""
    update_only: bool = False
    restart_only: bool = False
    """Machines keep their config and image, and are started anew: for what is read at a start, such as secrets."""
    min_secrets_version: int = 0
    skip_release_command: bool = False
    seed: bool = False
    """Whether `seed_command` is run too: with the deploy that ends a launch, and never again."""
    rollback: bool = True
    """Whether a deploy that fails puts everything back."""
    signal: str = ""
    """With which bluegreen stops the old Machines. Empty: their own."""
    guest: Mapping[str, Any] = field(default_factory=dict)
    """Of new Machines in groups for which the file says no size."""
    selection: Selection = field(default_factory=Selection)

    def at_once(self, count: int) -> int:
        """How many of a group of `count` Machines may be down at the same time."""
        if self.max_unavailable < 1:
            return max(1, math.ceil(count * self.max_unavailable))
        return int(self.max_unavailable)
