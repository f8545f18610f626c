"""What the fly.toml of a detected app holds, each value with the sentence that explains it.

It is a value and no text: a new file is rendered from it, an existing one is edited so that comments survive, and the
command line may replace a part (`--internal-port`) before either. What fly.toml cannot hold stands beside it: secrets
to generate and services that the app needs.
"""

from __future__ import annotations

import base64
import re
import secrets
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

Kind = Literal["postgres", "mysql", "redis", "bucket", "mongodb"]
Source = Literal["hex", "laravel", "file", "given"]

_SHELL = re.compile(r"[$|&;<>*?`(){}~\n]|^\w+=")


@dataclass(frozen=True, slots=True)
class Default:
    """`path` leads to the value: `("http_service", "internal_port")`. A list of tables is one value."""

    path: tuple[str, ...]
    value: Any
    why: str

    def to_record(self) -> dict[str, Any]:
        return {"key": ".".join(self.path), "value": self.value, "why": self.why}


@dataclass(frozen=True, slots=True)
class Secret:
    """A value that must never be in a file of the app. `file` says where this computer has it, for `source` "file"."""

    name: str
    why: str
    source: Source = "hex"
    file: str = ""

    def generated(self) -> str:
        """A new value. Those that a person gives, or a file has, have none."""
        if self.source == "hex":
            return secrets.token_hex(64)
        if self.source == "laravel":
            return "base64:" + base64.b64encode(secrets.token_bytes(32)).decode()
        return ""

    def to_record(self) -> dict[str, Any]:
        return {"name": self.name, "source": self.file or self.source, "why": self.why}


@dataclass(frozen=True, slots=True)
class Service:
    """A database or the like that the app talks to; `secrets` is what it is told about it."""

    kind: Kind
    why: str
    secrets: tuple[str, ...]

    def to_record(self) -> dict[str, Any]:
        return {"kind": self.kind, "secrets": list(self.secrets), "why": self.why}


@dataclass(frozen=True, slots=True)
class Settings:
    defaults: tuple[Default, ...] = ()
    secrets: tuple[Secret, ...] = ()
    services: tuple[Service, ...] = ()

    def get(self, *path: str) -> Any:
        """None when it is not set."""
        return next((one.value for one in self.defaults if one.path == path), None)

    @property
    def port(self) -> int | None:
        value = self.get("http_service", "internal_port")
        return value if isinstance(value, int) else None

    def document(self) -> dict[str, Any]:
        """As nested tables."""
        found: dict[str, Any] = {}
        for one in self.defaults:
            table = found
            for key in one.path[:-1]:
                table = table.setdefault(key, {})
            table[one.path[-1]] = one.value
        return found

    def plus(self, *more: Default | Secret | Service) -> Settings:
        """What was set before stays, at its place, with its new value."""
        changed = {one.path: one for one in self.defaults}
        changed |= {one.path: one for one in more if isinstance(one, Default)}
        named = {one.name: one for one in self.secrets} | {one.name: one for one in more if isinstance(one, Secret)}
        kinds = {one.kind: one for one in more if isinstance(one, Service)} | {one.kind: one for one in self.services}
        return Settings(tuple(changed.values()), tuple(named.values()), tuple(kinds.values()))

    def without(self, *paths: tuple[str, ...]) -> Settings:
        """Without these values and all below them."""
        kept = tuple(one for one in self.defaults if not any(one.path[: len(path)] == path for path in paths))
        return replace(self, defaults=kept)


def settings(*parts: Default | Secret | Service | Iterable[Default | Secret | Service]) -> Settings:
    flat: list[Default | Secret | Service] = []
    for part in parts:
        flat.extend([part] if isinstance(part, Default | Secret | Service) else part)
    return Settings().plus(*flat)


ONE_GB = Default(("vm",), [{"size": "shared-cpu-1x", "memory": "1gb"}], "most apps need about 1 GB of memory")


def web(port: int, why: str, *, group: str = "app") -> list[Default]:
    """A service that speaks HTTP, which sleeps while nobody asks."""
    return [
        Default(("http_service", "internal_port"), port, why),
        Default(("http_service", "force_https"), True, "requests over plain HTTP are sent on to HTTPS"),
        Default(("http_service", "auto_stop_machines"), "stop", "a Machine that nobody asks anything costs nothing"),
        Default(("http_service", "auto_start_machines"), True, "the next request starts it again"),
        Default(("http_service", "min_machines_running"), 0, "all may sleep; 1 keeps one awake"),
        Default(("http_service", "processes"), [group], f"requests go to the group {group}"),
        ONE_GB,
    ]


def stops_with(signal: str, why: str) -> Default:
    return Default(("kill_signal",), signal, why)


GUNICORN_STOP = stops_with("SIGTERM", "gunicorn lets requests end on SIGTERM, and cuts them off on SIGINT")
NGINX_STOP = stops_with("SIGQUIT", "nginx lets requests end on SIGQUIT, and cuts them off on others")


def check(path: str, why: str, *, headers: dict[str, str] | None = None) -> Default:
    one: dict[str, Any] = {"method": "GET", "path": path, "interval": "10s", "timeout": "2s", "grace_period": "5s"}
    if headers:
        one["headers"] = headers
    return Default(("http_service", "checks"), [one], why)


def env(name: str, value: object, why: str) -> Default:
    return Default(("env", name), str(value), why)


def release(command: str, why: str) -> Default:
    return Default(("deploy", "release_command"), command, why)


def process(group: str, command: str, why: str) -> Default:
    return Default(("processes", group), command, why)


def console(command: str) -> Default:
    return Default(("console_command",), command, "what `caddis console` runs")


def static(directory: str, url: str, why: str) -> Default:
    return Default(("statics",), [{"guest_path": directory, "url_prefix": url}], why)


def build_argument(name: str, value: str, why: str) -> Default:
    return Default(("build", "args", name), value, why)


def mount(source: str, destination: str, why: str) -> Default:
    grows = {
        "initial_size": "1gb",
        "auto_extend_size_threshold": 80,
        "auto_extend_size_increment": "1GB",
        "auto_extend_size_limit": "10GB",
    }
    return Default(("mounts",), [{"source": source, "destination": destination, **grows}], why)


def postgres(why: str) -> Service:
    return Service("postgres", why, ("DATABASE_URL",))


def mysql(why: str) -> Service:
    return Service("mysql", why, ("DATABASE_URL",))


def redis(why: str) -> Service:
    return Service("redis", why, ("REDIS_URL",))


def mongodb(why: str, *, secret: str = "MONGO_URL") -> Service:
    return Service("mongodb", why, (secret,))


def bucket(why: str) -> Service:
    names = "BUCKET_NAME AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_ENDPOINT_URL_S3 AWS_REGION"
    return Service("bucket", why, tuple(names.split()))


def as_command(command: str | Sequence[str]) -> str:
    """As fly.toml's `processes` take it: words, without a shell. What needs one gets one, which gets out of the way."""
    if not isinstance(command, str):
        return shlex.join(command)
    text = command.strip()
    if not _SHELL.search(text):
        return text
    simple = not re.search(r"[|&;\n]|^\w+=", text)
    return shlex.join(["sh", "-c", f"exec {text}" if simple else text])
