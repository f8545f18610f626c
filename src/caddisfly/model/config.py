"""`config`, the heart of a Machine (reference machines-api, part 2).

It is kept as the JSON that the client sent, not as a class with a field for each known member. Clients compare what
they get back with what they sent and replace a Machine when the two differ, so members that this version does not know
must come back too, and nothing may be filled in that was not asked for. `Config.parse` therefore checks and
normalises the JSON in place of decoding it, and properties read the few members that this version acts on.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from caddisfly.model import check, member
from caddisfly.model.check import CheckConfig
from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.guest import Guest
from caddisfly.model.service import Service

STOP_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGSTOP")
STOP_TIMEOUT_DEFAULT = Duration.of_seconds(5)
STOP_TIMEOUT_MAX = Duration.of_seconds(300)
ROOT_MAX_GB = 50
SWAP_MAX_MB = 64 << 10
_PERSIST = ("none", "never", "restart", "always")
_PERSIST_NUMBERS = ("never", "never", "restart", "always")
_POLICIES = ("no", "always", "on-failure", "spot-price")
_SCHEDULES = ("hourly", "daily", "weekly", "monthly")
_HANDLERS = ("http", "tls", "pg_tls", "proxy_proto", "edge_http", "tcp")
_DURATIONS = ("interval", "timeout", "grace_period")
_HTTP_METHOD = re.compile(r"[A-Za-z]{1,16}")
_HTTP_PATH = re.compile(r"/[\x21-\x7e]{0,2047}")
_HOST_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,253}")
_HEADER_NAME = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,4096}")


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """What happens when the main process ends by itself (reference 4.4)."""

    policy: str = "on-failure"
    max_retries: int = 10


@dataclass(frozen=True, slots=True)
class StopConfig:
    signal: str = "SIGINT"
    timeout: Duration = STOP_TIMEOUT_DEFAULT


@dataclass(frozen=True, slots=True)
class GuestFile:
    """A file written before the process starts, on every boot. `mode` is the chmod bits."""

    guest_path: str
    content: bytes
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class Config:
    """A checked `config`. `wire` is what clients see; treat it as frozen."""

    wire: Mapping[str, Any]
    _guest: list[Guest] = field(default_factory=list, init=False, repr=False, compare=False)
    """Read once: a host counts the guests of all its Machines for every bid."""

    @classmethod
    def parse(cls, raw: object) -> Config:
        """Check and normalise. Raises `InvalidArgument` that names the member and what is allowed."""
        if not isinstance(raw, Mapping):
            raise InvalidArgument("missing config", next='send {"config": {"image": "..."}}')
        wire: dict[str, Any] = _without_nulls(raw)
        for name, normalise in _CHECKS.items():
            if name in wire:
                wire[name] = normalise(wire[name], f"config.{name}")
        if not wire.get("image") and not wire.get("containers"):
            raise InvalidArgument("missing config.image", next="name an OCI image, such as nginx")
        size = wire.pop("size", None)
        if "guest" not in wire or not wire["guest"]:
            wire["guest"] = (Guest.of_preset(size) if size else Guest()).to_wire()
        elif size:
            raise InvalidArgument("config.guest and config.size exclude each other", next="keep config.guest")
        count = len(wire.get("checks", ())) + sum(len(one.get("checks", ())) for one in wire.get("services", ()))
        if count > check.CHECKS_MAX:
            raise InvalidArgument(f"too many checks in config, at most {check.CHECKS_MAX}, got {count}")
        wire = {name: value for name, value in wire.items() if not member.empty(value)}
        wire["init"] = wire.get("init", {})
        wire["dns"] = wire.get("dns", {})
        return cls(wire)

    @property
    def image(self) -> str:
        return str(self.wire.get("image", ""))

    @property
    def env(self) -> Mapping[str, str]:
        return self.wire.get("env") or {}

    @property
    def metadata(self) -> Mapping[str, str]:
        return self.wire.get("metadata") or {}

    def with_metadata(self, changes: Mapping[str, str | None]) -> Config:
        """Named keys are set, those without a value are removed, others stay (reference M16)."""
        merged = {name: value for name, value in {**self.metadata, **changes}.items() if value}
        wire = {name: value for name, value in self.wire.items() if name != "metadata"}
        return Config({**wire, "metadata": merged} if merged else wire)

    @property
    def guest(self) -> Guest:
        if not self._guest:
            self._guest.append(Guest.from_wire(self.wire["guest"]))
        return self._guest[0]

    @property
    def services(self) -> tuple[Service, ...]:
        return tuple(Service.from_wire(service) for service in self.wire.get("services") or ())

    @property
    def checks(self) -> tuple[CheckConfig, ...]:
        return check.configured(self.wire)

    @property
    def restart(self) -> RestartPolicy:
        wire = self.wire.get("restart") or {}
        return RestartPolicy(wire.get("policy") or "on-failure", wire.get("max_retries") or 10)

    @property
    def stop_config(self) -> StopConfig:
        wire = self.wire.get("stop_config") or {}
        timeout = Duration.parse(wire["timeout"]) if wire.get("timeout") else Duration(0)
        return StopConfig(wire.get("signal") or "SIGINT", timeout or STOP_TIMEOUT_DEFAULT)

    @property
    def persist(self) -> str:
        """What the root outlives: never, restart (also a stop and a start), or always (an update, too)."""
        said = (self.wire.get("rootfs") or {}).get("persist") or self.wire["guest"].get("persist_rootfs") or "never"
        return _PERSIST_NUMBERS[said] if isinstance(said, int) else "never" if said == "none" else str(said)

    @property
    def root_size_mb(self) -> int:
        """MiB of the writable layer. 0: what the host gives."""
        rootfs = self.wire.get("rootfs") or {}
        return int(rootfs.get("fs_size_gb") or rootfs.get("size_gb") or 0) << 10

    @property
    def tty(self) -> bool:
        """Whether its console is a terminal."""
        return bool((self.wire.get("init") or {}).get("tty"))

    @property
    def swap_mb(self) -> int:
        return int((self.wire.get("init") or {}).get("swap_size_mb") or 0)

    @property
    def kernel_args(self) -> tuple[str, ...]:
        """For a kernel of its own, which a container has not."""
        return tuple((self.wire.get("init") or {}).get("kernel_args") or self.wire["guest"].get("kernel_args") or ())

    @property
    def schedule(self) -> str:
        """hourly, daily, weekly, monthly, or empty."""
        return str(self.wire.get("schedule") or "")

    @property
    def auto_destroy(self) -> bool:
        return bool(self.wire.get("auto_destroy"))

    @property
    def files(self) -> tuple[GuestFile, ...]:
        return tuple(
            GuestFile(entry["guest_path"], base64.b64decode(entry["raw_value"]), entry.get("mode") or 0o644)
            for entry in self.wire.get("files") or ()
            if "raw_value" in entry
        )

    @property
    def hostname(self) -> str:
        return str((self.wire.get("dns") or {}).get("hostname") or "")

    def argv(self, *, entrypoint: tuple[str, ...], cmd: tuple[str, ...]) -> tuple[str, ...]:
        """The command line, from `init` over the image's own (reference 2.2).

        An entrypoint of our own drops the image's cmd, as `docker run --entrypoint` does: the image's arguments were
        written for the image's program.
        """
        init = self.wire.get("init") or {}
        if init.get("exec"):
            return tuple(init["exec"])
        if init.get("entrypoint"):
            return (*init["entrypoint"], *(init.get("cmd") or ()))
        return (*entrypoint, *(init.get("cmd") or cmd))


def _without_nulls(value: Any) -> Any:
    """JSON null means absent (FLAME and generated SDKs send it for everything that is unset)."""
    if isinstance(value, Mapping):
        return {key: _without_nulls(inner) for key, inner in value.items() if inner is not None}
    if isinstance(value, list):
        return [_without_nulls(inner) for inner in value if inner is not None]
    return value


def _guest(value: object, field: str) -> dict[str, Any]:
    wire = member.mapping(value, field)
    guest = Guest.from_wire(wire)
    if "kernel_args" in wire:
        member.texts(wire["kernel_args"], f"{field}.kernel_args")
    if wire.get("persist_rootfs"):
        numbers = tuple(range(len(_PERSIST_NUMBERS)))
        member.one_of(wire["persist_rootfs"], f"{field}.persist_rootfs", (*_PERSIST, *numbers))
    return {name: inner for name, inner in {**wire, **guest.to_wire()}.items() if not member.empty(inner)}


def _init(value: object, field: str) -> dict[str, Any]:
    wire = member.mapping(value, field)
    for name in ("exec", "entrypoint", "cmd", "kernel_args"):
        if name in wire:
            wire[name] = member.texts(wire[name], f"{field}.{name}")
    if "tty" in wire:
        member.flag(wire["tty"], f"{field}.tty")
    if "swap_size_mb" in wire:
        wire["swap_size_mb"] = member.whole(wire["swap_size_mb"], f"{field}.swap_size_mb", 0, SWAP_MAX_MB)
    return {name: inner for name, inner in wire.items() if not member.empty(inner)}


def _rootfs(value: object, field: str) -> dict[str, Any]:
    wire = member.mapping(value, field)
    if wire.get("persist"):
        member.one_of(wire["persist"], f"{field}.persist", _PERSIST)
    for name in ("size_gb", "fs_size_gb"):
        if name in wire:
            wire[name] = member.whole(wire[name], f"{field}.{name}", 0, ROOT_MAX_GB)
    if wire.get("fs_size_gb", 0) > (wire.get("size_gb") or ROOT_MAX_GB):
        raise InvalidArgument(f"invalid {field}.fs_size_gb, must not exceed size_gb, which is {wire['size_gb']}")
    if wire.get("fs_type"):
        member.one_of(wire["fs_type"], f"{field}.fs_type", ("ext4",))
    return {name: inner for name, inner in wire.items() if not member.empty(inner)}


def _restart(value: object, field: str) -> dict[str, Any]:
    wire = member.mapping(value, field)
    if wire.get("policy"):
        member.one_of(wire["policy"], f"{field}.policy", _POLICIES)
    if "max_retries" in wire:
        wire["max_retries"] = member.whole(wire["max_retries"], f"{field}.max_retries", 0, 1_000_000)
    return {name: inner for name, inner in wire.items() if not member.empty(inner)}


def stop_signal(value: str) -> str:
    """Itself; empty means the Machine's own. Raises `InvalidArgument` for one that stops nothing (reference M7)."""
    if value and value not in STOP_SIGNALS:
        raise InvalidArgument(f"invalid signal, {value!r} is not one of {', '.join(STOP_SIGNALS)}")
    return value


