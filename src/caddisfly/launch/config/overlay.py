"""`fly.staging.toml` over `fly.toml`: what differs in one environment, and nothing else.

- A table is merged key by key, at any depth.
- Everything else (a text, a number, a list, a list of tables such as `[[vm]]`) takes the place of what was there, so an
  empty list removes a section: `mounts = []`.
- Spellings of one section count as one: `[[vm]]` in the overlay takes the place of `[[compute]]`.
- `[env]`, `[processes]` and `[checks]` are merged by name also if one of the files spells them as a list.

Nodes keep their places: an error in what came from the overlay points into the overlay.
"""

from __future__ import annotations

from caddisfly.launch.config.node import Node

_SPELLINGS = (("vm", "compute", "computes"), ("mounts", "mount"), ("metrics", "metric"))
_NAMED = ("processes", "checks")


def merged(under: Node, over: Node) -> Node:
    """Both are whole files."""
    hidden = {name for family in _SPELLINGS if any(one in over.members for one in family) for name in family}
    kept = {name: member for name, member in under.members.items() if name not in hidden or name in over.members}
    return _merged(_by_name(under.with_members(kept)), _by_name(over))


def _merged(under: Node, over: Node) -> Node:
    if not (under.is_table and over.is_table):
        return over
    members = dict(under.members)
    for name, member in over.members.items():
        members[name] = _merged(members[name], member) if name in members else member
    return over.with_members(members)


def _by_name(root: Node) -> Node:
    """Older list forms as the tables that they mean."""
    members = dict(root.members)
    env = members.get("env")
    if env is not None and env.is_list and all(item.is_table for item in env.value):
        members["env"] = env.with_members({name: one for item in env.value for name, one in item.members.items()})
    for section in _NAMED:
        listed = members.get(section)
        if listed is not None and listed.is_list and all("name" in item.members for item in listed.value):
            members[section] = listed.with_members(
                {str(item.members["name"].value): _unnamed(section, item) for item in listed.value}
            )
    return root.with_members(members)


def _unnamed(section: str, item: Node) -> Node:
    if section == "processes":
        return item.members.get("command", Node("", item.place, item.path))
    return item.with_members({key: one for key, one in item.members.items() if key != "name"})
