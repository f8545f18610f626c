"""`config`, the heart of a Machine (reference machines-api, part 2).

It is kept as the JSON that the client sent, not as a class with a field for each known member. Clients compare what
they get back with what they sent and replace a Machine when the two differ, so members that this version does not know
must come back too, and nothing may be filled in that was not asked for. `Config.parse` therefore checks and
normalises the JSON in place of decoding it, and properties read the few members that this version acts on.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from caddisfly.model import check, member, program
from caddisfly.model.check import CheckConfig
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.guest import Guest
from caddisfly.model.program import GuestFile, ImageConfigFile, Program, RestartPolicy, SecretFile, StopConfig
from caddisfly.model.service import Service

ROOT_MAX_GB = 50
SWAP_MAX_MB = 64 << 10
_PERSIST = ("none", "never", "restart", "always")
_PERSIST_NUMBERS = ("never", "never", "restart", "always")
_MACHINE_ID = re.compile(r"[0-9a-f]{14}")
_SCHEDULES = ("hourly", "daily", "weekly", "monthly")
_HANDLERS = ("http", "tls", "pg_tls", "proxy_proto", "edge_http", "tcp")


@dataclass(frozen=True, slots=True)
class Config:
    """A checked `config`. `wire` is what clients see; treat it as frozen."""

    wire: Mapping[str, Any]
    _guest: list[Guest] = field(default_factory=list, init=False, repr=False, compare=False)
    """Read once: a host counts the guests of all its Machines for every bid."""
    _programs: list[tuple[Program, ...]] = field(default_factory=list, init=False, repr=False, compare=False)
    """Read once: each publication of a Machine names them."""

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
        if wire.get("standbys") and wire.get("services"):
            raise InvalidArgument("config.standbys is only for machines without services", next="leave one of them out")
        if wire.get("containers") and wire.get("processes"):
            raise InvalidArgument("config.containers and config.processes exclude each other")
        lacking = next((one["name"] for one in wire.get("containers", ()) if not one.get("image")), "")
        if lacking and not wire.get("image"):
            raise InvalidArgument(f"missing image of container {lacking}", next="name an OCI image, such as nginx")
        count = len(wire.get("checks", ())) + sum(len(one.get("checks", ())) for one in wire.get("services", ()))
        count += sum(len(one.get("healthchecks", ())) for one in wire.get("containers", ()))
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
        return (*check.configured(self.wire), *(one for each in self.programs for one in each.checks))

    @property
    def programs(self) -> tuple[Program, ...]:
        """Those that run beside each other. Empty when it is one, as `init` and the image say."""
        if not self._programs:
            self._programs.append(program.programs(self.wire))
        return self._programs[0]

    @property
    def images(self) -> frozenset[str]:
        """Names of all images that it runs, or is given the config of."""
        return frozenset(filter(None, (self.image, *(one.image for one in self.programs)))) | self.file_images

    @property
    def file_images(self) -> frozenset[str]:
        """Names of the images whose configs it is given as files."""
        files = (*self.image_config_files, *(file for one in self.programs for file in one.image_config_files))
        return frozenset(file.image for file in files)

    @property
    def restart(self) -> RestartPolicy:
        return program.restart_policy(self.wire.get("restart") or {})

    @property
    def stop_config(self) -> StopConfig:
        return program.stop_config(self.wire.get("stop_config") or {})

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
    def standbys(self) -> tuple[str, ...]:
        """Ids of the Machines that it stands by for."""
        return tuple(self.wire.get("standbys") or ())

    @property
    def auto_destroy(self) -> bool:
        return bool(self.wire.get("auto_destroy"))

    @property
    def files(self) -> tuple[GuestFile, ...]:
        return program.guest_files(self.wire.get("files"))

    @property
    def secret_files(self) -> tuple[SecretFile, ...]:
        return program.secret_files(self.wire.get("files"))

    @property
    def image_config_files(self) -> tuple[ImageConfigFile, ...]:
        return program.image_config_files(self.wire.get("files"))

    @property
    def hostname(self) -> str:
        return str((self.wire.get("dns") or {}).get("hostname") or "")

    def argv(self, *, entrypoint: tuple[str, ...], cmd: tuple[str, ...]) -> tuple[str, ...]:
        """The command line of a Machine that runs one program, from `init` over the image's own."""
        return program.command_line(self.wire.get("init") or {}, entrypoint=entrypoint, cmd=cmd)


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


def _named_checks(value: object, field: str) -> dict[str, Any]:
    checks = {name: check.checked(inner, f"{field}.{name}") for name, inner in member.mapping(value, field).items()}
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
            check.checked(one, f"{field}.checks[{index}]")
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


def _standbys(value: object, field: str) -> list[str]:
    found = member.texts(value, field)
    for number, id in enumerate(found):
        if not _MACHINE_ID.fullmatch(id):
            raise InvalidArgument(f"invalid {field}[{number}], {id!r} is not the id of a machine")
    return found


_CHECKS: dict[str, Callable[[Any, str], Any]] = {
    "image": member.text,
    "env": member.string_map,
    "metadata": member.string_map,
    "guest": _guest,
    "init": _init,
    "rootfs": _rootfs,
    "restart": program.checked_restart,
    "stop_config": program.checked_stop,
    "services": _services,
    "checks": _named_checks,
    "mounts": _mounts,
    "files": program.checked_files,
    "processes": program.checked_processes,
    "containers": program.checked_containers,
    "auto_destroy": member.flag,
    "standbys": _standbys,
    "schedule": lambda value, field: member.one_of(value, field, _SCHEDULES),
    "dns": member.mapping,
    "size": member.text,
}
