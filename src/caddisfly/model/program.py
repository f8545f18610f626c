"""What runs in a Machine: the one program of its image, or several (reference machines-api, 2.8 and 2.11).

`containers` have images of their own, depend on one another, and each has its restart policy. `processes` share the
Machine's image and root; the first that ends takes the others with it. Both become `Program`s, so that nothing but
this module knows in which of the two ways they were asked for.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from caddisfly.model import check, member
from caddisfly.model.check import CheckConfig
from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument

STOP_SIGNALS = ("SIGHUP", "SIGINT", "SIGQUIT", "SIGKILL", "SIGUSR1", "SIGUSR2", "SIGTERM", "SIGSTOP")
STOP_TIMEOUT_DEFAULT = Duration.of_seconds(5)
STOP_TIMEOUT_MAX = Duration.of_seconds(300)
_POLICIES = ("no", "always", "on-failure", "spot-price")
_CONTAINERS_MAX = 16
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_FIELDS = ("id", "version", "app_name", "private_ip", "region", "image")
STARTED: Final = "started"
HEALTHY: Final = "healthy"
SUCCEEDED: Final = "exited_successfully"
_CONDITIONS = (STARTED, HEALTHY, SUCCEEDED)


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
class SecretFile:
    """A file whose content is a secret, kept in base64."""

    guest_path: str
    secret_name: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True)
class ImageConfigFile:
    """A file whose content is the OCI config of an image, as JSON."""

    guest_path: str
    image: str
    mode: int = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One of several programs in a Machine. An empty `image` is the Machine's, with its root shared by all of them."""

    name: str
    image: str = ""
    init: Mapping[str, Any] = field(default_factory=dict)
    user: str = ""
    """Empty: the image's."""
    env: Mapping[str, str] = field(default_factory=dict)
    env_from: Mapping[str, str] = field(default_factory=dict)
    """Variables that are filled with a fact about the Machine."""
    secrets: Mapping[str, str] | None = None
    """Names of the app's secrets by variable. None: all of them, each in the variable of its name."""
    files: tuple[GuestFile, ...] = ()
    secret_files: tuple[SecretFile, ...] = ()
    image_config_files: tuple[ImageConfigFile, ...] = ()
    restart: RestartPolicy = field(default_factory=RestartPolicy)
    stop: StopConfig | None = None
    """None: as the Machine is stopped."""
    after: tuple[tuple[str, str], ...] = ()
    """Names of others and the condition that each must meet before this one starts."""
    essential: bool = False
    """Whether the Machine ends when this one does."""
    checks: tuple[CheckConfig, ...] = ()


def restart_policy(wire: Mapping[str, Any]) -> RestartPolicy:
    return RestartPolicy(wire.get("policy") or "on-failure", wire.get("max_retries") or 10)


def stop_config(wire: Mapping[str, Any]) -> StopConfig:
    timeout = Duration.parse(wire["timeout"]) if wire.get("timeout") else Duration(0)
    return StopConfig(wire.get("signal") or "SIGINT", timeout or STOP_TIMEOUT_DEFAULT)


def guest_files(entries: object) -> tuple[GuestFile, ...]:
    return tuple(
        GuestFile(entry["guest_path"], base64.b64decode(entry["raw_value"]), entry.get("mode") or 0o644)
        for entry in entries or ()  # type: ignore[attr-defined]
        if "raw_value" in entry
    )


def secret_files(entries: object) -> tuple[SecretFile, ...]:
    return tuple(
        SecretFile(entry["guest_path"], entry["secret_name"], entry.get("mode") or 0o644)
        for entry in entries or ()  # type: ignore[attr-defined]
        if "secret_name" in entry
    )


def image_config_files(entries: object) -> tuple[ImageConfigFile, ...]:
    return tuple(
        ImageConfigFile(entry["guest_path"], entry["image_config"], entry.get("mode") or 0o644)
        for entry in entries or ()  # type: ignore[attr-defined]
        if "image_config" in entry
    )


def command_line(init: Mapping[str, Any], *, entrypoint: tuple[str, ...], cmd: tuple[str, ...]) -> tuple[str, ...]:
    """From `exec`, `entrypoint` and `cmd` over the image's own (reference 2.2).

    An entrypoint of our own drops the image's cmd, as `docker run --entrypoint` does: the image's arguments were
    written for the image's program.
    """
    if init.get("exec"):
        return tuple(init["exec"])
    if init.get("entrypoint"):
        return (*init["entrypoint"], *(init.get("cmd") or ()))
    return (*entrypoint, *(init.get("cmd") or cmd))


