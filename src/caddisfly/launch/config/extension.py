"""`[caddisfly]`: what a fly.toml of Fly's has no word for. Fly's tools pass over it, so one file serves both.

    [caddisfly]
    count = 2                     # of each group that is not named below
    regions = ["ams", "fra"]

    [caddisfly.groups.worker]
    count = 1
    regions = ["ams"]
    max_per_region = 1

What is said here is held by every deploy: a count of 0 stays 0, and a Machine too many is removed. What is not said
is as on Fly: as many Machines as there are.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section

COUNT_MAX = 1000
_REGION = re.compile(r"[a-z0-9-]{2,32}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """How many Machines a group has, and where. None or empty: not said."""

    count: int | None = None
    regions: tuple[str, ...] = ()
    max_per_region: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Extension:
    every: Placement = field(default_factory=Placement)
    groups: Mapping[str, Placement] = field(default_factory=dict)

    def placement(self, group: str) -> Placement:
        """Key by key: what the group says, else what is said for every group."""
        own = self.groups.get(group, Placement())
        return replace(
            own,
            count=self.every.count if own.count is None else own.count,
            regions=own.regions or self.every.regions,
            max_per_region=self.every.max_per_region if own.max_per_region is None else own.max_per_region,
        )


def read(node: Node | None, findings: Findings, groups: Groups) -> Extension:
    if node is None:
        return Extension()
    with Section(node, findings) as section:
        extension = Extension(every=_placement(section), groups=_groups(section.node_of("groups"), findings, groups))
    for name in groups.names:
        where = extension.placement(name)
        room = len(where.regions) * (where.max_per_region or 0)
        if where.count and room and where.count > room:
            findings.error(
                node,
                f"group '{name}' has a count of {where.count}, but at most {where.max_per_region} in each of "
                f"{len(where.regions)} regions",
                allowed=f"a count up to {room}",
            )
    return extension


def _groups(node: Node | None, findings: Findings, groups: Groups) -> dict[str, Placement]:
    if node is None:
        return {}
    placements = {}
    for name, member in node.members.items():
        if name not in groups.names:
            findings.error(
                member,
                f"there is no process group '{name}'",
                allowed=", ".join(groups.names),
                hint=nearest(name, groups.names),
            )
        with Section(member, findings) as section:
            placements[name] = _placement(section)
    return placements


def _placement(section: Section) -> Placement:
    regions = section.texts("regions")
    for region in regions:
        if not _REGION.fullmatch(region):
            section.findings.error(
                section.place_of("regions"), f"'{region}' is not a region", allowed="codes such as ams"
            )
    if len(set(regions)) < len(regions):
        section.findings.error(section.place_of("regions"), "a region is named twice")
    return Placement(
        count=section.whole("count", 0, COUNT_MAX),
        regions=regions,
        max_per_region=section.whole("max_per_region", 1, COUNT_MAX),
    )
