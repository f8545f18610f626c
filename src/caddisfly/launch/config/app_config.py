"""What a fly.toml means, as one immutable value.

Reading goes top down, section by section; each noun has its own module. Rules that look at more than one section
stand in `rules.py`. What follows from the value, a Machine config for each group, is `translate.py`, and cannot fail:
whatever could be wrong has been found while the place in the file was still known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from caddisfly.launch.config import (
    build,
    checks,
    containers,
    deploy,
    env,
    experimental,
    extension,
    files,
    metrics,
    mounts,
    processes,
    restart,
    services,
    statics,
    vm,
)
from caddisfly.launch.config.build import Build
from caddisfly.launch.config.checks import Check, MachineCheck
from caddisfly.launch.config.deploy import Deploy
from caddisfly.launch.config.experimental import Experimental
from caddisfly.launch.config.extension import Extension, Placement
from caddisfly.launch.config.files import FileEntry
from caddisfly.launch.config.findings import Finding, Findings
from caddisfly.launch.config.metrics import Metrics
from caddisfly.launch.config.mounts import Mount
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.restart import Restart
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.services import Service
from caddisfly.launch.config.statics import Static
from caddisfly.launch.config.units import Bare
from caddisfly.launch.config.vm import Vm
from caddisfly.model.config import SWAP_MAX_MB
from caddisfly.model.duration import Duration
from caddisfly.model.program import STOP_SIGNALS, STOP_TIMEOUT_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class AppConfig:
    """`app` is empty when the file names none. Texts and numbers that are not said are empty or None."""

    app: str = ""
    sources: tuple[str, ...] = ()
    """The files it was read from, in the order of their say: the last one wins."""
    primary_region: str = ""
    kill_signal: str = ""
    kill_timeout: Duration | None = None
    swap_size_mb: int | None = None
    console_command: tuple[str, ...] = ()
    host_dedication_id: str = ""
    container: str = ""
    base: Mapping[str, Any] = field(default_factory=dict)
    """The Machine config that everything else is put on: `machine_config` or Compose."""
    groups: Groups = field(default_factory=lambda: Groups(commands={}))
    env: Mapping[str, str] = field(default_factory=dict)
    build: Build = field(default_factory=Build)
    deploy: Deploy = field(default_factory=Deploy)
    http_service: Service | None = None
    services: tuple[Service, ...] = ()
    """Without `http_service`."""
    checks: tuple[Check, ...] = ()
    machine_checks: tuple[MachineCheck, ...] = ()
    mounts: tuple[Mount, ...] = ()
    vms: tuple[Vm, ...] = ()
    restarts: tuple[Restart, ...] = ()
    files: tuple[FileEntry, ...] = ()
    statics: tuple[Static, ...] = ()
    metrics: tuple[Metrics, ...] = ()
    experimental: Experimental = field(default_factory=Experimental)
    extension: Extension = field(default_factory=Extension)
    warnings: tuple[Finding, ...] = ()
    definition: Mapping[str, Any] = field(default_factory=dict)
    """All of it as it is kept with a release (`definition.py`)."""

    def services_of(self, group: str) -> tuple[Service, ...]:
        """In the order in which a Machine has them: `http_service` comes first."""
        every = (self.http_service, *self.services) if self.http_service else self.services
        return self.groups.select(every, group)

    def checks_of(self, group: str) -> tuple[Check, ...]:
        """With the port that a check without one takes from the group's `http_service`."""
        http = self.http_service
        inherited = http.internal_port if http and group in self.groups.reached(http) else None
        return tuple(replace(check, port=check.port or inherited) for check in self.groups.select(self.checks, group))

    def machine_checks_of(self, group: str) -> tuple[MachineCheck, ...]:
        return (*self.machine_checks, *(one for service in self.services_of(group) for one in service.machine_checks))

    def mounts_of(self, group: str) -> tuple[Mount, ...]:
        return self.groups.select(self.mounts, group)

    def placement(self, group: str) -> Placement:
        return self.extension.placement(group)


def read(root: Node, findings: Findings, *, directory: Path | None, sources: tuple[str, ...] = ()) -> AppConfig:
    """Reports what is wrong and reads on; the value counts only if nothing failed."""
    with Section(root, findings) as section:
        groups = processes.read(section.node_of("processes"), findings)
        older = experimental.read(section.node_of("experimental"), findings)
        built = section.node_of("build")
        http_service = services.read_http(section.node_of("http_service"), findings, groups)
        more = [services.read(one, findings, groups) for one in section.tables("services")]
        container = section.text("container")
        kill_timeout = section.duration("kill_timeout", Bare.SECONDS)
        if kill_timeout is not None and kill_timeout > STOP_TIMEOUT_MAX:
            findings.complain(
                section.place_of("kill_timeout"), f"{kill_timeout} is too long", allowed=f"at most {STOP_TIMEOUT_MAX}"
            )
        return AppConfig(
            app=section.text("app"),
            sources=sources,
            primary_region=section.text("primary_region"),
            kill_signal=section.choice("kill_signal", STOP_SIGNALS, complain=True),
            kill_timeout=older.kill_timeout if kill_timeout is None else kill_timeout,
            swap_size_mb=section.whole("swap_size_mb", 0, SWAP_MAX_MB),
            console_command=section.command(
                "console_command", failure="Can't shell split console command: '{text}': {why}"
            ),
            host_dedication_id=section.text("host_dedication_id"),
            container=container,
            base=containers.read(
                root,
                findings,
                source=_machine_config(section, root),
                container=container,
                build=built,
                directory=directory,
            ),
            groups=groups,
            env=env.read(section.node_of("env"), findings),
            build=build.read(built, findings),
            deploy=deploy.read(section.node_of("deploy"), findings),
            http_service=http_service,
            services=tuple(one for one in more if one),
            checks=checks.read_named(section.node_of("checks"), findings, groups),
            machine_checks=tuple(checks.read_machine(one, findings) for one in section.tables("machine_checks")),
            mounts=tuple(mounts.read(one, findings, groups) for one in section.tables("mount", "mounts")),
            vms=tuple(vm.read(one, findings, groups) for one in section.tables("compute", "computes", "vm")),
            restarts=tuple(restart.read(one, findings, groups) for one in section.tables("restart")),
            files=tuple(files.read(one, findings, groups, directory=directory) for one in section.tables("files")),
            statics=statics.read(section.tables("statics"), findings),
            metrics=_metrics(section, findings, groups, older),
            experimental=older,
            extension=extension.read(section.node_of("caddisfly"), findings, groups),
        )


def _machine_config(section: Section, root: Node) -> Node | None:
    """`experimental.machine_config` has priority."""
    section.text("machine_config")
    own = root.members.get("experimental")
    older = own.members.get("machine_config") if own is not None else None
    chosen = older or section.node_of("machine_config")
    return chosen if chosen is not None and isinstance(chosen.value, str) else None


def _metrics(section: Section, findings: Findings, groups: Groups, older: Experimental) -> tuple[Metrics, ...]:
    entries = section.tables("metric", "metrics")
    if not entries and (older.metrics_port or older.metrics_path):
        return (Metrics(port=older.metrics_port, path=older.metrics_path),)
    return tuple(metrics.read(one, findings, groups) for one in entries)
