"""`[deploy]`: how a new version replaces the old one."""

from __future__ import annotations

from dataclasses import dataclass

from caddisfly.launch.config import vm
from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import Bare
from caddisfly.launch.config.vm import Vm
from caddisfly.model.duration import Duration

STRATEGIES = ("canary", "rolling", "immediate", "bluegreen")
STRATEGY_DEFAULT = "rolling"
MAX_UNAVAILABLE_DEFAULT = 0.33
WAIT_DEFAULT = Duration.of_seconds(300)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deploy:
    """What is not said is None or empty, and its default beside it as a property; flags beat all of it."""

    strategy_said: str = ""
    max_unavailable_said: float | None = None
    wait_timeout_said: Duration | None = None
    release_command: tuple[str, ...] = ()
    release_command_timeout_said: Duration | None = None
    release_command_vm: Vm | None = None
    seed_command: tuple[str, ...] = ()

    @property
    def strategy(self) -> str:
        return self.strategy_said or STRATEGY_DEFAULT

    @property
    def max_unavailable(self) -> float:
        """Below 1: a share of the group, rounded up. From 1: a number of Machines."""
        return self.max_unavailable_said or MAX_UNAVAILABLE_DEFAULT

    @property
    def wait_timeout(self) -> Duration:
        return self.wait_timeout_said or WAIT_DEFAULT

    @property
    def release_command_timeout(self) -> Duration:
        return self.release_command_timeout_said or WAIT_DEFAULT


def read(node: Node | None, findings: Findings) -> Deploy:
    if node is None:
        return Deploy()
    with Section(node, findings) as section:
        strategy = section.text("strategy")
        if strategy and strategy not in STRATEGIES:
            findings.error(
                section.place_of("strategy"),
                f"unsupported deployment strategy '{strategy}'; Apps v2 supports the following strategies: "
                + ", ".join(STRATEGIES),
                hint=nearest(strategy, STRATEGIES),
            )
        release_vm = section.node_of("release_command_vm")
        return Deploy(
            strategy_said=strategy,
            max_unavailable_said=_max_unavailable(section, strategy),
            wait_timeout_said=section.duration("wait_timeout", Bare.ACCIDENT),
            release_command=section.command(
                "release_command", failure="Can't shell split release command: '{text}': {why}"
            ),
            release_command_timeout_said=section.duration("release_command_timeout", Bare.ACCIDENT),
            release_command_vm=vm.read(release_vm, findings) if release_vm is not None else None,
            seed_command=section.command("seed_command", failure="Can't shell split seed command: '{text}': {why}"),
        )


def _max_unavailable(section: Section, strategy: str) -> float | None:
    value = section.number("max_unavailable")
    if value is None:
        return None
    if value <= 0:
        section.findings.error(
            section.place_of("max_unavailable"), f"{value:g} is out of range", allowed="a number above 0"
        )
    elif strategy in ("immediate", "bluegreen"):
        section.findings.warn(section.place_of("max_unavailable"), f"has no effect with the strategy {strategy}")
    return value