def programs(config: Mapping[str, Any]) -> tuple[Program, ...]:
    """Of a checked config. None when the Machine runs one, as most do."""
    if config.get("containers"):
        return tuple(_of_container(wire, config) for wire in config["containers"])
    return tuple(
        Program(
            name=str(number),
            init=wire,
            user=wire.get("user") or "",
            env=wire.get("env") or {},
            env_from=_env_from(wire),
            secrets=_secrets(wire) if wire.get("secrets") or wire.get("ignore_app_secrets") else None,
            restart=RestartPolicy("no"),
            essential=True,
        )
        for number, wire in enumerate(config.get("processes") or ())
    )


def _of_container(wire: Mapping[str, Any], config: Mapping[str, Any]) -> Program:
    return Program(
        name=wire["name"],
        image=wire.get("image") or config["image"],
        init=wire,
        user=wire.get("user") or "",
        env=wire.get("env") or {},
        env_from=_env_from(wire),
        secrets=_secrets(wire),
        files=guest_files(wire.get("files")),
        secret_files=secret_files(wire.get("files")),
        image_config_files=image_config_files(wire.get("files")),
        restart=restart_policy(wire.get("restart") or {}),
        stop=stop_config(wire["stop"]) if wire.get("stop") else None,
        after=tuple((one["name"], one.get("condition") or STARTED) for one in wire.get("depends_on") or ()),
        checks=tuple(
            _check_of(one, container=wire["name"], number=number)
            for number, one in enumerate(wire.get("healthchecks") or ())
        ),
    )


def _env_from(wire: Mapping[str, Any]) -> dict[str, str]:
    return {one["env_var"]: one["field_ref"] for one in wire.get("env_from") or ()}


def _secrets(wire: Mapping[str, Any]) -> dict[str, str]:
    return {one["env_var"]: one.get("name") or one["env_var"] for one in wire.get("secrets") or ()}


def _check_of(wire: Mapping[str, Any], *, container: str, number: int) -> CheckConfig:
    kind = next(name for name in check.KINDS if name in wire)
    inner: Mapping[str, Any] = wire[kind]
    given: dict[str, Any] = {name: float(wire[old]) for name, old in _TIMES.items() if wire.get(old)}
    return CheckConfig(
        **given,
        name=f"{container}/{wire.get('name') or number}",
        type=kind,
        port=inner.get("port") or 0,
        readiness=wire.get("kind") == "readiness",
        method=(inner.get("method") or "GET").upper(),
        path=inner.get("path") or "/",
        tls=inner.get("scheme") == "https",
        tls_skip_verify=bool(inner.get("tls_skip_verify")),
        tls_server_name=inner.get("tls_server_name") or "",
        headers=check.headers(inner),
        command=tuple(inner.get("command") or ()),
        container=container,
        passes=wire.get("success_threshold") or 1,
        failures=wire.get("failure_threshold") or 1,
        stops=wire.get("unhealthy") == "stop",
    )


_TIMES = {"interval_s": "interval", "timeout_s": "timeout", "grace_s": "grace_period"}


def checked_processes(value: object, field: str) -> list[Any]:
    found = member.sequence(value, field)
    _not_too_many(found, field)
    for number, wire in enumerate(found):
        _checked_program(wire, f"{field}[{number}]")
    return found


def checked_containers(value: object, field: str) -> list[Any]:
    found = member.sequence(value, field)
    _not_too_many(found, field)
    names: list[str] = []
    for number, item in enumerate(found):
        where = f"{field}[{number}]"
        wire = member.mapping(item, where)
        name = member.text(wire.get("name", ""), f"{where}.name")
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"invalid {where}.name, must be letters, digits, _ and -, got {name!r}")
        if name in names:
            raise InvalidArgument(f"invalid {where}.name, there are two containers named {name}")
        names.append(name)
        member.text(wire.get("image", ""), f"{where}.image")
        _checked_program(wire, where)
        if "files" in wire:
            wire["files"] = checked_files(wire["files"], f"{where}.files")
        if "restart" in wire:
            wire["restart"] = checked_restart(wire["restart"], f"{where}.restart")
        if "stop" in wire:
            wire["stop"] = checked_stop(wire["stop"], f"{where}.stop")
        checks = member.sequence(wire.get("healthchecks", []), f"{where}.healthchecks")
        for index, one in enumerate(checks):
            _checked_check(one, f"{where}.healthchecks[{index}]")
        told = [one.get("name") or str(index) for index, one in enumerate(checks)]
        if len(set(told)) < len(told):
            raise InvalidArgument(f"invalid {where}.healthchecks, two have the same name")
    _checked_order(found, field)
    return found


def _not_too_many(found: list[Any], field: str) -> None:
    if len(found) > _CONTAINERS_MAX:
        raise InvalidArgument(f"invalid {field}, at most {_CONTAINERS_MAX} run in one Machine, got {len(found)}")


