"""`services.ports`: the external ports of a service, and what the proxy does on each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config import http_options
from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.http_options import HttpOptions, TlsOptions
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import Section

HANDLERS = ("http", "tls", "proxy_proto", "pg_tls", "edge_http", "tcp")


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Either `port`, or a range from `start` to `end`, inclusive. Without handlers it is raw TCP or UDP."""

    port: int | None = None
    start: int | None = None
    end: int | None = None
    handlers: tuple[str, ...] = ()
    force_https: bool = False
    http_options: HttpOptions | None = None
    tls_options: TlsOptions | None = None
    proxy_protocol: str = ""

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last external port."""
        return (self.port, self.port) if self.port is not None else (self.start or 0, self.end or 65535)

    def to_wire(self) -> dict[str, Any]:
        wire: dict[str, Any] = {
            "port": self.port,
            "start_port": self.start,
            "end_port": self.end,
            "handlers": list(self.handlers) or None,
            "force_https": self.force_https or None,
            "tls_options": self.tls_options.to_wire() if self.tls_options else None,
            "http_options": self.http_options.to_wire() if self.http_options else None,
            "proxy_proto_options": {"version": self.proxy_protocol} if self.proxy_protocol else None,
        }
        return {name: value for name, value in wire.items() if value is not None}


def read(node: Node, findings: Findings) -> Port:
    with Section(node, findings) as section:
        port = Port(
            port=section.port("port", text_too=True),
            start=section.port("start_port", text_too=True),
            end=section.port("end_port", text_too=True),
            handlers=section.choices("handlers", HANDLERS),
            force_https=bool(section.flag("force_https")),
            http_options=http_options.read(section.node_of("http_options"), findings),
            tls_options=http_options.read_tls(section.node_of("tls_options"), findings),
            proxy_protocol=http_options.read_proxy_protocol(section.node_of("proxy_proto_options"), findings),
        )
        ranged = "start_port" in node.members or "end_port" in node.members
        if ranged == ("port" in node.members):
            findings.complain(node, "give either port, or start_port and end_port")
        elif ranged and port.span[0] > port.span[1]:
            findings.error(section.place_of("start_port"), f"the range {port.span[0]} to {port.span[1]} is empty")
        if port.force_https and "http" not in port.handlers:
            findings.complain(section.place_of("force_https"), "the port has no http handler")
        return port
