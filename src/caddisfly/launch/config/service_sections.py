"""From the services of Machines to `[http_service]` and `[[services]]`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_AUTOSTOP = {False: "off", True: "stop", "suspend": "suspend"}
_PLAIN = ("protocol", "internal_port")
_HTTP_HANDLERS = {80: ["http"], 443: ["http", "tls"]}

Values = dict[str, Any]


def service_sections(configs: Mapping[str, Mapping[str, Any]], *, named: bool) -> tuple[Values, list[Values]]:
    """There is one `http_service` in a file: the first service that has its shape, for all the groups that have it.

    `named` says that the file has `[processes]`: then a service has to say whose it is.
    """
    http: Values = {}
    found: list[tuple[Values, list[str]]] = []
    http_groups: list[str] = []
    for group, config in configs.items():
        for number, service in enumerate(config.get("services") or ()):
            short = _http(service) if number == 0 else {}
            if short and (not http or short == http):
                http = short
                http_groups.append(group)
                continue
            said = _service(service)
            owners = next((owners for entry, owners in found if entry == said), None)
            if owners is None:
                found.append((said, [group]))
            else:
                owners.append(group)
    services = [{**said, "processes": owners} if named else said for said, owners in found]
    return {**http, "processes": http_groups} if http and named else http, services


def _http(service: Mapping[str, Any]) -> Values:
    """Empty when it is not what `http_service` stands for."""
    ports = {port.get("port"): port for port in service.get("ports") or ()}
    checks = service.get("checks") or []
    if service.get("protocol") != "tcp" or len(service.get("ports") or ()) != 2 or set(ports) != set(_HTTP_HANDLERS):
        return {}
    if any(ports[number].get("handlers") != handlers for number, handlers in _HTTP_HANDLERS.items()):
        return {}
    plain, tls = dict(ports[80]), dict(ports[443])
    if plain.get("http_options") != tls.get("http_options") or plain.get("tls_options") or tls.get("force_https"):
        return {}
    if any(check.get("type") != "http" or check.get("port") for check in checks):
        return {}
    said = _given(
        {
            "internal_port": service.get("internal_port"),
            "force_https": plain.get("force_https"),
            **_automatic(service),
            "concurrency": service.get("concurrency"),
            "http_options": plain.get("http_options"),
            "tls_options": tls.get("tls_options"),
            "checks": [_check(check) for check in checks],
        }
    )
    return said


def _service(service: Mapping[str, Any]) -> Values:
    checks = service.get("checks") or []
    return _given(
        {
            **{name: service.get(name) for name in _PLAIN},
            **_automatic(service),
            "concurrency": service.get("concurrency"),
            "ports": list(service.get("ports") or ()),
            "tcp_checks": [_check(check) for check in checks if check.get("type") == "tcp"],
            "http_checks": [_check(check) for check in checks if check.get("type") == "http"],
        }
    )


def _automatic(service: Mapping[str, Any]) -> Values:
    stop = service.get("autostop")
    return {
        "auto_stop_machines": _AUTOSTOP[stop] if stop is not None else None,
        "auto_start_machines": service.get("autostart"),
        "min_machines_running": service.get("min_machines_running"),
    }


def _check(check: Mapping[str, Any]) -> Values:
    said = {name: value for name, value in check.items() if name not in ("type", "port")}
    if said.get("headers"):
        said["headers"] = {one["name"]: next(iter(one.get("values") or ("",))) for one in said["headers"]}
    return said


def _given(values: Values) -> Values:
    return {name: value for name, value in values.items() if value not in (None, [], {})}
