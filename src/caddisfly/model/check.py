"""Health checks: what a config asks for (reference machines-api, 2.6), and what was last found (part 3).

A check of a service, and a top-level one of kind `readiness`, takes the Machine out of balancing while it fails; any
other only informs. That is decided where the config is read and travels with the result, so that the edge needs no
config to obey it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final

from caddisfly.model.duration import Duration

PASSING: Final = "passing"
WARNING: Final = "warning"
"""Part of Fly's API; nothing here gives it yet."""
CRITICAL: Final = "critical"
NOT_YET: Final = "the check has not run yet"

CHECKS_MAX = 32
"""Checks of one Machine: each is a task of the agent and an entry in the catalog."""
INTERVAL_MIN = Duration.of_seconds(1)
_LONGEST_S = 60.0
"""As on Fly, longer timeouts, and longer times of a service's checks, act as this."""
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
            headers=tuple(
                (header["name"], value) for header in wire.get("headers") or () for value in header.get("values") or ()
            ),
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


def _seconds(wire: Mapping[str, Any], name: str, default_s: float) -> float:
    return Duration.parse(wire[name]).seconds if name in wire else default_s
