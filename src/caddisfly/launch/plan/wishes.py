"""What was said on the command line, and what that changes in a fly.toml, be it a new one or one that was there.

A change is a `Default` like those of detection, so that it is written with its reason; one without a value takes a key
away. `present` is the file as nested tables: of a service that is not there no port can be changed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from caddisfly.launch.detect.settings import Default, mount, web
from caddisfly.launch.plan.values import GIVEN
from caddisfly.model.errors import FailedPrecondition, InvalidArgument

AUTO_STOP = ("off", "stop", "suspend")
WAYS = ("image", "dockerfile", "builder", "buildpacks", "builtin")
"""Keys of `[build]` that each say alone where the image comes from."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    """Empty, or None, is not said. `port` 0 asks for no service; `vm` has keys of `[[vm]]`."""

    name: str = ""
    generate_name: bool = False
    org: str = ""
    region: str = ""
    image: str = ""
    dockerfile: str = ""
    """As `[build]` has it: relative to the fly.toml, or a URL."""
    framework: str = ""
    port: int | None = None
    command: str = ""
    volumes: tuple[str, ...] = ()
    auto_stop: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    vm: Mapping[str, Any] = field(default_factory=dict)

    def changes(self, present: Mapping[str, Any]) -> tuple[Default, ...]:
        """`InvalidArgument` is for what no file can say, `FailedPrecondition` for what has no place in this one."""
        found: list[Default] = []
        if self.image or self.dockerfile:
            mine = "image" if self.image else "dockerfile"
            found.append(Default(("build", mine), self.image or self.dockerfile, GIVEN))
            found += [Default(("build", way), None, GIVEN) for way in WAYS if way != mine]
        if self.port is not None:
            found += _port(self.port, present)
        if self.auto_stop:
            found.append(_auto_stop(self.auto_stop, present, self.port))
        if self.command:
            found.append(Default(("processes", "app"), self.command, GIVEN))
            service = present.get("http_service")
            if isinstance(service, Mapping) and not service.get("processes"):
                found.append(Default(("http_service", "processes"), ["app"], "requests go to the group app"))
        found += [Default(("env", name), value, GIVEN) for name, value in self.env.items()]
        if self.vm:
            found.append(_vm(self.vm, present))
        if self.volumes:
            found.append(Default(("mounts",), [_mount(one) for one in self.volumes], GIVEN))
        return tuple(found)


def _port(port: int, present: Mapping[str, Any]) -> list[Default]:
    service = present.get("http_service")
    if not 0 <= port < 65536:
        raise InvalidArgument(f"{port} is no port", next="--internal-port 8080; 0 for an app that nobody asks anything")
    if port == 0:
        return [Default(("http_service",), None, GIVEN)]
    if not isinstance(service, Mapping):
        if present.get("services"):
            raise FailedPrecondition(
                "--internal-port has no place in this fly.toml",
                why="it has [[services]], each with a port of its own, and no [http_service]",
                next="change internal_port there",
            )
        return [one for one in web(port, GIVEN) if one.path != ("vm",)]
    found = [Default(("http_service", "internal_port"), port, GIVEN)]
    if (present.get("env") or {}).get("PORT") == str(service.get("internal_port")):
        found.append(Default(("env", "PORT"), str(port), "the port that the app listens on"))
    return found


def _auto_stop(word: str, present: Mapping[str, Any], port: int | None) -> Default:
    if word not in AUTO_STOP:
        raise InvalidArgument(f"--auto-stop {word} means nothing", why=f"it takes {', '.join(AUTO_STOP)}")
    if port == 0 or not (port or isinstance(present.get("http_service"), Mapping)):
        raise FailedPrecondition(
            "--auto-stop has no place without [http_service]",
            why="it is the service that knows when nobody asks anything",
            next="--internal-port makes one",
        )
    return Default(("http_service", "auto_stop_machines"), word, GIVEN)


def _vm(wanted: Mapping[str, Any], present: Mapping[str, Any]) -> Default:
    """Into the entry for every group, under the name that the file has for it."""
    name = next((name for name in ("vm", "compute", "computes") if name in present), "vm")
    said = present.get(name) or []
    entries = [dict(one) for one in (said if isinstance(said, list) else [said])]
    general = next((one for one in entries if not one.get("processes")), None)
    if general is None:
        general = {}
        entries.append(general)
    if "memory" in wanted:
        general.pop("memory_mb", None)
    general.update(wanted)
    return Default((name,), entries, GIVEN)


def _mount(text: str) -> dict[str, Any]:
    """`name:/path`, and after it keys of `[[mounts]]`, as in `data:/data:initial_size=5gb,snapshot_retention=7`."""
    source, _, rest = text.partition(":")
    destination, _, options = rest.partition(":")
    if not source or not destination.startswith("/"):
        raise InvalidArgument(
            f"--volume {text} cannot be read", next="--volume data:/data, or data:/data:initial_size=5gb"
        )
    found = dict(mount(source, destination, GIVEN).value[0])
    for option in filter(None, options.split(",")):
        key, equals, value = option.partition("=")
        if not equals:
            raise InvalidArgument(
                f"--volume {text}: {option} is not KEY=VALUE", next="--volume data:/data:initial_size=5gb"
            )
        found[key] = int(value) if value.isdecimal() else value
    return found
