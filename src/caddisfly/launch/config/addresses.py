"""How an app is reached from outside: the URL to show, and whether it can share an address with others."""

from __future__ import annotations

from collections.abc import Iterator

from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.ports import Port
from caddisfly.launch.config.services import Service

_SHARED = {80: {"http"}, 443: {"http", "tls"}}
"""What an address that several apps share can serve: the host name says which app is meant."""


def public_url(app: AppConfig, host: str) -> str:
    """Empty when a browser cannot open it."""
    if app.http_service:
        return f"https://{host}/"
    ports = [
        (port, set(port.handlers)) for service in app.services for port in service.ports if "http" in port.handlers
    ]
    tls = sorted(port.span[0] for port, handlers in ports if "tls" in handlers)
    plain = sorted(port.span[0] for port, handlers in ports if "tls" not in handlers)
    if 443 in tls:
        return f"https://{host}/"
    if 80 in plain:
        return f"http://{host}/"
    if tls:
        return f"https://{host}:{tls[0]}/"
    return f"http://{host}:{plain[0]}/" if plain else ""


def needs_own_address(app: AppConfig) -> bool:
    """Whether a request does not say by itself which app it is for."""
    return any(not _shareable(service, port) for service, port in _outer(app))


def _outer(app: AppConfig) -> Iterator[tuple[Service, Port]]:
    return ((service, port) for service in app.services for port in service.ports)


def _shareable(service: Service, port: Port) -> bool:
    return service.protocol == "tcp" and port.port is not None and _SHARED.get(port.port) == set(port.handlers)
