"""Health checks: what a config asks for (reference machines-api, 2.6), and what was last found (part 3).

A check of a service, and a top-level one of kind `readiness`, takes the Machine out of balancing while it fails; any
other only informs. That is decided where the config is read and travels with the result, so that the edge needs no
config to obey it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from caddisfly.model import member
from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument

PASSING: Final = "passing"
WARNING: Final = "warning"
"""Part of Fly's API; nothing here gives it yet."""
CRITICAL: Final = "critical"
NOT_YET: Final = "the check has not run yet"

KINDS: Final = ("http", "tcp", "exec")
"""Those of containers; `exec` is theirs alone."""
CHECKS_MAX = 32
"""Checks of one Machine: each is a task of the agent and an entry in the catalog."""
INTERVAL_MIN = Duration.of_seconds(1)
_LONGEST_S = 60.0
"""As on Fly, longer timeouts, and longer times of a service's checks, act as this."""
_DURATIONS = ("interval", "timeout", "grace_period")
_HTTP_METHOD = re.compile(r"[A-Za-z]{1,16}")
_HTTP_PATH = re.compile(r"/[\x21-\x7e]{0,2047}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")
_INTERVAL_S, _TIMEOUT_S, _GRACE_S = 15.0, 2.0, 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """One configured check of a running Machine, as it was last found."""

    name: str
    status: str
    output: str
    updated_at: str
    """RFC 3339. It moves with the status only."""
    readiness: bool = False
    """Whether the edge avoids the Machine while this is critical."""
    internal_port: int = 0
    """Only for the service behind this port. 0: for all of them."""
    container: str = ""
    """Whose it is, in a Machine of several."""

    def to_wire(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("name", "status", "output", "updated_at")}

    def to_record(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_record(cls, record: Mapping[str, Any]) -> Check:
        return cls(**{name: record[name] for name in cls.__dataclass_fields__ if name in record})

    def keeps_from(self, internal_port: int) -> bool:
        """Whether the service behind this port should get no requests because of it."""
        return self.readiness and self.status == CRITICAL and self.internal_port in (0, internal_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckConfig:
    """What to ask, and how often, with every default filled in."""

    name: str
    type: str
    port: int
    readiness: bool = False
    internal_port: int = 0
    interval_s: float = _INTERVAL_S
    timeout_s: float = _TIMEOUT_S
    grace_s: float = _GRACE_S
    method: str = "GET"
    path: str = "/"
    tls: bool = False
    tls_skip_verify: bool = False
    tls_server_name: str = ""
    headers: tuple[tuple[str, str], ...] = ()
    command: tuple[str, ...] = ()
    """What an `exec` check runs; it passes when that ends with 0."""
    container: str = ""
    """Whose it is, in a Machine of several."""
    passes: int = 1
    """So many passes in a row turn it to passing, and so many `failures` to critical."""
    failures: int = 1
    stops: bool = False
    """Whether its container is stopped when it turns critical."""

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any], *, name: str, internal_port: int = 0) -> CheckConfig:
        """`wire` has been checked. An `internal_port` makes it a service's, which is always about readiness."""
        service = internal_port > 0
        longest_s = _LONGEST_S if service else float("inf")
        return cls(
            name=name,
            type=wire["type"],
            port=wire.get("port") or internal_port,
            readiness=service or wire.get("kind") == "readiness",
            internal_port=internal_port,
            interval_s=min(_seconds(wire, "interval", _INTERVAL_S), longest_s),
            timeout_s=min(_seconds(wire, "timeout", _TIMEOUT_S), _LONGEST_S),
            grace_s=min(_seconds(wire, "grace_period", _GRACE_S), longest_s),
            method=(wire.get("method") or "GET").upper(),
            path=wire.get("path") or "/",
            tls=wire.get("protocol") == "https",
            tls_skip_verify=bool(wire.get("tls_skip_verify")),
            tls_server_name=wire.get("tls_server_name") or "",
            headers=headers(wire),
        )

    def found(self, status: str, output: str, *, updated_at: str) -> Check:
        """The result of this check."""
        return Check(
            name=self.name,
            status=status,
            output=output,
            updated_at=updated_at,
            readiness=self.readiness,
            internal_port=self.internal_port,
            container=self.container,
        )


