"""`[processes]`: the groups of an app, and which section reaches which group (reference fly-launch, 1.3).

A section without `processes` is for the default group: `app` if there is one, else the first by the alphabet.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol, TypeVar

from caddisfly.launch.config import words
from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.section import Section
from caddisfly.launch.config.units import kind

ONLY_GROUP = "app"


class Selective(Protocol):
    """An entry that is for some groups."""

    @property
    def processes(self) -> tuple[str, ...]: ...


_Entry = TypeVar("_Entry", bound=Selective)


@dataclass(frozen=True, slots=True, kw_only=True)
class Groups:
    """`commands` are words; none means the image's own command."""

    commands: Mapping[str, tuple[str, ...]]

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(sorted(self.commands)) or (ONLY_GROUP,)

    @property
    def default(self) -> str:
        return ONLY_GROUP if ONLY_GROUP in self.names else self.names[0]

    def command(self, group: str) -> tuple[str, ...]:
        return self.commands.get(group, ())

    def reached(self, entry: Selective) -> tuple[str, ...]:
        """The groups that a section is for."""
        return entry.processes or (self.default,)

    def select(self, entries: Iterable[_Entry], group: str) -> tuple[_Entry, ...]:
        """Flattening: what one group has of them."""
        return tuple(entry for entry in entries if group in self.reached(entry))

    def read(self, section: Section) -> tuple[str, ...]:
        """A section's `processes`. Fly lets a misspelt group match nothing."""
        named = section.processes()
        for name in named:
            if name not in self.names:
                section.findings.complain(
                    section.place_of("processes"),
                    f"there is no process group '{name}'",
                    allowed=", ".join(self.names),
                    hint=nearest(name, self.names),
                )
        return named


def read(node: Node | None, findings: Findings) -> Groups:
    """A table of commands or, from older days, a list of tables with `name` and `command`."""
    if node is None:
        return Groups(commands={})
    commands = {}
    for name, command in _entries(node, findings):
        if not isinstance(command.value, str):
            findings.error(command, f"must be a command line, got {kind(command.value)}")
            continue
        try:
            commands[name] = words.split(command.value)
        except ValueError as error:
            findings.error(
                command, f"Could not parse command for '{name}' process group; check [processes] section: {error}"
            )
    return Groups(commands=commands)


def _entries(node: Node, findings: Findings) -> list[tuple[str, Node]]:
    if node.is_table:
        return list(node.members.items())
    if not node.is_list:
        findings.error(node, f"must be a table of commands, got {kind(node.value)}")
        return []
    entries = []
    for item in node.value:
        if item.is_table and not item.members:
            continue  # an empty `[[processes]]` is how Fly once wrote that there are none
        with Section(item, findings) as section:
            name, command = section.text("name"), section.node_of("command")
            if not name:
                findings.error(item, "a process without a name")
            else:
                entries.append((name, command or Node("", item.place, item.path)))
    return entries