def stop_timeout(value: object, field: str) -> Duration:
    """A stop timeout: a duration of at most 300 s; zero means the default (reference M7)."""
    timeout = Duration.parse(value, field=field)
    if not 0 <= timeout <= STOP_TIMEOUT_MAX:
        raise InvalidArgument(f"invalid {field}, must be from 0s to {STOP_TIMEOUT_MAX}, got {timeout}")
    return timeout


def _stop_config(value: object, field: str) -> dict[str, Any]:
    wire = member.mapping(value, field)
    if wire.get("signal"):
        member.one_of(wire["signal"], f"{field}.signal", STOP_SIGNALS)
    if "timeout" in wire:
        wire["timeout"] = str(stop_timeout(wire["timeout"], f"{field}.timeout"))
    return wire


def _check(value: object, field: str) -> dict[str, Any]:
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
    least = {"interval": check.INTERVAL_MIN, "timeout": Duration(1)}.get(name, Duration(0))
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


def _named_checks(value: object, field: str) -> dict[str, Any]:
    checks = {name: _check(inner, f"{field}.{name}") for name, inner in member.mapping(value, field).items()}
    for name, wire in checks.items():
        if "port" not in wire:
            raise InvalidArgument(f"missing {field}.{name}.port", next="name the port inside the Machine to ask")
    return checks


