"""`[[mounts]]`: the volume of a group's Machines. A Machine has at most one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config import units
from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import Wrong


@dataclass(frozen=True, slots=True, kw_only=True)
class Mount:
    """What a Machine's config has no member for is for the volume's creation. Sizes are GB; None is the platform's."""

    source: str
    destination: str
    processes: tuple[str, ...] = ()
    initial_size_gb: int | None = None
    snapshot_retention_days: int | None = None
    scheduled_snapshots: bool | None = None
    extend_threshold_percent: int = 0
    extend_increment_gb: int = 0
    extend_limit_gb: int = 0

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {"name": self.source, "path": self.destination}
        more = {
            "extend_threshold_percent": self.extend_threshold_percent,
            "add_size_gb": self.extend_increment_gb,
            "size_gb_limit": self.extend_limit_gb,
        }
        return {**wire, **{name: value for name, value in more.items() if value}}


def read(node: Node, findings: Findings, groups: Groups) -> Mount:
    with Section(node, findings) as section:
        source, destination = section.text("source"), section.text("destination")
        if not source:
            findings.error(node, "a mount without a source, the name of its volume")
        if not destination.startswith("/") or not destination.strip("/"):
            findings.error(
                section.place_of("destination"),
                f"mount '{source}' has the destination '{destination}'",
                allowed="an absolute path other than /",
            )
        threshold, increment, limit = _extend(section, source)
        return Mount(
            source=source,
            destination=destination,
            processes=groups.read(section),
            initial_size_gb=_initial(section, source),
            snapshot_retention_days=_retention(section, source),
            scheduled_snapshots=section.flag("scheduled_snapshots"),
            extend_threshold_percent=threshold,
            extend_increment_gb=increment,
            extend_limit_gb=limit,
        )


def _initial(section: Section, source: str) -> int | None:
    node = section.node_of("initial_size")
    if node is None or node.value == "":
        return None
    try:
        size = units.gigabytes(node.value)
    except Wrong as error:
        section.findings.error(node, f"mount '{source}' with initial_size '{node.value}' will fail because of: {error}")
        return None
    if size < 1:
        section.findings.error(
            node, f"mount '{source}' has an initial_size '{node.value}' value which is smaller than 1GB"
        )
        return None
    return size


def _retention(section: Section, source: str) -> int | None:
    node = section.node_of("snapshot_retention")
    if node is None:
        return None
    if isinstance(node.value, bool) or not isinstance(node.value, int) or not 1 <= node.value <= 60:
        section.findings.error(
            node, f"mount '{source}' has a snapshot_retention value which is not between 1 and 60 days inclusive"
        )
        return None
    return node.value


def _extend(section: Section, source: str) -> tuple[int, int, int]:
    """Threshold in percent, increment and limit in GB: all zero when nothing is said."""
    names = ("auto_extend_size_threshold", "auto_extend_size_increment", "auto_extend_size_limit")
    threshold = section.whole(names[0]) or 0
    increment, limit = section.gigabytes(names[1]), section.gigabytes(names[2])
    at, findings = section.place_of(*names), section.findings
    if not threshold and increment is None and limit is None:
        return 0, 0, 0
    if not 50 <= threshold <= 99:
        findings.error(section.place_of(names[0]), f"mount '{source}' {names[0]} must be between 50 and 99")
    if increment is None or not 1 <= increment <= 100:
        findings.error(section.place_of(names[1]), f"mount '{source}' {names[1]} must be between 1GB and 100GB")
    if limit is not None and not 1 <= limit <= 500:
        findings.error(section.place_of(names[2]), f"mount '{source}' {names[2]} must be between 1GB and 500GB")
    if increment is None and limit is None:
        findings.error(at, f"mount '{source}' {', '.join(names)} must be all defined or none")
    return threshold, increment or 0, limit or 0
