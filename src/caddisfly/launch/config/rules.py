"""Rules of a fly.toml that look at more than one section, and what the platform itself would refuse.

The last is asked of the very code that the platform asks (`model.config`), so a file that passes here is not refused
later for a reason that could have been known on the laptop.
"""

from __future__ import annotations

import re

from caddisfly.launch.config import translate
from caddisfly.launch.config.app_config import AppConfig
from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.model.app import check_app_name
from caddisfly.model.config import Config
from caddisfly.model.errors import Problem

_REGION = re.compile(r"[a-z0-9-]{2,32}")
_SECTIONS = {
    "services": ("http_service", "services"),
    "checks": ("checks",),
    "mounts": ("mounts", "mount"),
    "files": ("files",),
    "guest": ("vm", "compute", "computes"),
    "stop_config": ("kill_timeout", "kill_signal", "experimental"),
    "init": ("processes", "experimental"),
    "env": ("env",),
    "restart": ("restart",),
}
"""Which sections of the file a member of the Machine config comes from."""


def check(app: AppConfig, root: Node, findings: Findings) -> None:
    _strategy(app, root, findings)
    if app.app:
        try:
            check_app_name(app.app)
        except Problem as problem:
            findings.complain(
                root.members["app"], problem.why, allowed="lowercase letters, digits and dashes, up to 63"
            )
    if app.primary_region and not _REGION.fullmatch(app.primary_region):
        findings.complain(
            root.members["primary_region"], f"'{app.primary_region}' is not a region", allowed="a code such as ams"
        )
    for group in app.groups.names:
        _mounts(app, group, root, findings)
        _ports(app, group, root, findings)
        _check_ports(app, group, root, findings)
        if findings.strict and not findings.failed:
            _platform(app, group, root, findings)


def _strategy(app: AppConfig, root: Node, findings: Findings) -> None:
    if not app.mounts:
        return
    said = app.deploy.strategy_said
    deploy = root.members.get("deploy", root)
    where = deploy.members.get("strategy", deploy)
    if said == "canary":
        findings.error(where, "error canary deployment strategy is not supported when using mounted volumes")
    elif said == "bluegreen":
        findings.complain(where, "a volume cannot be in two Machines at once", allowed="rolling, immediate")


def _mounts(app: AppConfig, group: str, root: Node, findings: Findings) -> None:
    if len(app.mounts_of(group)) > 1:
        findings.error(_section(root, "mounts"), f"group '{group}' has more than one [[mounts]] section defined")


def _ports(app: AppConfig, group: str, root: Node, findings: Findings) -> None:
    """Two services of a Machine on one external port: which of them is meant?"""
    seen: list[tuple[str, int, int]] = []
    for service in app.services_of(group):
        for first, last in {port.span for port in service.ports}:
            for protocol, low, high in seen:
                if protocol == service.protocol and first <= high and low <= last:
                    findings.complain(
                        root.members.get("services", root),
                        f"two services of group '{group}' have the external port {max(first, low)}/{protocol}",
                    )
        seen += [(service.protocol, *port.span) for port in service.ports]


def _check_ports(app: AppConfig, group: str, root: Node, findings: Findings) -> None:
    for one in app.checks_of(group):
        if one.port is None:
            section = root.members["checks"]
            findings.error(
                section.members.get(one.name, section),
                f"Check '{one.name}' for process group '{group}' has no port set "
                "and the group has no http_service to take it from",
            )


def _platform(app: AppConfig, group: str, root: Node, findings: Findings) -> None:
    try:
        Config.parse(translate.machine_config(app, group, image="validated"))
    except Problem as problem:
        member = re.match(r"(?:\w+ )+config\.(\w+)", problem.what)
        where = _section(root, member[1]) if member else root
        findings.error(where, f"the platform would refuse it for group '{group}': {problem}")


def _section(root: Node, member: str) -> Node:
    return next((root.members[name] for name in _SECTIONS.get(member, ()) if name in root.members), root)
