"""What is wrong, or odd, in a config file: each with file, line, key, what is allowed, and a guess at what was meant.

All of a file is read before anything is raised, so that one run shows every mistake. Strict and lenient differ in one
verb: `complain` is an error to the strict and a warning to the lenient, which is how Fly's own tools go about it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from caddisfly.launch.config.node import Node, Place
from caddisfly.model.errors import InvalidArgument


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    message: str
    place: Place | None = None
    key: str = ""
    allowed: str = ""
    hint: str = ""
    """What was probably meant."""
    warning: bool = False

    def __str__(self) -> str:
        where = [str(part) for part in (self.place, self.key) if part]
        text = ": ".join([*where, self.message])
        if self.allowed:
            text += f"; allowed: {self.allowed}"
        return f"{text}; did you mean {self.hint}?" if self.hint else text

    def to_wire(self) -> dict[str, Any]:
        return {
            "severity": "warning" if self.warning else "error",
            "file": self.place.file if self.place else "",
            "line": self.place.line if self.place else 0,
            "key": self.key,
            "message": self.message,
            "allowed": self.allowed,
            "did_you_mean": self.hint,
        }


class ConfigInvalid(InvalidArgument):
    """The file does not mean anything that could run. Nothing was changed."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        errors = [finding for finding in findings if not finding.warning]
        super().__init__(
            "App configuration is not valid",
            why="\n".join(map(str, errors)),
            next="correct the file; --lenient takes what Fly's own tools would ignore",
        )
        self.findings = findings


@dataclass(slots=True)
class Findings:
    """Collects them while a file is read."""

    strict: bool = True
    found: list[Finding] = field(default_factory=list)

    def error(self, at: Node, message: str, *, allowed: str = "", hint: str = "") -> None:
        self._add(Finding(message=message, place=at.place, key=at.key, allowed=allowed, hint=hint))

    def warn(self, at: Node, message: str, *, allowed: str = "", hint: str = "") -> None:
        self._add(Finding(message=message, place=at.place, key=at.key, allowed=allowed, hint=hint, warning=True))

    def complain(self, at: Node, message: str, *, allowed: str = "", hint: str = "") -> None:
        """Fly lets it pass; only the lenient do so here."""
        (self.error if self.strict else self.warn)(at, message, allowed=allowed, hint=hint)

    def _add(self, finding: Finding) -> None:
        if finding not in self.found:
            self.found.append(finding)

    @property
    def failed(self) -> bool:
        return any(not finding.warning for finding in self.found)

    def settled(self) -> tuple[Finding, ...]:
        """The warnings, when that is all there is. Raises `ConfigInvalid`."""
        ordered = tuple(sorted(self.found, key=_position))
        if self.failed:
            raise ConfigInvalid(ordered)
        return ordered


def _position(finding: Finding) -> tuple[str, int]:
    return (finding.place.file, finding.place.line) if finding.place else ("", 0)


def nearest(word: str, known: Iterable[str]) -> str:
    """The one that was probably meant, or nothing."""
    return next(iter(difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)), "")