def headers(wire: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """Of an http check, each with each of its values."""
    return tuple(
        (header["name"], value) for header in wire.get("headers") or () for value in header.get("values") or ()
    )


def configured(config: Mapping[str, Any]) -> tuple[CheckConfig, ...]:
    """The checks of a checked `config`, in the order in which clients see them."""
    made = [CheckConfig.from_wire(check, name=name) for name, check in (config.get("checks") or {}).items()]
    number = 0
    for service in config.get("services") or ():
        internal_port = service.get("internal_port") or 8080
        for check in service.get("checks") or ():
            port = check.get("port") or internal_port
            name = f"servicecheck-{number:02d}-{check['type']}-{port}"
            made.append(CheckConfig.from_wire(check, name=name, internal_port=internal_port))
            number += 1
    return tuple(made)


def checked(value: object, field: str) -> dict[str, Any]:
    """A check as a client sent it, normalised. Raises `InvalidArgument`."""
    wire = member.mapping(value, field)
    for name in _DURATIONS:
        if name in wire:
            wire[name] = str(_check_time(name, Duration.parse(wire[name], field=f"{field}.{name}"), field))
    if "port" in wire:
        wire["port"] = member.whole(wire["port"], f"{field}.port", 1, 65535)
    if not wire.get("type"):
        raise InvalidArgument(f"missing {field}.type", next="give tcp or http")
    member.one_of(wire["type"], f"{field}.type", ("tcp", "http"))
    if wire.get("kind"):
        member.one_of(wire["kind"], f"{field}.kind", ("informational", "readiness"))
    if wire.get("protocol"):
        member.one_of(wire["protocol"], f"{field}.protocol", ("http", "https"))
    if wire.get("method") and not _HTTP_METHOD.fullmatch(member.text(wire["method"], f"{field}.method")):
        raise InvalidArgument(f"invalid {field}.method, {wire['method']!r} is not a method such as GET")
    if wire.get("path") and not _HTTP_PATH.fullmatch(member.text(wire["path"], f"{field}.path")):
        raise InvalidArgument(f"invalid {field}.path, {wire['path']!r} is not a path such as /health")
    if "tls_skip_verify" in wire:
        member.flag(wire["tls_skip_verify"], f"{field}.tls_skip_verify")
    if wire.get("tls_server_name") and not _HOST_NAME.fullmatch(
        member.text(wire["tls_server_name"], f"{field}.tls_server_name")
    ):
        raise InvalidArgument(f"invalid {field}.tls_server_name, {wire['tls_server_name']!r} is not a host name")
    for index, header in enumerate(member.sequence(wire.get("headers", []), f"{field}.headers")):
        _header(header, f"{field}.headers[{index}]")
    return wire


def _check_time(name: str, time: Duration, field: str) -> Duration:
    least = {"interval": INTERVAL_MIN, "timeout": Duration(1)}.get(name, Duration(0))
    if time < least:
        raise InvalidArgument(f"invalid {field}.{name}, must be at least {least}, got {time}")
    return time


def _header(value: object, field: str) -> None:
    wire = member.mapping(value, field)
    name = member.text(wire.get("name", ""), f"{field}.name")
    if not _HEADER_NAME.fullmatch(name):
        raise InvalidArgument(f"invalid {field}.name, {name!r} is not the name of a header")
    for text in member.texts(wire.get("values", []), f"{field}.values"):
        if not _HEADER_VALUE.fullmatch(text):
            raise InvalidArgument(f"invalid {field}.values, {text!r} cannot be sent in a header")


def _seconds(wire: Mapping[str, Any], name: str, default_s: float) -> float:
    return Duration.parse(wire[name]).seconds if name in wire else default_s
