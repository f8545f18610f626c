"""From the flags of `machine run`, `create` and `update` to the `config` of a Machine. Pure.

A flag that was not given changes nothing, so that one rule serves both a new config and a change of an old one. What
has names (env, metadata, ports) is merged by name, everything else is replaced. Raises `InvalidArgument` that names the
flag.
"""

from __future__ import annotations

import copy
import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caddisfly.model.errors import InvalidArgument
from caddisfly.model.guest import resized

_PORT = re.compile(
    r"(?P<outer>\d+)(-(?P<last>\d+))?(:(?P<inner>\d+))?(/(?P<protocol>tcp|udp)(?P<handlers>(:[a-z_]+)*))?"
)
_SIZE = re.compile(r"(\d+)\s*(mb|mib|gb|gib)?", re.IGNORECASE)
_RESTARTS = {"no": "no", "never": "no", "always": "always", "on-failure": "on-failure", "on-fail": "on-failure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user said, as said. None and empty are unsaid, but an empty `command` or `entrypoint` is the image's."""

    image: str = ""
    command: Sequence[str] | None = None
    env: Sequence[str] = ()
    ports: Sequence[str] = ()
    metadata: Sequence[str] = ()
    vm_size: str = ""
    vm_memory: str = ""
    vm_cpus: int = 0
    vm_cpu_kind: str = ""
    restart: str = ""
    autostop: str = ""
    autostart: bool | None = None
    entrypoint: str | None = None
    auto_destroy: bool | None = None

    @property
    def empty(self) -> bool:
        return self == Wish()

    def config(self) -> dict[str, Any]:
        """Of a new Machine."""
        return self.onto({})

    def onto(self, current: Mapping[str, Any]) -> dict[str, Any]:
        """`current`, changed as wished. What is not wished for stays as it is."""
        config = copy.deepcopy(dict(current))
        members = {
            "image": self.image or config.get("image"),
            "env": {**(config.get("env") or {}), **pairs(self.env, "--env")},
            "metadata": {**(config.get("metadata") or {}), **pairs(self.metadata, "--metadata")},
            "guest": self._guest(config.get("guest") or {}),
            "services": self._services(config.get("services") or []),
            "restart": self._restart(config.get("restart") or {}),
            "init": self._init(config.get("init") or {}),
            "auto_destroy": config.get("auto_destroy") if self.auto_destroy is None else self.auto_destroy,
        }
        return config | {name: value for name, value in members.items() if value or config.get(name)}

    def _restart(self, current: dict[str, Any]) -> dict[str, Any]:
        if not self.restart:
            return current
        if self.restart not in _RESTARTS:
            raise InvalidArgument(f"--restart {self.restart!r} is not one of no, on-failure, always")
        return {**current, "policy": _RESTARTS[self.restart]}

    def _init(self, current: dict[str, Any]) -> dict[str, Any]:
        said = {
            "cmd": None if self.command is None else list(self.command),
            "entrypoint": None if self.entrypoint is None else shlex.split(self.entrypoint),
        }
        init = {**current, **{name: words for name, words in said.items() if words is not None}}
        return {name: value for name, value in init.items() if value not in (None, [])}

    def _guest(self, current: dict[str, Any]) -> dict[str, Any]:
        return resized(
            current,
            size=self.vm_size,
            memory_mb=megabytes(self.vm_memory) if self.vm_memory else 0,
            cpus=self.vm_cpus,
            cpu_kind=self.vm_cpu_kind,
        )

    def _services(self, services: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """One service per inner port and protocol: several outer ports may lead to it, each to one only."""
        without_ports = [service for service in services if not service.get("ports")]
        found = {(service.get("internal_port"), service.get("protocol", "tcp")): service for service in services}
        for text in self.ports:
            inner, protocol, port = parse_port(text)
            for (_, other), service in found.items():
                if other == protocol:
                    service["ports"] = [old for old in service.get("ports") or () if _span(old) != _span(port)]
            service = found.setdefault((inner, protocol), {"protocol": protocol, "internal_port": inner, "ports": []})
            service["ports"].append(port)
        if self._automatic() and not found:
            raise InvalidArgument("--autostop and --autostart need a --port", why="requests are what wakes a Machine")
        kept = [s for s in found.values() if s.get("ports") or any(s is one for one in without_ports)]
        return [{**service, **self._automatic()} for service in kept]

    def _automatic(self) -> dict[str, Any]:
        if self.autostop and self.autostop not in ("off", "stop", "suspend"):
            raise InvalidArgument(f"--autostop {self.autostop!r} is not one of off, stop, suspend")
        wire: dict[str, Any] = {"autostop": self.autostop} if self.autostop else {}
        return wire | ({"autostart": self.autostart} if self.autostart is not None else {})


def parse_port(text: str) -> tuple[int, str, dict[str, Any]]:
    """`80:8080/tcp:http:tls`: inner port, protocol, and the entry of `ports`."""
    match = _PORT.fullmatch(text)
    if match is None:
        raise InvalidArgument(
            f"--port {text!r} is not PORT[:MACHINE_PORT][/PROTOCOL[:HANDLER...]]", next="-p 80:8080/tcp:http"
        )
    outer, inner = int(match["outer"]), int(match["inner"] or match["outer"])
    port: dict[str, Any] = {"port": outer}
    if match["last"]:
        port = {"start_port": outer, "end_port": int(match["last"])}
    for number in (outer, inner, int(match["last"] or outer)):
        if not 1 <= number <= 65535:
            raise InvalidArgument(f"--port {text!r}: {number} is not a port", next="use 1 to 65535")
    handlers = [word for word in (match["handlers"] or "").split(":") if word]
    return inner, match["protocol"] or "tcp", {**port, "handlers": handlers} if handlers else port


def _span(port: Mapping[str, Any]) -> tuple[Any, Any]:
    """The outer ports that an entry of `ports` is for, first and last."""
    return port.get("start_port") or port.get("port"), port.get("end_port") or port.get("port")


def pairs(texts: Sequence[str], flag: str) -> dict[str, str]:
    """`NAME=VALUE` words."""
    found = {}
    for text in texts:
        name, equals, value = text.partition("=")
        if not equals or not name:
            raise InvalidArgument(f"{flag} {text!r} is not NAME=VALUE")
        found[name] = value
    return found


def megabytes(text: str) -> int:
    """`512`, `512mb` or `1gb` in MiB."""
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise InvalidArgument(f"--vm-memory {text!r} is not a size", next="such as 512 or 1gb")
    return int(match[1]) * (1024 if (match[2] or "mb").lower().startswith("g") else 1)
