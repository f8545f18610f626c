"""`[[restart]]`: what happens when the main process ends by itself. The last entry that is for a group counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section

POLICIES = {"always": "always", "never": "no", "on-failure": "on-failure"}
"""As a fly.toml spells them, and as the Machines API does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    policy: str
    retries: int | None = None
    processes: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {"policy": POLICIES.get(self.policy, self.policy)}
        return {**wire, "max_retries": self.retries} if self.retries else wire


def read(node: Node, findings: Findings, groups: Groups) -> Restart:
    with Section(node, findings) as section:
        policy = section.text("policy")
        if policy not in POLICIES:
            findings.error(
                section.place_of("policy"),
                f"invalid restart policy: {policy}",
                allowed=", ".join(POLICIES),
                hint="never" if policy == "no" else nearest(policy, POLICIES),
            )
        return Restart(policy=policy, retries=section.whole("retries"), processes=groups.read(section))
