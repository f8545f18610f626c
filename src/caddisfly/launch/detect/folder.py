"""A folder of source as detection sees it: read, never run, and never left.

Whoever runs detection did not write the folder, perhaps: they cloned it a minute ago. So a file is read up to a size, a
link counts only if it ends inside the folder, pipes and devices are not opened, and nothing of the folder is executed.
What is there and cannot be read is noted in `doubts`, because a verdict that rests on it may be wrong.
"""

from __future__ import annotations

import json
import os
import re
import stat
import tomllib
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import yaml

from caddisfly.model.errors import InvalidArgument

MOST_BYTES = 1 << 20
"""Of one file. What can be larger, the lock files of JavaScript, is only asked for and not read."""
MOST_SOURCES = 400
"""Files that a search for sources looks at: enough to find an entry, and bounded in a folder of a million files."""
_DEPTH = 3
_NOT_SOURCE = frozenset(
    "node_modules venv env __pycache__ vendor target build dist bin obj test tests spec examples docs".split()
)


class Folder:
    """Paths are relative, with slashes. What is not there reads as empty."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.doubts: list[str] = []
        self.dockerfile = ""
        """The one that somebody named; empty for the usual ones."""
        self._read: dict[str, str | None] = {}
        self._listed: dict[str, frozenset[str]] = {}
        self._tables: dict[str, dict[str, Any]] = {}

    def names(self, directory: str = "") -> frozenset[str]:
        if directory not in self._listed:
            place = self._inside(directory)
            try:
                self._listed[directory] = frozenset(os.listdir(place)) if place and place.is_dir() else frozenset()
            except OSError as error:
                self._doubt(f"{directory or '.'}/ cannot be read: {error.strerror}")
                self._listed[directory] = frozenset()
        return self._listed[directory]

    @cached_property
    def directories(self) -> tuple[str, ...]:
        """At the top, without hidden ones and those that hold what was built or fetched."""
        return tuple(name for name in sorted(self.names()) if self._is_source_directory("", name))

    def has(self, *paths: str) -> bool:
        """Whether one of them is a file."""
        return self.first(*paths) != ""

    def first(self, *paths: str) -> str:
        """The first that is a file, empty when none is."""
        return next((path for path in paths if (place := self._inside(path)) and place.is_file()), "")

    def has_directory(self, path: str) -> bool:
        place = self._inside(path)
        return place is not None and place.is_dir()

    def executable(self, path: str) -> bool:
        return self.has(path) and os.access(self.root / path, os.X_OK)

    def text(self, path: str) -> str:
        return self.content(path) or ""

    def content(self, path: str) -> str | None:
        """None when it is not there, or cannot be read, which is a doubt."""
        if path not in self._read:
            place = self._inside(path)
            try:
                self._read[path] = self._bounded(place, path) if place else None
            except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._read[path] = None
            except OSError as error:
                self._doubt(f"{path} cannot be read: {error.strerror}")
                self._read[path] = None
        return self._read[path]

    def json(self, path: str) -> dict[str, Any]:
        return self._parsed(path, json.loads, "JSON")

    def toml(self, path: str) -> dict[str, Any]:
        return self._parsed(path, tomllib.loads, "TOML")

    def yaml(self, path: str) -> dict[str, Any]:
        return self._parsed(path, lambda text: yaml.load(text, yaml.CSafeLoader), "YAML")

    def says(self, path: str, expression: str) -> bool:
        """Whether the file has a line that the expression finds."""
        return re.search(expression, self.text(path), re.MULTILINE) is not None

    def sources(self, *suffixes: str, depth: int = _DEPTH) -> Iterator[str]:
        """Files with one of the suffixes, the top's first, a bounded number, without what was built or fetched."""
        waiting = [("", 0)]
        looked = 0
        while waiting:
            directory, level = waiting.pop(0)
            for name in sorted(self.names(directory)):
                path = f"{directory}/{name}" if directory else name
                if name.endswith(suffixes) and self.has(path):
                    yield path
                elif level + 1 < depth and self._is_source_directory(directory, name):
                    waiting.append((path, level + 1))
                looked += 1
                if looked >= MOST_SOURCES:
                    return

    def source_saying(self, expression: str, *suffixes: str) -> str:
        """The first source that has it, empty when none has."""
        return next((path for path in self.sources(*suffixes) if self.says(path, expression)), "")

    def _is_source_directory(self, directory: str, name: str) -> bool:
        path = f"{directory}/{name}" if directory else name
        return not name.startswith(".") and name not in _NOT_SOURCE and self.has_directory(path)

    def _inside(self, path: str) -> Path | None:
        """Where it is when every link is followed; None outside of the folder."""
        try:
            place = (self.root / path).resolve()
        except (OSError, RuntimeError):  # a loop of links
            return None
        if place.is_relative_to(self.root):
            return place
        self._doubt(f"{path} is a link to outside of the folder and was not followed")
        return None

    def _bounded(self, place: Path, path: str) -> str | None:
        with open(os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as source:
            if not stat.S_ISREG(os.fstat(source.fileno()).st_mode):
                return None
            content = source.read(MOST_BYTES + 1)
        if len(content) > MOST_BYTES:
            self._doubt(f"{path} is larger than {MOST_BYTES >> 20} MiB and was not read")
            return None
        return content.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")

    def _parsed(self, path: str, parse: Callable[[str], Any], kind: str) -> dict[str, Any]:
        if path not in self._tables:
            self._tables[path] = {}
            try:
                found = parse(text) if (text := self.text(path)) else {}
            except (ValueError, yaml.YAMLError, RecursionError) as error:
                self._doubt(f"{path} is not {kind}: {' '.join(str(error).split())}")
            else:
                self._tables[path] = found if isinstance(found, dict) else {}
        return self._tables[path]

    def _doubt(self, text: str) -> None:
        if text not in self.doubts:
            self.doubts.append(text)


def opened(path: Path) -> Folder:
    """Raises `InvalidArgument` when it is no folder that can be read."""
    try:
        root = path.resolve(strict=True)
        os.listdir(root)
    except FileNotFoundError as error:
        raise InvalidArgument(
            f"directory '{path}' not found", next="name the folder with your source: caddis detect DIR"
        ) from error
    except NotADirectoryError as error:
        raise InvalidArgument(
            f"'{path}' is not a directory", why="detection looks at a folder", next=f"caddis detect {path.parent}"
        ) from error
    except (OSError, RuntimeError) as error:
        raise InvalidArgument(
            f"directory '{path}' cannot be read",
            why=getattr(error, "strerror", None) or str(error),
            next="give yourself the right to read it",
        ) from error
    return Folder(root)


def table(value: object, *keys: str) -> dict[str, Any]:
    """A table inside of tables; empty where something else stands."""
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value if isinstance(value, dict) else {}


def words(value: object) -> list[str]:
    """A list of strings; what is none is left out."""
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []
