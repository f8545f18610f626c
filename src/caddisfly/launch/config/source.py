"""The file: which one it is, what is in it, and the line of every key, for messages that people can click on.

tomllib checks the syntax and gives the values; where they stand it does not tell. So the text is walked a second time
for nothing but keys, and that walk can be simple, since what it walks is known to be right.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caddisfly.model.errors import InvalidArgument, NotFound, Unimplemented

NAMES = ("fly.toml", "fly.json", "fly.yaml")
"""What is looked for in a directory, in this order."""

Key = tuple[str | int, ...]
"""From the top of the file: names of tables, and numbers of places in lists."""

_AT = re.compile(r"(.*?) \(at (?:line (\d+), column (\d+)|end of document)\)")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_STRING = re.compile(
    r'"""(?:[^\\]|\\.)*?"{3,5}|' + r"'''.*?'{3,5}|" + r'"(?:[^"\\\n]|\\.)*"|' + r"'[^'\n]*'",
    re.DOTALL,
)


@dataclass(frozen=True, slots=True)
class Source:
    """`lines` has the line of each key of a TOML file, from 1; of other formats none are known."""

    path: Path
    values: Mapping[str, Any]
    lines: Mapping[Key, int]

    def where(self, key: Key) -> str:
        """`fly.toml:12`, of the key or of the nearest thing around it."""
        for length in range(len(key), 0, -1):
            if line := self.lines.get(key[:length]):
                return f"{self.path.name}:{line}"
        return self.path.name

    def mistake(self, key: Key, what: str, *, why: str = "", next: str = "") -> InvalidArgument:
        return InvalidArgument(f"{self.where(key)}: {what}", why=why, next=next)


def dotted(key: Key) -> str:
    """`http_service.checks[0].path`."""
    text = ""
    for part in key:
        text += f"[{part}]" if isinstance(part, int) else f".{part}" if text else part
    return text


def find(directory: Path, named: Path | None = None) -> Path | None:
    """The named file (of a directory, the fly.toml in it), else the first of `NAMES` there, else None.

    Raises `NotFound` for a named one that is not there.
    """
    if named is None:
        return next((path for name in NAMES if (path := directory / name).is_file()), None)
    path = directory / named
    path = path / NAMES[0] if path.is_dir() else path
    if not path.is_file():
        raise NotFound(f"config file not found at specified path '{named}'", next="correct --config")
    return path


def read(path: Path) -> Source:
    """By suffix: JSON for `.json`, else TOML. Raises `InvalidArgument` with line and column of a mistake."""
    try:
        text = path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()
    except OSError as error:
        raise NotFound(f"{path} cannot be read", why=error.strerror or str(error)) from error
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{path.name} is not UTF-8 text", next="save the file as UTF-8") from error
    if path.suffix in (".yaml", ".yml"):
        raise Unimplemented(f"{path.name}: YAML is not supported yet", next="write it as fly.toml or fly.json")
    if path.suffix == ".json":
        return Source(path, _json(path, text), {})
    try:
        values = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise _misspelt(path, text, str(error)) from error
    return Source(path, values, _Walk(text).lines())


def _json(path: Path, text: str) -> dict[str, Any]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise InvalidArgument(f"{path.name}:{error.lineno}:{error.colno}: {error.msg}") from error
    if not isinstance(values, dict):
        raise InvalidArgument(f"{path.name}: there is no JSON object in it")
    return values


def _misspelt(path: Path, text: str, message: str) -> InvalidArgument:
    found = _AT.fullmatch(message)
    if found is None:
        return InvalidArgument(f"{path.name}: {message}")
    row, column = found[2] or str(text.count("\n") + 1), found[3] or "1"
    return InvalidArgument(f"{path.name}:{row}:{column}: {found[1]}")


class _Walk:
    """Over a TOML text that is right."""

    def __init__(self, text: str) -> None:
        self._text = text.replace("\r\n", "\n")
        self._at = 0
        self._lines: dict[Key, int] = {}
        self._counts: dict[Key, int] = {}

    def lines(self) -> dict[Key, int]:
        table: Key = ()
        while self._skip():
            if self._text.startswith("[[", self._at):
                self._at += 2
                *parents, name = self._key("]")
                table = (*self._resolved(tuple(parents)), name)
                number = self._counts.get(table, 0)
                self._counts[table] = number + 1
                self._note(table)
                table = (*table, number)
                self._lines[table] = self._line()
                self._at += 2
            elif self._text[self._at] == "[":
                self._at += 1
                table = self._resolved(tuple(self._key("]")))
                self._note(table)
                self._at += 1
            else:
                self._pair(table)
        return self._lines

    def _resolved(self, names: Key) -> Key:
        """Through lists of tables one means their last entry."""
        found: Key = ()
        for name in names:
            found = (*found, name)
            if found in self._counts:
                found = (*found, self._counts[found] - 1)
        return found

    def _pair(self, table: Key) -> None:
        key = table
        for name in self._key("="):
            key = (*key, name)
            self._note(key)
        self._at += 1
        self._value(key)

    def _key(self, end: str) -> list[str]:
        """Names up to, not including, the character that ends them."""
        names: list[str] = []
        while True:
            self._skip()
            if self._text[self._at] == end:
                return names
            if self._text[self._at] == ".":
                self._at += 1
                continue
            bare = _BARE.match(self._text, self._at)
            quoted = _STRING.match(self._text, self._at) if bare is None else None
            found = bare or quoted
            assert found is not None  # or tomllib had refused it
            names.append(found[0] if bare else str(tomllib.loads(f"k = {found[0]}")["k"]))
            self._at = found.end()

    def _value(self, key: Key) -> None:
        self._skip()
        character = self._text[self._at]
        if string := _STRING.match(self._text, self._at):
            self._at = string.end()
        elif character == "[":
            self._at += 1
            number = 0
            while self._skip() and self._text[self._at] != "]":
                if self._text[self._at] == ",":
                    self._at += 1
                    continue
                self._note((*key, number))
                self._value((*key, number))
                number += 1
            self._at += 1
        elif character == "{":
            self._at += 1
            while self._skip() and self._text[self._at] != "}":
                if self._text[self._at] == ",":
                    self._at += 1
                    continue
                self._pair(key)
            self._at += 1
        else:
            while self._at < len(self._text) and self._text[self._at] not in ",]}#\n":
                self._at += 1

    def _skip(self) -> bool:
        """Over space and comments. False at the end."""
        while self._at < len(self._text):
            if self._text[self._at] == "#":
                end = self._text.find("\n", self._at)
                self._at = len(self._text) if end < 0 else end
            elif self._text[self._at].isspace():
                self._at += 1
            else:
                return True
        return False

    def _note(self, key: Key) -> None:
        self._lines.setdefault(key, self._line())

    def _line(self) -> int:
        return self._text.count("\n", 0, self._at) + 1
