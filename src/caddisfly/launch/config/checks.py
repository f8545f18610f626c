"""Health checks: of services, where they decide who gets requests, and top-level ones, which gate deploys only.

`machine_checks` are commands, run in a Machine of their own for each Machine that a deploy makes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from caddisfly.launch.config import words
from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import Bare, kind
from caddisfly.model.duration import Duration
from caddisfly.model.program import STOP_SIGNALS

TYPES = ("http", "tcp")
SECOND, MINUTE, INTERVAL_MIN = (Duration.of_seconds(seconds) for seconds in (1, 60, 2))
_PROTOCOLS = ("http", "https")
_HTTP_KEYS = ("method", "path", "protocol", "tls_skip_verify", "tls_server_name", "headers")


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """What is not said is None or empty. `name` and `port` are a top-level check's only."""

    type: str
    name: str = ""
    port: int | None = None
    interval: Duration | None = None
    timeout: Duration | None = None
    grace_period: Duration | None = None
    method: str = ""
    path: str = ""
    protocol: str = ""
    tls_skip_verify: bool | None = None
    tls_server_name: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    processes: tuple[str, ...] = ()

    def to_wire(self) -> dict[str, Any]:
        times = {"interval": self.interval, "timeout": self.timeout, "grace_period": self.grace_period}
        wire: dict[str, Any] = {
            "type": self.type,
            "port": self.port,
            **{name: str(time) if time is not None else None for name, time in times.items()},
            "method": self.method,
            "path": self.path,
            "protocol": self.protocol,
            "tls_skip_verify": self.tls_skip_verify,
            "tls_server_name": self.tls_server_name,
            "headers": [{"name": name, "values": [value]} for name, value in self.headers],
        }
        return {name: value for name, value in wire.items() if value not in (None, "", [])}


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineCheck:
    command: tuple[str, ...]
    image: str = ""
    entrypoint: tuple[str, ...] = ()
    kill_signal: str = ""
    kill_timeout: Duration | None = None


def read_service(node: Node, findings: Findings, type: str, bare: Bare) -> Check:
    """An entry of `http_service.checks`, `services.http_checks` or `services.tcp_checks`."""
    with Section(node, findings) as section:
        check = _common(section, type, bare)
        section.ignored("restart_limit", why="it belongs to Fly's first platform")
    return replace(
        check,
        interval=_clamped(section, "interval", check.interval),
        timeout=_clamped(section, "timeout", check.timeout),
        grace_period=_clamped(section, "grace_period", check.grace_period or None, longest=None),
    )


def read_named(node: Node | None, findings: Findings, groups: Groups) -> tuple[Check, ...]:
    """`[checks.NAME]` or, from older days, `[[checks]]` with a `name`."""
    if node is None:
        return ()
    return tuple(_named(name, entry, findings, groups) for name, entry in _entries(node, findings))


def _entries(node: Node, findings: Findings) -> Iterator[tuple[str, Node]]:
    if node.is_table:
        yield from node.members.items()
        return
    if not node.is_list:
        findings.error(node, f"must be a table, got {kind(node.value)}")
        return
    for item in node.value:
        name = item.members.get("name")
        if name is None or not isinstance(name.value, str) or not name.value:
            findings.error(item, "a check without a name")
        else:
            yield name.value, item.with_members({key: one for key, one in item.members.items() if key != "name"})


def _named(name: str, node: Node, findings: Findings, groups: Groups) -> Check:
    with Section(node, findings) as section:
        type = section.text("type")
        if type not in TYPES:
            findings.error(
                section.place_of("type"),
                "Missing or invalid check type, must be 'http' or 'tcp'",
                hint=nearest(type, TYPES),
            )
        check = _common(section, type, Bare.MILLISECONDS)
        section.ignored("restart_limit", why="it belongs to Fly's first platform")
        if check.interval is not None and check.interval < INTERVAL_MIN:
            findings.error(
                section.place_of("interval"),
                f"Check '{name}' interval is too short: {check.interval}, minimum is 2 seconds",
            )
        if check.timeout is not None and check.timeout > MINUTE:
            findings.error(
                section.place_of("timeout"),
                f"Check '{name}' timeout is too long: {check.timeout}, maximum is 60 seconds",
            )
        return replace(
            check, name=name, port=section.port("port"), method=check.method.upper(), processes=groups.read(section)
        )


def _common(section: Section, type: str, bare: Bare) -> Check:
    interval, timeout = section.duration("interval", bare), section.duration("timeout", bare)
    grace_period = section.duration("grace_period", bare)
    if type == "tcp":
        section.ignored(*_HTTP_KEYS, why="a tcp check only connects")
        return Check(type=type, interval=interval, timeout=timeout, grace_period=grace_period)
    return Check(
        type=type,
        interval=interval,
        timeout=timeout,
        grace_period=grace_period,
        method=section.text("method"),
        path=section.text("path"),
        protocol=section.choice("protocol", _PROTOCOLS, complain=True),
        tls_skip_verify=section.flag("tls_skip_verify"),
        tls_server_name=section.text("tls_server_name"),
        headers=_headers(section),
    )


def _headers(section: Section) -> tuple[tuple[str, str], ...]:
    """A table, or a list of tables with `name` and `value`."""
    node = section.node_of("headers")
    if node is None or node.is_table:
        return tuple(section.scalars("headers").items())
    headers = []
    for item in section.tables("headers"):
        with Section(item, section.findings) as header:
            name, value = header.text("name"), header.node_of("value")
            headers.append((name, "" if value is None else words.scalar(value.value)))
    return tuple(headers)


def _clamped(
    section: Section, name: str, time: Duration | None, *, longest: Duration | None = MINUTE
) -> Duration | None:
    """A service's checks run once a second at most, and once a minute at least."""
    if time is None:
        return None
    within = max(time, SECOND) if longest is None else min(max(time, SECOND), longest)
    if within != time:
        limits = f"at least {SECOND}" + (f" and at most {longest}" if longest else "")
        section.findings.warn(section.place_of(name), f"{time} is used as {within}: {limits}")
    return within


def read_machine(node: Node, findings: Findings) -> MachineCheck:
    with Section(node, findings) as section:
        command = section.texts("command")
        if not command:
            findings.error(section.place_of("command"), "missing command for test machine")
        return MachineCheck(
            command=command,
            image=section.text("image"),
            entrypoint=section.texts("entrypoint"),
            kill_signal=section.choice("kill_signal", STOP_SIGNALS, complain=True),
            kill_timeout=section.duration("kill_timeout", Bare.ACCIDENT),
        )