def _checked_program(value: object, field: str) -> None:
    wire = member.mapping(value, field)
    for name in ("exec", "entrypoint", "cmd"):
        if name in wire:
            member.texts(wire[name], f"{field}.{name}")
    member.text(wire.get("user", ""), f"{field}.user")
    member.string_map(wire.get("env", {}), f"{field}.env")
    for number, one in enumerate(member.sequence(wire.get("env_from", []), f"{field}.env_from")):
        source = member.mapping(one, f"{field}.env_from[{number}]")
        member.string_map({source.get("env_var", ""): ""}, f"{field}.env_from[{number}].env_var")
        member.one_of(source.get("field_ref"), f"{field}.env_from[{number}].field_ref", _FIELDS)
    for number, one in enumerate(member.sequence(wire.get("secrets", []), f"{field}.secrets")):
        secret = member.mapping(one, f"{field}.secrets[{number}]")
        member.string_map({secret.get("env_var", ""): ""}, f"{field}.secrets[{number}].env_var")
        member.text(secret.get("name", ""), f"{field}.secrets[{number}].name")
    if "ignore_app_secrets" in wire:
        member.flag(wire["ignore_app_secrets"], f"{field}.ignore_app_secrets")


def _checked_check(value: object, field: str) -> None:
    wire = member.mapping(value, field)
    member.text(wire.get("name", ""), f"{field}.name")
    for name in ("interval", "timeout", "grace_period"):
        if name in wire:
            wire[name] = member.whole(wire[name], f"{field}.{name}", 0, 86_400)
    for name in ("success_threshold", "failure_threshold"):
        if name in wire:
            wire[name] = member.whole(wire[name], f"{field}.{name}", 0, 100)
    if wire.get("kind"):
        member.one_of(wire["kind"], f"{field}.kind", ("readiness", "liveness"))
    if wire.get("unhealthy"):
        member.one_of(wire["unhealthy"], f"{field}.unhealthy", ("stop",))
    kinds = [name for name in check.KINDS if name in wire]
    if len(kinds) != 1:
        raise InvalidArgument(f"invalid {field}, give exactly one of {', '.join(check.KINDS)}")
    inner = member.mapping(wire[kinds[0]], f"{field}.{kinds[0]}")
    if kinds[0] == "exec":
        if not member.texts(inner.get("command", []), f"{field}.exec.command"):
            raise InvalidArgument(f"missing {field}.exec.command", next='give a list, such as ["pg_isready"]')
        return
    if "port" not in inner:
        raise InvalidArgument(f"missing {field}.{kinds[0]}.port", next="name the port inside the Machine to ask")
    if inner.get("scheme"):
        member.one_of(inner["scheme"], f"{field}.{kinds[0]}.scheme", ("http", "https"))
    check.checked({**inner, "type": kinds[0]}, f"{field}.{kinds[0]}")
    inner["port"] = int(inner["port"])


def _checked_order(containers: list[Any], field: str) -> None:
    by_name = {wire["name"]: wire for wire in containers}
    graph: dict[str, set[str]] = {}
    for number, wire in enumerate(containers):
        where = f"{field}[{number}].depends_on"
        graph[wire["name"]] = set()
        for index, one in enumerate(member.sequence(wire.get("depends_on", []), where)):
            need = member.mapping(one, f"{where}[{index}]")
            other = by_name.get(member.text(need.get("name", ""), f"{where}[{index}].name"))
            if other is None:
                raise InvalidArgument(f"invalid {where}[{index}].name, there is no container {need.get('name')!r}")
            condition = member.one_of(need.get("condition") or STARTED, f"{where}[{index}].condition", _CONDITIONS)
            if condition == HEALTHY and not other.get("healthchecks"):
                raise InvalidArgument(f"invalid {where}[{index}].condition, {other['name']} has no healthchecks")
            if condition == SUCCEEDED and (other.get("restart") or {}).get("policy") == "always":
                raise InvalidArgument(f"invalid {where}[{index}].condition, {other['name']} is restarted always")
            graph[wire["name"]].add(other["name"])
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        raise InvalidArgument(f"invalid {field}, they wait for each other: {' after '.join(error.args[1])}") from error


def checked_restart(value: object, field: str) -> dict[str, Any]:
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


def checked_stop(value: object, field: str) -> dict[str, Any]:
    wire = member.mapping(value, field)
    if wire.get("signal"):
        member.one_of(wire["signal"], f"{field}.signal", STOP_SIGNALS)
    if "timeout" in wire:
        wire["timeout"] = str(stop_timeout(wire["timeout"], f"{field}.timeout"))
    return wire


def checked_files(value: object, field: str) -> list[Any]:
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
        if "image_config" in entry and not member.text(entry["image_config"], f"{field}[{index}].image_config"):
            raise InvalidArgument(f"invalid {field}[{index}].image_config, give the name of an image")
        if "mode" in entry:
            entry["mode"] = member.whole(entry["mode"], f"{field}[{index}].mode", 0, 0o7777)
    return list(value)  # type: ignore[call-overload, no-any-return]
