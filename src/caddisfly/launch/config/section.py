"""Reading one table of a config file, key by key.

A section knows which keys were asked for, and whatever is left over when its block ends is unknown: the list of keys
that exist is nowhere written down twice. A value of the wrong type is reported and read as absent, so that reading
goes on and finds the next mistake.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from caddisfly.launch.config import units, words
from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.units import Bare, Wrong, kind
from caddisfly.model.duration import Duration

_PORT_MAX = 65535


class Section:
    """`with Section(node, findings) as section:` reads a table; leaving the block reports the keys nobody knows."""

    def __init__(self, node: Node, findings: Findings) -> None:
        self.node = node
        self.findings = findings
        self._known: list[str] = []
        if not node.is_table:
            findings.error(node, f"must be a table, got {kind(node.value)}")

    def __enter__(self) -> Section:
        return self

    def __exit__(
        self, error: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            for name, member in self.node.members.items():
                if name not in self._known:
                    hint = nearest(name, self._known)
                    allowed = "" if hint else ", ".join(sorted(self._known))
                    self.findings.complain(member, "unknown key", allowed=allowed, hint=hint)

    def node_of(self, *names: str) -> Node | None:
        """The first of these spellings that is there."""
        self._known += names
        return next((self.node.members[name] for name in names if name in self.node.members), None)

    def place_of(self, *names: str) -> Node:
        """Where to point for one of these keys: the section itself when none is there."""
        return next((self.node.members[name] for name in names if name in self.node.members), self.node)

    def ignored(self, *names: str, why: str) -> None:
        """Keys that are known and have no effect, as most keys of older days. What is empty says nothing."""
        for name in names:
            member = self.node_of(name)
            if member is not None and member.value:
                self.findings.warn(member, f"has no effect: {why}")

    def text(self, *names: str) -> str:
        found = self._typed(names, lambda value: isinstance(value, str), "a text")
        return str(found) if found is not None else ""

    def choice(self, name: str, allowed: Sequence[str], *, message: str = "", complain: bool = False) -> str:
        """One word of several. `message` is Fly's own text; `complain`: Fly itself takes anything."""
        text = self.text(name)
        if text and text not in allowed:
            say = self.findings.complain if complain else self.findings.error
            what = message or f"'{text}' is not allowed"
            hint = nearest(text, allowed) or nearest(text.upper(), allowed)
            say(self.place_of(name), what, allowed="" if message else ", ".join(allowed), hint=hint)
            return text if complain and not self.findings.strict else ""
        return text

    def flag(self, name: str) -> bool | None:
        found = self._typed((name,), lambda value: isinstance(value, bool), "true or false")
        return None if found is None else bool(found)

    def whole(self, name: str, low: int = 0, high: int | None = None, *, text_too: bool = False) -> int | None:
        node = self.node_of(name)
        if node is None:
            return None
        value = node.value
        if text_too and isinstance(value, str) and re.fullmatch(r"\d+", value):
            value = int(value)
        allowed = f"a whole number from {low} to {high}" if high is not None else f"a whole number from {low}"
        if isinstance(value, bool) or not isinstance(value, int):
            hint = value if isinstance(value, str) and re.fullmatch(r"\d+", value) else ""
            self.findings.error(node, f"must be {allowed}, got {kind(node.value)}", hint=hint)
            return None
        if value < low or (high is not None and value > high):
            self.findings.error(node, f"{value} is out of range", allowed=allowed)
            return None
        return value

    def port(self, name: str, *, text_too: bool = False) -> int | None:
        return self.whole(name, 1, _PORT_MAX, text_too=text_too)

    def number(self, name: str) -> float | None:
        found = self._typed((name,), _is_number, "a number")
        return None if found is None else float(found)

    def duration(self, name: str, bare: Bare) -> Duration | None:
        node = self.node_of(name)
        if node is None:
            return None
        try:
            found, warning = units.duration(node.value, bare)
        except Wrong as error:
            self.findings.error(node, str(error), allowed='a duration such as "500ms", "30s" or "1m30s"')
            return None
        if warning:
            self.findings.warn(node, warning)
        return found

    def megabytes(self, name: str) -> int | None:
        return self._size(name, units.megabytes, '512 (MB), "512mb" or "2gb"')

    def gigabytes(self, name: str) -> int | None:
        return self._size(name, units.gigabytes, '5 (GB), "5gb" or "1500mb"')

    def _size(self, name: str, read: Callable[[object], int], allowed: str) -> int | None:
        node = self.node_of(name)
        if node is None or node.value == "":
            return None
        try:
            return read(node.value)
        except Wrong as error:
            self.findings.error(node, str(error), allowed=allowed)
            return None

    def texts(self, *names: str) -> tuple[str, ...]:
        """A list of texts."""
        node = self.node_of(*names)
        if node is None:
            return ()
        if not node.is_list or any(not isinstance(item.value, str) for item in node.value):
            hint = f'["{node.value}"]' if isinstance(node.value, str) else ""
            self.findings.error(node, f"must be a list of texts, got {_list_kind(node)}", hint=hint)
            return ()
        return tuple(item.value for item in node.value)

    def text_or_list(self, name: str) -> tuple[str, ...]:
        """A text is a list of one; it is not split into words."""
        node = self.node_of(name)
        if node is not None and isinstance(node.value, str):
            return (node.value,) if node.value else ()
        return self.texts(name)

    def command(self, name: str, *, failure: str) -> tuple[str, ...]:
        """A text that is split into words, as a shell would."""
        node, text = self.place_of(name), self.text(name)
        try:
            return words.split(text)
        except ValueError as error:
            self.findings.error(node, failure.format(text=text, why=error), allowed="every quote is closed")
            return ()

    def choices(self, name: str, allowed: Sequence[str]) -> tuple[str, ...]:
        """A list of words that Fly's platform, not its tools, checks."""
        found = self.texts(name)
        for word in found:
            if word not in allowed:
                where = self.place_of(name)
                self.findings.complain(
                    where, f"'{word}' is not allowed", allowed=", ".join(allowed), hint=nearest(word, allowed)
                )
        return found

    def scalars(self, name: str) -> dict[str, str]:
        """A table of texts; numbers and booleans are written out."""
        node = self.node_of(name)
        return {} if node is None else scalar_map(node, self.findings)

    def tables(self, *names: str) -> tuple[Node, ...]:
        """A list of tables, or one table that stands for a list of one. All the spellings given are concatenated."""
        self._known += names
        nodes = [self.node.members[name] for name in names if name in self.node.members]
        return tuple(one for node in nodes for one in _tables(node, self.findings))

    def processes(self) -> tuple[str, ...]:
        return self.texts("processes")

    def _typed(self, names: Sequence[str], right: Callable[[Any], bool], wanted: str) -> Any:
        node = self.node_of(*names)
        if node is None:
            return None
        if not right(node.value):
            self.findings.error(node, f"must be {wanted}, got {kind(node.value)}", hint=_unquoted(node.value, wanted))
            return None
        return node.value


def _tables(node: Node, findings: Findings) -> tuple[Node, ...]:
    if node.is_table:
        return (node,)
    if node.is_list:
        for item in node.value:
            if not item.is_table:
                findings.error(item, f"must be a table, got {kind(item.value)}")
        return tuple(item for item in node.value if item.is_table)
    findings.error(node, f"must be a table or a list of tables, got {kind(node.value)}")
    return ()


def scalar_map(node: Node, findings: Findings) -> dict[str, str]:
    if not node.is_table:
        findings.error(node, f"must be a table, got {kind(node.value)}")
        return {}
    found = {}
    for name, member in node.members.items():
        if member.is_table or member.is_list:
            findings.error(member, f"must be a text, a number or a boolean, got {kind(member.value)}")
        else:
            found[name] = words.scalar(member.value)
    return found


def _unquoted(value: object, wanted: str) -> str:
    """`"true"` where a boolean belongs."""
    said = value.lower() if isinstance(value, str) else ""
    return said if wanted == "true or false" and said in ("true", "false") else ""


def _list_kind(node: Node) -> str:
    if not node.is_list:
        return kind(node.value)
    return next(f"{kind(item.value)} in it" for item in node.value if not isinstance(item.value, str))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
