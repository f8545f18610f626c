"""Who one is at a registry, as docker and podman on this computer know it: files, and helpers that ask a keychain.

Where several know something, docker's order holds: the helper for this registry, the helper for all, what stands in the
file itself. Docker's file is asked first, podman's after it.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from caddisfly.model.errors import FailedPrecondition

DOCKER_HUB = "docker.io"
_HUB_NAMES = frozenset(("docker.io", "index.docker.io", "registry-1.docker.io", "registry.hub.docker.com"))
_HUB_KEY = "https://index.docker.io/v1/"
_HELPER_S = 60.0
_IDENTITY = "<token>"
_NOTHING = re.compile(r"not found|no credentials", re.IGNORECASE)
_HELPER_NAME = re.compile(r"[A-Za-z0-9._-]+")


@dataclass(frozen=True, slots=True)
class Credentials:
    """`identity_token` is set instead of a password by registries that exchange it for short-lived tokens."""

    user: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find(registry: str, repository: str = "", *, environment: Mapping[str, str] | None = None) -> Credentials | None:
    """None when this computer knows nobody there. Raises `FailedPrecondition` when what it knows cannot be read."""
    environment = os.environ if environment is None else environment
    name = _host(registry)
    for path in files(environment):
        config = _read(path)
        if config is not None and (found := _in(config, name, repository, path, environment)):
            return found
    return None


def files(environment: Mapping[str, str]) -> Iterator[Path]:
    """Where credentials can be, in the order in which they count."""
    home = Path(environment.get("HOME") or Path.home())
    yield Path(environment.get("DOCKER_CONFIG") or home / ".docker") / "config.json"
    if named := environment.get("REGISTRY_AUTH_FILE"):
        yield Path(named)
    if runtime := environment.get("XDG_RUNTIME_DIR"):
        yield Path(runtime) / "containers" / "auth.json"
    yield Path(environment.get("XDG_CONFIG_HOME") or home / ".config") / "containers" / "auth.json"


def _read(path: Path) -> dict[str, Any] | None:
    try:
        config = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise _unusable(path, str(error)) from error
    if not isinstance(config, dict):
        raise _unusable(path, "it holds no JSON object")
    return config


def _in(
    config: dict[str, Any], registry: str, repository: str, path: Path, environment: Mapping[str, str]
) -> Credentials | None:
    helpers = {_host(key): value for key, value in _object(config, "credHelpers", path).items()}
    stored = config.get("credsStore")
    for helper in (helpers.get(registry), stored):
        if helper and (found := _ask(str(helper), registry, path, environment)):
            return found
    entries = _object(config, "auths", path)
    for key in _keys(registry, repository):
        for name, entry in entries.items():
            if _key(name) == key and isinstance(entry, dict) and (found := _entry(entry, name, path)):
                return found
    return None


def _keys(registry: str, repository: str) -> Iterator[str]:
    """podman knows credentials for a part of a registry; the longest name that fits counts."""
    parts = [registry, *(part for part in repository.split("/") if part)]
    for length in range(len(parts), 0, -1):
        yield "/".join(parts[:length])


def _key(name: str) -> str:
    """`https://index.docker.io/v1/`, `https://ghcr.io` and `quay.io/team` as they are looked for."""
    bare = re.sub(r"^https?://", "", name).rstrip("/")
    host, _, rest = bare.partition("/")
    if rest in ("", "v1", "v2"):
        return _host(host)
    return f"{_host(host)}/{rest}"


def _host(registry: str) -> str:
    bare = re.sub(r"^https?://", "", registry).partition("/")[0].lower()
    return DOCKER_HUB if bare in _HUB_NAMES else bare


def _entry(entry: dict[str, Any], name: str, path: Path) -> Credentials | None:
    user, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if packed := entry.get("auth"):
        try:
            user, _, password = base64.b64decode(str(packed), validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise _unusable(path, f"`auth` of {name} is not base64 of user:password") from error
    password = password.rstrip("\0")
    token = str(entry.get("identitytoken") or "")
    return Credentials(user, password, token) if password or token else None


def _ask(helper: str, registry: str, path: Path, environment: Mapping[str, str]) -> Credentials | None:
    """What a credential helper says: the server's name goes in, JSON comes out."""
    program = f"docker-credential-{helper}"
    if not _HELPER_NAME.fullmatch(helper):
        raise _unusable(path, f"'{helper}' cannot be the name of a credential helper")
    server = _HUB_KEY if registry == DOCKER_HUB else registry
    try:
        done = subprocess.run(
            [program, "get"], input=server, capture_output=True, text=True, timeout=_HELPER_S, env=dict(environment)
        )
    except FileNotFoundError as error:
        raise FailedPrecondition(
            f"credential helper {program} is not there",
            why=f"{path} names it for {registry}",
            next=f"install it, or remove it from {path}",
        ) from error
    except subprocess.TimeoutExpired as error:
        raise FailedPrecondition(f"credential helper {program} does not answer", why=f"for {_HELPER_S:g} s") from error
    if done.returncode:
        said = (done.stdout.strip() or done.stderr.strip())[:300]
        if _NOTHING.search(said):
            return None
        raise FailedPrecondition(f"credential helper {program} cannot tell who you are at {registry}", why=said)
    try:
        answer = json.loads(done.stdout)
        user, secret = str(answer["Username"]), str(answer["Secret"])
    except (ValueError, LookupError, TypeError) as error:  # its text is not shown: it may hold the secret
        raise FailedPrecondition(f"credential helper {program} answers with something else than credentials") from error
    return Credentials(user, identity_token=secret) if user == _IDENTITY else Credentials(user, secret)


def _object(config: dict[str, Any], name: str, path: Path) -> dict[str, Any]:
    value = config.get(name) or {}
    if not isinstance(value, dict):
        raise _unusable(path, f"`{name}` is not an object")
    return value


def _unusable(path: Path, why: str) -> FailedPrecondition:
    return FailedPrecondition(f"{path} cannot be used", why=why, next="correct it, or log in again: docker login")
