"""A Dockerfile as a list of instructions, each with its line: comments, continued lines, heredocs and directives read.

It is read here so that a mistake costs no upload and no waiting for a builder. What Docker takes is never refused: a
parser that a `# syntax=` line names may know more instructions than we do.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from caddisfly.model.errors import InvalidArgument

INSTRUCTIONS = frozenset(
    (
        "ADD ARG CMD COPY ENTRYPOINT ENV EXPOSE FROM HEALTHCHECK LABEL MAINTAINER ONBUILD RUN SHELL STOPSIGNAL USER "
        "VOLUME WORKDIR"
    ).split()
)
_FLAGS = {
    "FROM": "platform",
    "RUN": "mount network security",
    "COPY": "from chown chmod link parents exclude",
    "ADD": "keep-git-dir checksum chown chmod link unpack exclude",
    "HEALTHCHECK": "interval timeout start-period start-interval retries",
}
_WITH_HEREDOC = ("ADD", "COPY", "RUN")
_EMPTY_ALLOWED = ("CMD", "ENTRYPOINT", "VOLUME", "SHELL")
_DIRECTIVE = re.compile(r"#\s*([A-Za-z][A-Za-z0-9]*)\s*=\s*(.+?)\s*")
_DIRECTIVES = ("syntax", "escape", "check")
_HEREDOC = re.compile(r"\d*<<(-?)([^<]+)")
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class Heredoc:
    """`body` is as it stands there; `tabless` when the tabs before its lines do not count."""

    name: str
    body: str
    tabless: bool


@dataclass(frozen=True, slots=True)
class Instruction:
    """`name` is in capitals. `rest` is the text behind the flags, on one line; it stands in `line` to `end`, from 1."""

    name: str
    rest: str
    flags: tuple[tuple[str, str], ...]
    line: int
    end: int
    heredocs: tuple[Heredoc, ...] = ()

    def flag(self, name: str) -> str:
        return next((value for key, value in self.flags if key == name), "")

    def words(self, escape: str) -> list[str]:
        """The JSON form, or split as a shell would, quotes taken off."""
        if self.rest.startswith("["):
            try:
                items = json.loads(self.rest)
            except ValueError:
                items = None
            if isinstance(items, list) and all(isinstance(item, str) for item in items):
                return list(items)
        return [unquoted(word, escape) for word in split(self.rest, escape)]


@dataclass(frozen=True, slots=True)
class Dockerfile:
    """`name` is what messages call it."""

    name: str
    content: bytes
    instructions: tuple[Instruction, ...]
    escape: str
    syntax: str
    """The parser that it asks for; empty without a `# syntax=` line."""
    doubts: tuple[str, ...]
    """What is right and probably not meant, in words."""

    def mistake(self, line: int, what: str, *, why: str = "", next: str = "") -> InvalidArgument:
        return mistake(self.name, line, what, why=why, next=next)


def mistake(name: str, line: int, what: str, *, why: str = "", next: str = "") -> InvalidArgument:
    return InvalidArgument(f"{name}:{line}: {what}", why=why, next=next)


def meant(word: str, known: Iterable[str]) -> str:
    """What was meant by a word that is nearly right, empty when nothing is near."""
    near = difflib.get_close_matches(word.lower(), sorted({one.lower() for one in known}), n=1, cutoff=0.65)
    return next((one for one in known if near and one.lower() == near[0]), "")


def read(content: bytes, *, name: str = "Dockerfile") -> Dockerfile:
    """Raises `InvalidArgument` with file and line."""
    try:
        text = content.removeprefix(_BOM).decode()
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise mistake(name, line, "this is not UTF-8 text", next="save the file as UTF-8") from error
    return _Reader(name, text.split("\n")).read(content)


class _Reader:
    def __init__(self, name: str, lines: list[str]) -> None:
        self._name = name
        self._lines = [line.removesuffix("\r") for line in lines]
        self._at = 0
        self._doubts: list[str] = []
        self._directives = self._top()
        self._escape = self._directives.get("escape", "\\")
        self._continued = re.compile(rf"(?:^|[^{re.escape(self._escape)}]){re.escape(self._escape)}[ \t]*$")
        syntax = self._directives.get("syntax", "")
        self._strict = not syntax or syntax.startswith("docker/dockerfile")

    def read(self, content: bytes) -> Dockerfile:
        instructions = tuple(self._instructions())
        if not instructions:
            raise mistake(self._name, 1, "there is no instruction", next="begin with: FROM image")
        return Dockerfile(
            self._name,
            content,
            instructions,
            self._escape,
            self._directives.get("syntax", ""),
            tuple(self._doubts),
        )

    def _top(self) -> dict[str, str]:
        """Directives stand in the first lines or nowhere."""
        found: dict[str, str] = {}
        for number, line in enumerate(self._lines, 1):
            match = _DIRECTIVE.fullmatch(line.strip())
            key = match[1].lower() if match else ""
            if match is None or key not in _DIRECTIVES:
                break
            if key in found:
                raise mistake(self._name, number, f"'{key}' is set twice")
            if key == "escape" and match[2] not in ("\\", "`"):
                raise mistake(self._name, number, f"the escape character cannot be '{match[2]}'", next="\\ or `")
            found[key] = match[2]
        return found

    def _instructions(self) -> Iterator[Instruction]:
        while self._at < len(self._lines):
            first = self._at
            line = self._lines[first].strip()
            self._at += 1
            if not line or line.startswith("#"):
                continue
            yield self._instruction(first + 1, self._whole(line, self._lines[first]))

    def _whole(self, line: str, raw: str) -> str:
        """With the lines that continue it."""
        begun_at = self._at
        parts = []
        while True:
            match = self._continued.search(raw)
            if match is None:
                parts.append(raw)
                break
            parts.append(raw[: raw.rstrip(" \t").rindex(self._escape)])
            following = self._next_part()
            if following is None:
                break
            raw = following
            word = raw.split(" ", 1)[0]
            if (
                word in INSTRUCTIONS
                and word.isupper()
                and not line.upper().startswith(("CMD", "HEALTHCHECK", "ONBUILD"))
            ):
                self._doubts.append(
                    f"{self._name}:{self._at}: {word} belongs to the instruction of line {begun_at}, "
                    f"which goes on with {self._escape} at its end"
                )
        return "".join(parts).strip()

    def _next_part(self) -> str | None:
        """The next line that is neither empty nor a comment, as one that is continued."""
        while self._at < len(self._lines):
            raw = self._lines[self._at]
            self._at += 1
            if raw.strip() and not raw.lstrip().startswith("#"):
                return raw
        return None

    def _instruction(self, line: int, text: str) -> Instruction:
        word, _, rest = text.replace("\t", " ", 1).partition(" ")
        name = word.upper()
        if name not in INSTRUCTIONS:
            if self._strict:
                raise self._unknown(line, word)
            return Instruction(name, rest.strip(), (), line, self._at)
        flags, rest = self._flags(name, rest.strip(), line)
        if not rest and name not in _EMPTY_ALLOWED:
            raise mistake(self._name, line, f"{name} has nothing behind it")
        heredocs = tuple(self._heredocs(rest, line)) if name in _WITH_HEREDOC else ()
        return Instruction(name, rest, flags, line, self._at, heredocs)

    def _unknown(self, line: int, word: str) -> InvalidArgument:
        near = meant(word, INSTRUCTIONS)
        if near:
            return mistake(self._name, line, f"unknown instruction {word}", next=f"did you mean {near}?")
        if line > 1 and not word.isalpha():
            return mistake(
                self._name,
                line,
                f"unknown instruction {word}",
                why=f"it looks like the rest of an instruction, and the line before does not end in {self._escape}",
                next=f"{self._escape} must be the last character of a line that goes on",
            )
        return mistake(self._name, line, f"unknown instruction {word}", next=f"one of {' '.join(sorted(INSTRUCTIONS))}")

    def _flags(self, name: str, rest: str, line: int) -> tuple[tuple[tuple[str, str], ...], str]:
        found = []
        known = _FLAGS.get(name, "").split()
        while known and rest.startswith("--"):
            word, _, rest = rest.partition(" ")
            rest = rest.strip()
            if word == "--":
                break
            key, _, value = word.removeprefix("--").partition("=")
            near = meant(key, known)
            if self._strict and key not in known and near:
                raise mistake(self._name, line, f"{name} has no flag --{key}", next=f"did you mean --{near}?")
            found.append((key, unquoted(value, self._escape)))
        return tuple(found), rest

    def _heredocs(self, rest: str, line: int) -> Iterator[Heredoc]:
        for word in split(rest, self._escape):
            match = _HEREDOC.fullmatch(word)
            if match is None:
                continue
            end = unquoted(match[2], self._escape)
            body = ""
            while True:
                if self._at == len(self._lines):
                    raise mistake(
                        self._name, line, f"the heredoc {end} does not end", next=f"a line with {end} and nothing else"
                    )
                content = self._lines[self._at]
                self._at += 1
                if (content.lstrip("\t") if match[1] else content) == end:
                    break
                body += content + "\n"
            yield Heredoc(end, body, bool(match[1]))


def split(text: str, escape: str) -> list[str]:
    """Words as a shell splits them, quotes and escapes still in them."""
    words, word, quote, at = [], "", "", 0
    while at < len(text):
        character = text[at]
        if character == escape and quote != "'" and at + 1 < len(text):
            word += text[at : at + 2]
            at += 2
            continue
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in " \t":
            if word:
                words.append(word)
            word = ""
            at += 1
            continue
        word += character
        at += 1
    return [*words, word] if word else words


def unquoted(word: str, escape: str) -> str:
    out, quote, at = "", "", 0
    while at < len(word):
        character = word[at]
        at += 1
        if character == escape and quote != "'" and at < len(word):
            kept = word[at] if word[at] != "$" else escape + "$"  # which is for whoever expands variables
            out += kept
            at += 1
        elif character == quote:
            quote = ""
        elif not quote and character in "'\"":
            quote = character
        else:
            out += character
    return out
