"""On which line of a TOML text each key stands.

No TOML library tells: tomllib gives values, tomlkit keeps every character but no positions. The text has been read by
tomllib before it comes here, so it is known to be well-formed, and what is left is to walk over keys and brackets.
"""

from __future__ import annotations

import bisect
import re
import tomllib

from caddisfly.launch.config.node import Path

_GAP = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_SCALAR = re.compile(r"[^,\]}\n#]+")
_STRINGS = (
    re.compile(r'"""(?:[^\\]|\\.)*?"""(?:"{0,2})', re.DOTALL),
    re.compile(r"'''.*?'''(?:'{0,2})", re.DOTALL),
    re.compile(r'"(?:[^"\\\n]|\\.)*"'),
    re.compile(r"'[^'\n]*'"),
)


def of(text: str) -> dict[Path, int]:
    """The line of every table, key and list item of a well-formed TOML text."""
    return _Walk(text).walked()


class _Walk:
    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._line_ends = [match.start() for match in re.finditer("\n", text)]
        self._lines: dict[Path, int] = {}
        self._entries: dict[Path, int] = {}
        """How many `[[tables]]` there are of each name so far."""

    def walked(self) -> dict[Path, int]:
        table: Path = ()
        while self._skip() < len(self._text):
            if self._text[self._at] == "[":
                table = self._header()
            else:
                self._pair(table)
        return self._lines

    def _skip(self) -> int:
        match = _GAP.match(self._text, self._at)
        assert match is not None  # it matches the empty text, too
        self._at = match.end()
        return self._at

    def _line(self) -> int:
        return bisect.bisect_left(self._line_ends, self._at) + 1

    def _note(self, path: Path, line: int) -> None:
        """What a path passes through is there, too, from this line on at the latest."""
        for length in range(1, len(path) + 1):
            self._lines.setdefault(path[:length], line)

    def _header(self) -> Path:
        line = self._line()
        several = self._text.startswith("[[", self._at)
        self._at += 2 if several else 1
        *parents, name = self._key()
        path = (*self._inside(parents), name)
        self._skip()
        self._at += 2 if several else 1
        if several:
            self._note(path, line)
            count = self._entries.get(path, 0)
            self._entries[path] = count + 1
            path = (*path, count)
        self._note(path, line)
        return path

    def _inside(self, names: list[str]) -> Path:
        """A name that stands for a list of tables means the last one of them so far."""
        path: Path = ()
        for name in names:
            path = (*path, name)
            if path in self._entries:
                path = (*path, self._entries[path] - 1)
        return path

    def _key(self) -> list[str]:
        names = []
        while True:
            self._skip()
            if self._text[self._at] in "\"'":
                names.append(str(tomllib.loads(f"k = {self._string()}")["k"]))
            else:
                match = _BARE.match(self._text, self._at)
                assert match is not None, "tomllib has read it"
                names.append(match[0])
                self._at = match.end()
            self._skip()
            if not self._text.startswith(".", self._at):
                return names
            self._at += 1

    def _string(self) -> str:
        for pattern in _STRINGS:
            if match := pattern.match(self._text, self._at):
                self._at = match.end()
                return match[0]
        raise AssertionError("tomllib has read it")

    def _pair(self, table: Path) -> None:
        line = self._line()
        path = (*table, *self._key())
        self._note(path, line)
        self._at += 1  # the equals sign
        self._value(path)

    def _value(self, path: Path) -> None:
        self._skip()
        start = self._text[self._at]
        if start in "\"'":
            self._string()
        elif start in "[{":
            self._at += 1
            number = 0
            while self._text[self._skip()] not in "]}":
                if start == "{":
                    self._pair(path)
                else:
                    self._note((*path, number), self._line())
                    self._value((*path, number))
                number += 1
                if self._text[self._skip()] == ",":
                    self._at += 1
            self._at += 1
        else:
            match = _SCALAR.match(self._text, self._at)
            assert match is not None, "tomllib has read it"
            self._at = match.end()
