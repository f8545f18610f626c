"""The text of a config file, read into nodes. Its suffix says TOML, JSON or YAML: one schema for all three."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path as File
from typing import Any

import yaml

from caddisfly.launch.config import node, toml_lines
from caddisfly.launch.config.findings import ConfigInvalid, Finding
from caddisfly.launch.config.node import Lines, Node, Path, Place
from caddisfly.model.errors import FailedPrecondition


def read(file: File, *, shown: str = "") -> Node:
    """Raises `FailedPrecondition` for a file that cannot be read, `ConfigInvalid` for a text that is malformed."""
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"{file} cannot be read", why=str(error), next="correct it or name another") from error
    return parse(text, name=shown or str(file))


def parse(text: str, *, name: str) -> Node:
    """`name` is how messages call the file; its suffix chooses the format. Raises `ConfigInvalid`."""
    suffix = File(name).suffix.lower()
    read = _json if suffix == ".json" else _yaml if suffix in (".yaml", ".yml") else _toml
    try:
        values, lines = read(text, name)
        return _rooted(values, lines, name)
    except RecursionError as error:
        raise _malformed(name, 1, "nested too deeply") from error


def _rooted(values: Any, lines: Lines, name: str) -> Node:
    if values is None:
        values = {}  # an empty YAML file
    if not isinstance(values, dict):
        raise _malformed(name, 1, "the file must be a table of keys and values")
    return node.of(values, file=name, lines=lines)


def _toml(text: str, name: str) -> tuple[Any, Lines]:
    text = text.replace("\r\n", "\n")
    try:
        return tomllib.loads(text), toml_lines.of(text)
    except tomllib.TOMLDecodeError as error:
        line, column = _position(str(error), text)
        what = str(error).rpartition(" (at ")[0]
        raise _malformed(name, line, f"{what} (row {line} column {column})") from error


def _position(message: str, text: str) -> tuple[int, int]:
    """tomllib says it in words only."""
    words = message.rpartition("(at ")[2].rstrip(")").replace(",", "").split()
    if words[:1] == ["line"]:
        return int(words[1]), int(words[3])
    return text.count("\n") + 1, len(text) - text.rfind("\n")


def _json(text: str, name: str) -> tuple[Any, Lines]:
    try:
        values = json.loads(text)
    except json.JSONDecodeError as error:
        raise _malformed(name, error.lineno, f"{error.msg} (row {error.lineno} column {error.colno})") from error
    # JSON is YAML once its tabs, which can only stand between tokens, are spaces.
    try:
        return values, _yaml_lines(text.replace("\t", " "))
    except yaml.YAMLError:
        return values, {}  # keys of more than 1,024 characters: everything stands in line 1


def _yaml(text: str, name: str) -> tuple[Any, Lines]:
    try:
        return yaml.safe_load(text), _yaml_lines(text)
    except yaml.MarkedYAMLError as error:
        line, column = (error.problem_mark.line + 1, error.problem_mark.column + 1) if error.problem_mark else (1, 1)
        raise _malformed(name, line, f"{error.problem} (row {line} column {column})") from error
    except yaml.YAMLError as error:
        raise _malformed(name, 1, str(error)) from error


def _yaml_lines(text: str) -> Lines:
    root = yaml.compose(text, Loader=yaml.SafeLoader)
    return dict(_walked(root, ())) if root is not None else {}


def _walked(at: yaml.Node, path: Path) -> Iterator[tuple[Path, int]]:
    if isinstance(at, yaml.MappingNode):
        for key, value in at.value:
            yield (*path, str(key.value)), key.start_mark.line + 1
            yield from _walked(value, (*path, str(key.value)))
    elif isinstance(at, yaml.SequenceNode):
        for number, item in enumerate(at.value):
            yield (*path, number), item.start_mark.line + 1
            yield from _walked(item, (*path, number))


def _malformed(name: str, line: int, what: str) -> ConfigInvalid:
    return ConfigInvalid((Finding(message=what, place=Place(name, line)),))