def _service(value: object, field: str) -> dict[str, Any]:
    wire = member.mapping(value, field)
    member.one_of(wire.get("protocol", "tcp"), f"{field}.protocol", ("tcp", "udp"))
    if "internal_port" in wire:
        wire["internal_port"] = member.whole(wire["internal_port"], f"{field}.internal_port", 1, 65535)
    if "autostop" in wire:
        # In: "off", "stop", "suspend" or a boolean. Out: false, true or "suspend" (reference 2.5).
        allowed = {"off": False, "stop": True, "suspend": "suspend", True: True, False: False}
        if not isinstance(wire["autostop"], str | bool) or wire["autostop"] not in allowed:
            raise InvalidArgument(f'invalid {field}.autostop, {wire["autostop"]!r} is not "off", "stop" or "suspend"')
        wire["autostop"] = allowed[wire["autostop"]]
    if "autostart" in wire:
        member.flag(wire["autostart"], f"{field}.autostart")
    for index, port in enumerate(member.sequence(wire.get("ports", []), f"{field}.ports")):
        _port(port, f"{field}.ports[{index}]")
    if "checks" in wire:
        wire["checks"] = [
            _check(one, f"{field}.checks[{index}]")
            for index, one in enumerate(member.sequence(wire["checks"], f"{field}.checks"))
        ]
    wire.setdefault("force_instance_key", None)
    return wire


