"""A value of a config file that knows where it stands.

Every error about a fly.toml names file, line and key. Plain dictionaries lose that the moment they are read, so a
file is read into nodes instead, and nodes are what the readers of the sections take apart. Overlays merge nodes, and
so an error in a merged config still points into the file that said it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Path = tuple[str | int, ...]
Lines = Mapping[Path, int]
"""On which line each value begins, counted from 1."""


@dataclass(frozen=True, slots=True)
class Place:
    file: str
    line: int

    def __str__(self) -> str:
        return f"{self.file}:{self.line}"


@dataclass(frozen=True, slots=True)
class Node:
    """`value` is a scalar, a tuple of nodes (a list) or a dict of nodes (a table); treat it as frozen."""

    value: Any
    place: Place
    path: Path = ()
    members: Mapping[str, Node] = field(default_factory=dict)
    """Of a table, else empty."""

    @property
    def key(self) -> str:
        """The dotted path, as people write it: `http_service.checks[0].path`."""
        text = ""
        for step in self.path:
            text += f"[{step}]" if isinstance(step, int) else f".{step}" if text else step
        return text

    @property
    def is_table(self) -> bool:
        return isinstance(self.value, dict)

    @property
    def is_list(self) -> bool:
        return isinstance(self.value, tuple)

    @property
    def plain(self) -> Any:
        """Without places, as `json` and `tomllib` give it."""
        if self.is_table:
            return {key: member.plain for key, member in self.members.items()}
        return [item.plain for item in self.value] if self.is_list else self.value

    def with_members(self, members: Mapping[str, Node]) -> Node:
        return Node(dict(members), self.place, self.path, dict(members))


def of(value: Any, *, file: str, lines: Lines, path: Path = (), line: int = 1) -> Node:
    """Nodes for what a parser gave. A value without a line of its own stands where what holds it stands.

    Null means absent, as in the Machines API.
    """
    line = lines.get(path, line)
    place = Place(file, line)
    if isinstance(value, Mapping):
        members = {
            str(key): of(member, file=file, lines=lines, path=(*path, str(key)), line=line)
            for key, member in value.items()
            if member is not None
        }
        return Node(members, place, path, members)
    if isinstance(value, list):
        items = tuple(
            of(item, file=file, lines=lines, path=(*path, number), line=line) for number, item in enumerate(value)
        )
        return Node(items, place, path)
    return Node(value, place, path)
