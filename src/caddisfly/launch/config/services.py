"""`[[services]]`, and `[http_service]`, which is short for the one that most apps have (reference fly-launch, 1.8).

`http_service` comes first among a Machine's services: port 80 with `http`, port 443 with `http` and `tls`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config import checks, http_options, ports
from caddisfly.launch.config.checks import Check, MachineCheck
from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.ports import Port
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import Bare, kind

INTERNAL_PORT_DEFAULT = 8080
_AUTOSTOP: dict[object, bool | str] = {True: True, False: False, "off": False, "stop": True, "suspend": "suspend"}
"""As a fly.toml spells it, and as the Machines API does."""
_CONCURRENCY_TYPES = ("connections", "requests")
_GO_TYPES = {bool: "bool", int: "int64", float: "float64"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Concurrency:
    type: str = ""
    soft_limit: int | None = None
    hard_limit: int | None = None

    def to_wire(self) -> dict[str, Any]:
        wire = {"type": self.type, "hard_limit": self.hard_limit, "soft_limit": self.soft_limit}
        return {name: value for name, value in wire.items() if value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What is not said is None, and left to the platform."""

    protocol: str = "tcp"
    internal_port: int = INTERNAL_PORT_DEFAULT
    ports: tuple[Port, ...] = ()
    autostop: bool | str | None = None
    autostart: bool | None = None
    min_machines_running: int | None = None
    concurrency: Concurrency | None = None
    checks: tuple[Check, ...] = ()
    machine_checks: tuple[MachineCheck, ...] = ()
    processes: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "protocol": self.protocol,
            "internal_port": self.internal_port,
            "autostop": self.autostop,
            "autostart": self.autostart,
            "min_machines_running": self.min_machines_running,
            "ports": [port.to_wire() for port in self.ports],
            "checks": [check.to_wire() for check in self.checks],
            "concurrency": self.concurrency.to_wire() if self.concurrency else None,
        }
        given = {name: value for name, value in wire.items() if value is not None and value != []}
        return {**given, "force_instance_key": None}


def read_http(node: Node | None, findings: Findings, groups: Groups) -> Service | None:
    """`[http_service]`."""
    if node is None:
        return None
    with Section(node, findings) as section:
        http = http_options.read(section.node_of("http_options"), findings)
        tls = http_options.read_tls(section.node_of("tls_options"), findings)
        force = bool(section.flag("force_https"))
        return _service(
            section,
            groups,
            protocol="tcp",
            outer=(
                Port(port=80, handlers=("http",), force_https=force, http_options=http),
                Port(port=443, handlers=("http", "tls"), http_options=http, tls_options=tls),
            ),
            asked=tuple(
                checks.read_service(check, findings, type, Bare.ACCIDENT)
                for type, name in (("tcp", "tcp_checks"), ("http", "checks"))
                for check in section.tables(name)
            ),
            legacy=False,
        )


def read(node: Node, findings: Findings, groups: Groups) -> Service | None:
    """An entry of `[[services]]`; None for an empty one."""
    if node.is_table and not node.members:
        return None
    with Section(node, findings) as section:
        section.ignored("script_checks", "restart_limit", why="it belongs to Fly's first platform")
        service = _service(
            section,
            groups,
            protocol=section.choice("protocol", ("tcp", "udp")) or "tcp",
            outer=tuple(ports.read(port, findings) for port in section.tables("ports")),
            asked=tuple(
                checks.read_service(check, findings, type, Bare.MILLISECONDS)
                for type in ("tcp", "http")
                for check in section.tables(f"{type}_checks")
            ),
            legacy=True,
        )
        if not service.ports:
            findings.warn(node, "a service without ports cannot be reached from outside")
        return service


def _service(
    section: Section, groups: Groups, *, protocol: str, outer: tuple[Port, ...], asked: tuple[Check, ...], legacy: bool
) -> Service:
    return Service(
        protocol=protocol,
        internal_port=section.port("internal_port", text_too=legacy) or INTERNAL_PORT_DEFAULT,
        ports=outer,
        autostop=_autostop(section),
        autostart=section.flag("auto_start_machines"),
        min_machines_running=section.whole("min_machines_running"),
        concurrency=_concurrency(section, legacy=legacy),
        checks=asked,
        machine_checks=tuple(checks.read_machine(one, section.findings) for one in section.tables("machine_checks")),
        processes=_processes(section, groups),
    )


def _autostop(section: Section) -> bool | str | None:
    node = section.node_of("auto_stop_machines")
    if node is None:
        return None
    if not isinstance(node.value, bool | str):
        section.findings.error(node, f"must be a text, got {kind(node.value)}", allowed="off, stop, suspend")
        return None
    if node.value not in _AUTOSTOP:
        known = ("off", "stop", "suspend")
        section.findings.error(
            node,
            f'invalid autostop string value "{node.value}"',
            allowed=", ".join(known),
            hint=nearest(str(node.value), known),
        )
        return None
    return _AUTOSTOP[node.value]


def _concurrency(section: Section, *, legacy: bool) -> Concurrency | None:
    node = section.node_of("concurrency")
    if node is None:
        return None
    if legacy and isinstance(node.value, str):
        return _pair(section, node)
    if not node.is_table:
        found = _GO_TYPES.get(type(node.value), kind(node.value))
        section.findings.error(
            node,
            f"Unknown type for service concurrency: {found}",
            allowed='{ type = "requests", soft_limit = 20, hard_limit = 25 }',
        )
        return None
    with Section(node, section.findings) as table:
        limits = Concurrency(
            type=table.choice("type", _CONCURRENCY_TYPES, complain=True),
            soft_limit=table.whole("soft_limit"),
            hard_limit=table.whole("hard_limit"),
        )
        if limits.soft_limit and limits.hard_limit and limits.soft_limit > limits.hard_limit:
            section.findings.complain(
                node, f"the soft limit {limits.soft_limit} is above the hard one, {limits.hard_limit}"
            )
        return limits


def _pair(section: Section, node: Node) -> Concurrency | None:
    """`"20,25"`, from older days."""
    soft, comma, hard = str(node.value).partition(",")
    if not comma or not soft.strip().isdecimal() or not hard.strip().isdecimal():
        section.findings.error(node, f"Unknown value '{node.value}' for concurrency limits", allowed='"20,25"')
        return None
    return Concurrency(type="requests", soft_limit=int(soft), hard_limit=int(hard))


def _processes(section: Section, groups: Groups) -> tuple[str, ...]:
    """Once there are groups, a service has to say whose it is."""
    named = section.processes()
    if not named and groups.commands:
        section.findings.error(
            section.node,
            f"Service has no processes set but app has {len(groups.commands)} processes defined; "
            "update fly.toml to set processes for each service",
            allowed=", ".join(groups.names),
        )
    for name in named:
        if name not in groups.names:
            section.findings.error(
                section.place_of("processes"),
                f"Service specifies '{name}' as one of its processes, but no processes are defined with that name; "
                "update fly.toml [processes] to include it",
                allowed=", ".join(groups.names),
                hint=nearest(name, groups.names),
            )
    return named
