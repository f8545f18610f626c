"""Which files of a folder belong to a build: the rules of `.dockerignore`, once, for every way to build.

A pattern is Go's `filepath.Match` plus `**`. Patterns are tried in order and the last one that matches decides; one
that matches a directory matches all below it. What BuildKit does with a rule that is skipped for a directory is done
here too: a file below may still meet it. That is why a verdict carries, for each pattern, whether it has matched on the
way down, and why a path is judged with its parent's verdict.

The forms of `**` are not regular. At the end of a pattern that has no other wildcard it is a plain prefix (`a**` takes
`abc`), at the start of one it is a plain suffix (`**b` takes `ab`), and everywhere else it means whole directories.
People have files that rely on each.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caddisfly.model.errors import InvalidArgument

DEFAULTS = ("**/.git", "**/.env*", "**/node_modules", "**/.venv", "fly.toml")
"""What is left out of a folder that has no ignore file."""

_WILD = re.compile(r"[*?\[\]\\]")


@dataclass(frozen=True, slots=True)
class Pattern:
    """`keeps` tells an exception, a line with `!`. `literal` is empty for one with wildcards."""

    text: str
    keeps: bool
    literal: str
    expression: re.Pattern[str]

    def matches(self, path: str) -> bool:
        return path == self.literal if self.literal else self.expression.fullmatch(path) is not None


@dataclass(frozen=True, slots=True)
class Verdict:
    """`met` says for each pattern whether the path, or a directory above it, has met it."""

    ignored: bool
    met: tuple[bool, ...]


@dataclass(frozen=True, slots=True)
class Rules:
    """`origin` is the file they come from; empty for the defaults."""

    patterns: tuple[Pattern, ...]
    origin: str = ""

    @property
    def top(self) -> Verdict:
        """Of the folder itself, which cannot be ignored."""
        return Verdict(False, (False,) * len(self.patterns))

    def judge(self, path: str, parent: Verdict) -> Verdict:
        """`path` is relative to the folder, with slashes."""
        ignored = False
        met = []
        for pattern, above in zip(self.patterns, parent.met, strict=True):
            match = above or (pattern.keeps == ignored and pattern.matches(path))
            met.append(match)
            if match:
                ignored = not pattern.keeps
        return Verdict(ignored, tuple(met))

    def ignores(self, path: str) -> bool:
        """For a single path. Walks judge directory by directory."""
        verdict = self.top
        parts = path.split("/")
        for length in range(1, len(parts) + 1):
            verdict = self.judge("/".join(parts[:length]), verdict)
        return verdict.ignored

    def may_keep_below(self, directory: str) -> bool:
        """Whether an exception can bring back something in this ignored directory."""
        return any(
            pattern.keeps and (not pattern.literal or pattern.literal.startswith(directory + "/"))
            for pattern in self.patterns
        )


def defaults() -> Rules:
    return Rules(tuple(_pattern(line) for line in DEFAULTS))


def choose(context: Path, *, dockerfile: Path | None = None, ignorefile: Path | None = None) -> Rules:
    """The named file, else the one beside the Dockerfile (`Dockerfile.dockerignore`), else the folder's, else defaults.

    Raises `InvalidArgument` when the named one is not there, or one has a pattern that means nothing.
    """
    if ignorefile is not None:
        if not ignorefile.is_file():
            raise InvalidArgument(f"ignore file '{ignorefile}' not found", next="correct --ignorefile, or leave it out")
        return load(ignorefile)
    beside = [dockerfile.with_name(f"{dockerfile.name}.dockerignore")] if dockerfile is not None else []
    for candidate in (*beside, context / ".dockerignore"):
        if candidate.is_file():
            return load(candidate)
    return defaults()


def load(path: Path) -> Rules:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise InvalidArgument(f"{path} cannot be read", why=error.strerror or str(error)) from error
    return parse(content, origin=str(path))


def parse(content: bytes, *, origin: str) -> Rules:
    """Raises `InvalidArgument` with the line of a pattern that means nothing."""
    text = content.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
    patterns = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.startswith("#") or not line.strip():
            continue
        try:
            patterns.append(_pattern(line.strip()))
        except ValueError as error:
            raise InvalidArgument(
                f"{origin}:{number}: the pattern '{line.strip()}' means nothing", why=str(error)
            ) from error
    return Rules(tuple(patterns), origin)


def rules(lines: Iterable[str]) -> Rules:
    return parse("\n".join(lines).encode(), origin=".dockerignore")


def _pattern(text: str) -> Pattern:
    keeps = text.startswith("!")
    body = text[1:].strip() if keeps else text
    if not body:
        raise ValueError("there is nothing behind the !")
    clean = posixpath.normpath(body)
    clean = clean.lstrip("/") or "/"
    if not _WILD.search(clean):
        return Pattern(text, keeps, clean, re.compile(re.escape(clean)))
    return Pattern(text, keeps, "", re.compile(_expression(clean), re.DOTALL))


def _expression(pattern: str) -> str:
    first_wild = _WILD.search(pattern)
    rest = pattern[2:]
    if pattern.endswith("**") and first_wild is not None and first_wild.start() == len(pattern) - 2:
        return re.escape(pattern[:-2]) + ".*"
    if pattern.startswith("**") and not _WILD.search(rest):
        return f"(.*/)?{re.escape(rest[1:])}" if rest.startswith("/") else f".*{re.escape(rest)}"
    return _translate(pattern)


def _translate(pattern: str) -> str:
    out, at = [], 0
    while at < len(pattern):
        character = pattern[at]
        at += 1
        if character == "*" and pattern.startswith("*", at):
            at += 1 + pattern.startswith("/", at + 1)
            out.append("(.*/)?" if at < len(pattern) else ".*")
        elif character == "*":
            out.append("[^/]*")
        elif character == "?":
            out.append("[^/]")
        elif character == "[":
            piece, at = _class(pattern, at)
            out.append(piece)
        elif character == "\\":
            if at == len(pattern):
                raise ValueError("it ends in a backslash, which has nothing to stand before")
            out.append(re.escape(pattern[at]))
            at += 1
        else:
            out.append(re.escape(character))
    return "".join(out)


def _class(pattern: str, at: int) -> tuple[str, int]:
    """`[a-z]` or `[^a-z]`, from behind the bracket; the expression and the place behind it."""
    negated = pattern.startswith("^", at)
    at += negated
    members: list[str] = []
    while at < len(pattern) and not (pattern[at] == "]" and members):
        low, at = _member(pattern, at)
        high = low
        if pattern.startswith("-", at):
            high, at = _member(pattern, at + 1)
        if high < low:
            raise ValueError(f"the range {low}-{high} runs backwards")
        members.append(f"{re.escape(low)}-{re.escape(high)}")
    if at >= len(pattern):
        raise ValueError("a [ has no ]")
    return f"[{'^' if negated else ''}{''.join(members)}]", at + 1


def _member(pattern: str, at: int) -> tuple[str, int]:
    if pattern.startswith(("-", "]"), at):
        raise ValueError(f"a {pattern[at]} in brackets needs a backslash before it")
    if pattern.startswith("\\", at):
        at += 1
    if at >= len(pattern):
        raise ValueError("a [ has no ]")
    return pattern[at], at + 1
