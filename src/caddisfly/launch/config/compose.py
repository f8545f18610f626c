"""`[build.compose]`: the services of a Compose file as the containers of one Machine (reference fly-launch, 1.13).

They share the network and the size of the Machine. What has no place in a Machine is ignored, with a warning that
names it, where Fly says nothing. Unlike Fly's, this reading knows the list form of `environment` and keeps the
durations of health checks.
"""

from __future__ import annotations

import base64
import math
from pathlib import Path
from typing import Any

from caddisfly.launch.config import document, locate, words
from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.units import kind
from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument, Problem

NAMES = ("compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml")
BUILT = "."
_READ = ("image", "build", "environment", "command", "entrypoint", "user", "volumes", "healthcheck", "depends_on")
_PLAIN_KEYS = ("container_name",)
_CONDITIONS = {
    "service_started": "started",
    "service_healthy": "healthy",
    "service_completed_successfully": "exited_successfully",
}
_SHELL = ("/bin/sh", "-c")
_TIMES = {"interval": "interval", "timeout": "timeout", "start_period": "grace_period"}


def read(section: Node, findings: Findings, directory: Path | None) -> dict[str, Any]:
    """The `containers` of a Machine config; empty when the file is of no use, which has been reported."""
    said = section.members.get("file")
    names = (str(said.value),) if said is not None and said.value else NAMES
    try:
        file = next((path for name in names if (path := locate.beside(directory, name)).is_file()), None)
    except OSError as error:
        findings.error(said or section, f"no Compose file can be read: {error.strerror or error}")
        return {}
    if file is None:
        findings.error(said or section, f"no Compose file in {directory}", allowed=", ".join(names))
        return {}
    try:
        root = document.read(file, shown=file.name)
    except Problem as problem:
        findings.error(said or section, problem.why or problem.what)
        return {}
    services = root.members.get("services")
    if services is None or not services.is_table or not services.members:
        findings.error(root, "no services")
        return {}
    built = [name for name, service in services.members.items() if "build" in service.members]
    if len(built) > 1:
        findings.error(services, f"only one service can specify build, found {len(built)} services with build")
    return {"containers": [_container(name, one, findings, file.parent) for name, one in services.members.items()]}


def _container(name: str, service: Node, findings: Findings, directory: Path) -> dict[str, Any]:
    if not service.is_table:
        findings.error(service, f"must be a table, got {kind(service.value)}")
        return {"name": name}
    members = service.members
    for key, member in members.items():
        if key not in (*_READ, *_PLAIN_KEYS):
            findings.warn(member, "has no effect in a Machine")
    image = str(members["image"].value) if "image" in members else BUILT if "build" in members else ""
    if not image:
        findings.error(service, f"service '{name}' must specify either 'image' or 'build'")
    container = {
        "name": name,
        "image": BUILT if "build" in members else image,
        "env": _environment(members.get("environment"), findings),
        "cmd": _list(members.get("command")),
        "entrypoint": _list(members.get("entrypoint")),
        "user": str(members["user"].value) if "user" in members else "",
        "files": _files(members.get("volumes"), findings, directory),
        "healthchecks": _health(members.get("healthcheck"), findings),
        "depends_on": _dependencies(members.get("depends_on"), findings),
    }
    return {key: value for key, value in container.items() if value}


def _environment(node: Node | None, findings: Findings) -> dict[str, str]:
    if node is None:
        return {}
    if node.is_table:
        return {name: words.scalar(member.value) for name, member in node.members.items()}
    env = {}
    for item in node.value if node.is_list else ():
        name, equals, value = str(item.value).partition("=")
        if equals:
            env[name] = value
        else:
            findings.warn(item, f"{name} has no value: the laptop's environment is not read")
    return env


def _list(node: Node | None) -> list[str]:
    """A text stays one word, as on Fly."""
    if node is None:
        return []
    return [str(item.value) for item in node.value] if node.is_list else [str(node.value)]


def _files(node: Node | None, findings: Findings, directory: Path) -> list[dict[str, str]]:
    """Single files go along as their content; a Machine has no other volumes to offer."""
    files = []
    for item in node.value if node is not None and node.is_list else ():
        source, _, target = str(item.plain).partition(":")
        path = directory / source
        if isinstance(item.value, str) and target and path.is_file():
            content = base64.b64encode(path.read_bytes()).decode()
            files.append({"guest_path": target.partition(":")[0], "raw_value": content})
        else:
            findings.warn(item, f"Could not read volume file {source}: only single files can be mounted")
    return files


def _health(node: Node | None, findings: Findings) -> list[dict[str, Any]]:
    if node is None or not node.is_table or "test" not in node.members:
        return []
    said = node.members["test"]
    test = _list(said)
    if not said.is_list:
        test = [*_SHELL, *test]
    elif test[:1] == ["NONE"]:
        return []
    elif test[:1] in (["CMD"], ["CMD-SHELL"]):
        test = [*(_SHELL if test[0] == "CMD-SHELL" else ()), *test[1:]]
    health: dict[str, Any] = {"name": "healthcheck", "exec": {"command": test}}
    for key, member in _TIMES.items():
        if key in node.members:
            health[member] = _seconds(node.members[key], findings)
    if "retries" in node.members:
        health["failure_threshold"] = node.members["retries"].value
    return [{key: value for key, value in health.items() if value}]


def _seconds(node: Node, findings: Findings) -> int:
    """Machines count them whole."""
    try:
        return math.ceil(Duration.parse(node.value, field=node.key).seconds)
    except InvalidArgument as error:
        findings.error(node, str(error))
        return 0


def _dependencies(node: Node | None, findings: Findings) -> list[dict[str, str]]:
    if node is None:
        return []
    if node.is_list:
        return [{"name": str(item.value), "condition": "started"} for item in node.value]
    dependencies = []
    for name, member in node.members.items():
        said = member.members.get("condition")
        condition = _CONDITIONS.get(str(said.value) if said is not None else "service_started")
        if condition is None:
            findings.error(
                said or member, f"'{said.value if said else ''}' is not a condition", allowed=", ".join(_CONDITIONS)
            )
        else:
            dependencies.append({"name": name, "condition": condition})
    return dependencies