def _port(value: object, field: str) -> None:
    wire = member.mapping(value, field)
    for name in ("port", "start_port", "end_port"):
        if name in wire:
            wire[name] = member.whole(wire[name], f"{field}.{name}", 0 if name == "start_port" else 1, 65535)
    for handler in member.texts(wire.get("handlers", []), f"{field}.handlers"):
        member.one_of(handler, f"{field}.handlers", _HANDLERS)
    if wire.get("force_https") and "http" not in wire.get("handlers", []):
        raise InvalidArgument(f"invalid {field}.force_https, the port has no http handler")


def _services(value: object, field: str) -> list[Any]:
    return [_service(item, f"{field}[{index}]") for index, item in enumerate(member.sequence(value, field))]


def _mounts(value: object, field: str) -> list[Any]:
    mounts = member.sequence(value, field)
    if len(mounts) > 1:
        raise InvalidArgument(f"invalid {field}, a Machine has at most one mount, got {len(mounts)}")
    for mount in mounts:
        path = member.text(member.mapping(mount, field).get("path", ""), f"{field}[0].path")
        if not path.startswith("/") or path.strip("/") == "":
            raise InvalidArgument(f"invalid {field}[0].path, must be absolute and not /, got {path!r}")
    return mounts


def _files(value: object, field: str) -> list[Any]:
    for index, item in enumerate(member.sequence(value, field)):
        entry = member.mapping(item, f"{field}[{index}]")
        path = member.text(entry.get("guest_path", ""), f"{field}[{index}].guest_path")
        if not path.startswith("/") or ".." in path.split("/") or path.endswith("/"):
            raise InvalidArgument(f"invalid {field}[{index}].guest_path, must be an absolute file path, got {path!r}")
        if sum(name in entry for name in ("raw_value", "secret_name", "image_config")) != 1:
            raise InvalidArgument(
                f"invalid {field}[{index}], give exactly one of raw_value, secret_name and image_config"
            )
        if "raw_value" in entry:
            try:
                base64.b64decode(member.text(entry["raw_value"], f"{field}[{index}].raw_value"), validate=True)
            except binascii.Error as error:
                raise InvalidArgument(f"invalid {field}[{index}].raw_value, not base64", why=str(error)) from error
        if "mode" in entry:
            entry["mode"] = member.whole(entry["mode"], f"{field}[{index}].mode", 0, 0o7777)
    return list(value)  # type: ignore[call-overload, no-any-return]


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "image": member.text,
    "env": member.string_map,
    "metadata": member.string_map,
    "guest": _guest,
    "init": _init,
    "rootfs": _rootfs,
    "restart": _restart,
    "stop_config": _stop_config,
    "services": _services,
    "checks": _named_checks,
    "mounts": _mounts,
    "files": _files,
    "auto_destroy": member.flag,
    "schedule": lambda value, field: member.one_of(value, field, _SCHEDULES),
    "dns": member.mapping,
    "size": member.text,
}
