"""Which version of a language an app wants: what its files say, then what this computer has, then ours.

This computer is asked only where Fly asks it. Its answer is a guess, so it is said to be one, and a version that is not
finished or too old for anybody is not taken from it.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from caddisfly.launch.detect.folder import Folder

_ANSWER_S = 5.0
_BOUND = re.compile(r"(===?|~=|~>|>=|<=|!=|\^|~|>|<|=)?\s*v?(\d+(?:\.\d+|\.\*|\.x)*)")


@dataclass(frozen=True, slots=True)
class Version:
    """`value` as the image's tag has it, `origin` in words: `requires-python in pyproject.toml`."""

    value: str
    origin: str

    @property
    def numbers(self) -> tuple[int, ...]:
        return numbers(self.value)

    def short(self, parts: int) -> Version:
        """`3.12.4` as `3.12`. What is no plain number stays as it is."""
        if not re.fullmatch(r"[\d.]+", self.value):
            return self
        return Version(".".join(self.value.split(".")[:parts]), self.origin)


class Interpreters:
    """The languages of this computer. Only asked for their version, from outside of the folder."""

    def __init__(self, *, outside: Path | None = None) -> None:
        self._outside = outside

    def version(self, program: str) -> str:
        """`3.12.4`, or `3.14.0rc1`; empty when there is none."""
        found = shutil.which(program)
        if found is None or not Path(found).is_absolute():
            return ""
        if self._outside is not None and Path(found).resolve().is_relative_to(self._outside):
            return ""  # a virtualenv of the project: that would be running what was just cloned
        try:
            said = subprocess.run(
                [found, "-v" if program == "php" else "--version"],
                capture_output=True,
                text=True,
                timeout=_ANSWER_S,
                cwd="/",
                stdin=subprocess.DEVNULL,
                check=True,
            )
        except (OSError, subprocess.SubprocessError):
            return ""
        match = re.search(r"\d+\.\d+(?:\.\d+)?[a-z0-9+-]*", said.stdout + said.stderr)
        return match[0] if match else ""


class NoInterpreters(Interpreters):
    """A computer with no languages on it: what is found is the same everywhere."""

    def version(self, program: str) -> str:
        return ""


def chosen(*found: Version | Callable[[], Version | None] | None, default: str) -> Version:
    """The first that is there. Functions are asked only when nothing before them is."""
    for one in found:
        version = one() if callable(one) else one
        if version is not None:
            return version
    return Version(default, "the default")


def in_file(folder: Folder, path: str, expression: str = r"^[ \t]*v?(\d+(?:\.\d+)*)\s*$") -> Version | None:
    """What the expression's first group takes from a file such as `.python-version`."""
    match = re.search(expression, folder.text(path), re.MULTILINE)
    return Version(match[1], path) if match else None


def of_tools(folder: Folder, *tools: str) -> Version | None:
    """From `.tool-versions` (asdf, mise) and `mise.toml`."""
    for tool in tools:
        found = in_file(folder, ".tool-versions", rf"^{tool}\s+v?(\d+(?:\.\d+)*)") or in_file(
            folder, "mise.toml", rf'^{tool}\s*=\s*"v?(\d+(?:\.\d+)*)"'
        )
        if found:
            return found
    return None


def numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def lowest(requirement: str) -> str:
    """Where a requirement begins: 3.9 for `>=3.9,<3.13`, 18 for `^18 || ^20`; empty when it has no floor."""
    for operator, version in _BOUND.findall(requirement):
        clean = re.sub(r"\.[*x].*", "", version)
        if operator == ">":
            head, _, last = clean.rpartition(".")
            return f"{head}.{int(last) + 1}" if head and head.count(".") == 0 else clean
        if operator not in ("<", "<=", "!="):
            return clean
    return ""


def allows(requirement: str, version: str) -> bool:
    """Whether a comma-separated requirement takes a version. A comparison that we do not know is taken as met."""
    mine = numbers(version)
    return all(_meets(mine, operator or "==", numbers(bound)) for operator, bound in _BOUND.findall(requirement))


def _meets(mine: tuple[int, ...], operator: str, bound: tuple[int, ...]) -> bool:
    cut = mine[: len(bound)]
    match operator:
        case "<":
            return mine < bound
        case "<=":
            return cut <= bound
        case ">":
            return cut > bound
        case ">=":
            return cut >= bound
        case "!=":
            return cut != bound
        case "^":
            return cut >= bound and mine[0] == bound[0]
        case "~" | "~=" | "~>":
            return cut >= bound and mine[: max(1, len(bound) - 1)] == bound[: max(1, len(bound) - 1)]
        case _:
            return cut == bound


def newest_of(candidates: Iterable[str], requirement: str) -> str:
    """The first of the candidates that a requirement takes; empty when it takes none."""
    return next((one for one in candidates if allows(requirement, one)), "")
