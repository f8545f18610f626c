"""Services: which ports of a Machine the edge serves, and how (reference machines-api, 2.5)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """An external port, or a range of them, inclusive."""

    start: int
    end: int
    handlers: tuple[str, ...] = ()
    force_https: bool = False

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Port:
        single = wire.get("port")
        return cls(
            start=single if single is not None else wire.get("start_port") or 0,
            end=single if single is not None else wire.get("end_port") or 65535,
            handlers=tuple(wire.get("handlers") or ()),
            force_https=bool(wire.get("force_https")),
        )

    def covers(self, port: int) -> bool:
        return self.start <= port <= self.end


@dataclass(frozen=True, slots=True, kw_only=True)
class Service:
    """What the edge needs to know of one entry of `config.services`."""

    protocol: str = "tcp"
    internal_port: int = 8080
    ports: tuple[Port, ...] = ()
    autostart: bool = True
    """Unset counts as true: only an explicit false means "never start" (reference 2.5)."""
    autostop: str = "off"
    """off, stop or suspend: what becomes of a Machine that is not needed."""
    min_machines_running: int = 0
    """How many of them autostop leaves running, in the primary region of the app."""
    concurrency_type: str = "connections"
    soft_limit: int = 20
    hard_limit: int | None = None
    wire: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Service:
        concurrency = wire.get("concurrency") or {}
        return cls(
            protocol=wire.get("protocol") or "tcp",
            internal_port=wire.get("internal_port") or 8080,
            ports=tuple(Port.from_wire(port) for port in wire.get("ports") or ()),
            autostart=wire.get("autostart") is not False,
            autostop={True: "stop", "suspend": "suspend"}.get(wire.get("autostop") or "", "off"),
            min_machines_running=wire.get("min_machines_running") or 0,
            concurrency_type=concurrency.get("type") or "connections",
            soft_limit=concurrency.get("soft_limit") or 20,
            hard_limit=concurrency.get("hard_limit") or None,
            wire=wire,
        )

    def http_port(self, port: int) -> Port | None:
        """The entry that serves HTTP on this external port."""
        for entry in self.ports:
            if entry.covers(port) and ("http" in entry.handlers or "edge_http" in entry.handlers):
                return entry
        return None
