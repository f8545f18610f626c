"""`[[metrics]]`: where the platform scrapes a group. The first entry that is for a group counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section


@dataclass(frozen=True, slots=True, kw_only=True)
class Metrics:
    port: int | None = None
    path: str = ""
    https: bool = False
    processes: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        wire = {"port": self.port, "path": self.path, "https": self.https}
        return {name: value for name, value in wire.items() if value}


def read(node: Node, findings: Findings, groups: Groups) -> Metrics:
    with Section(node, findings) as section:
        return Metrics(
            port=section.port("port"),
            path=section.text("path"),
            https=bool(section.flag("https")),
            processes=groups.read(section),
        )
