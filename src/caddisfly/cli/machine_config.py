"""From the flags of `machine run` to the `config` of a Machine. Pure; raises `InvalidArgument` naming the flag."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from caddisfly.model.errors import InvalidArgument
from caddisfly.model.guest import Guest

_PORT = re.compile(
    r"(?P<outer>\d+)(-(?P<last>\d+))?(:(?P<inner>\d+))?(/(?P<protocol>tcp|udp)(?P<handlers>(:[a-z_]+)*))?"
)
_SIZE = re.compile(r"(\d+)\s*(mb|mib|gb|gib)?", re.IGNORECASE)
_RESTARTS = {"no": "no", "never": "no", "always": "always", "on-failure": "on-failure", "on-fail": "on-failure"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What the user said, as said."""

    image: str
    command: Sequence[str] = ()
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
    entrypoint: str = ""
    auto_destroy: bool = False

    def config(self) -> dict[str, Any]:
        config: dict[str, Any] = {"image": self.image, "env": pairs(self.env, "--env")}
        config["metadata"] = pairs(self.metadata, "--metadata")
        config["guest"] = self._guest()
        config["services"] = self._services()
        if self.restart:
            if self.restart not in _RESTARTS:
                raise InvalidArgument(f"--restart {self.restart!r} is not one of no, on-failure, always")
            config["restart"] = {"policy": _RESTARTS[self.restart]}
        init: dict[str, Any] = {}
        if self.command:
            init["cmd"] = list(self.command)
        if self.entrypoint:
            init["entrypoint"] = shlex.split(self.entrypoint)
        config["init"] = init
        config["auto_destroy"] = self.auto_destroy
        return {key: value for key, value in config.items() if value not in ({}, [], False, None)}

    def _guest(self) -> dict[str, Any] | None:
        if not (self.vm_size or self.vm_memory or self.vm_cpus or self.vm_cpu_kind):
            return None
        wire = Guest.of_preset(self.vm_size).to_wire() if self.vm_size else {}
        if self.vm_cpu_kind:
            wire["cpu_kind"] = self.vm_cpu_kind
        if self.vm_cpus:
            wire["cpus"] = self.vm_cpus
        if self.vm_memory:
            wire["memory_mb"] = megabytes(self.vm_memory)
        return Guest.from_wire(wire).to_wire()

    def _services(self) -> list[dict[str, Any]]:
        """One service per inner port and protocol: several outer ports may lead to it."""
        found: dict[tuple[int, str], dict[str, Any]] = {}
        for text in self.ports:
            inner, protocol, port = parse_port(text)
            service = found.setdefault(
                (inner, protocol), {"protocol": protocol, "internal_port": inner, "ports": [], **self._automatic()}
            )
            service["ports"].append(port)
        if self._automatic() and not found:
            raise InvalidArgument("--autostop and --autostart need a --port", why="requests are what wakes a Machine")
        return list(found.values())

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
