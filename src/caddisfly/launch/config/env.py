"""`[env]`: plain variables of every Machine of the app."""

from __future__ import annotations

import re

from caddisfly.launch.config.findings import Findings
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import scalar_map
from caddisfly.launch.config.units import kind

_SECRET = re.compile("KEY|PRIVATE|DATABASE_URL|PASSWORD|SECRET")
_NOT_SECRET = ("AWS_ACCESS_KEY_ID", "TIGRIS_ACCESS_KEY_ID")
_GO_TYPES = {str: "string", bool: "bool", int: "int64", float: "float64"}


def read(node: Node | None, findings: Findings) -> dict[str, str]:
    """A table or, from older days, a list of tables, merged in order."""
    if node is None:
        return {}
    env: dict[str, str] = {}
    for table in node.value if node.is_list else (node,):
        if not table.is_table:
            found = _GO_TYPES.get(type(table.value), kind(table.value))
            findings.error(table, f"Do not know how to process 'env' section of type: {found}")
            continue
        env |= scalar_map(table, findings)
        for name, member in table.members.items():
            _look(name, member, findings)
    return env


def _look(name: str, member: Node, findings: Findings) -> None:
    if not name or "=" in name or "\x00" in name:
        findings.error(member, f"'{name}' is not a usable name of a variable")
    elif name.startswith("FLY_"):
        findings.warn(member, "names that begin with FLY_ are the platform's, which may set it, too")
    elif _SECRET.search(name) and name not in _NOT_SECRET:
        findings.warn(member, "looks like a secret; caddis secrets set keeps it out of the file")
