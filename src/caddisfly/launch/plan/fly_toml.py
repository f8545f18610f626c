"""The file that says what an app is: a new one, with a reason beside each value, or edits of one that is there.

TOML is written by hand here and not by a library, because reasons stand behind values and before tables, and because a
file that people will keep should look as they would have written it. JSON has no comments, and YAML gets none.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit
import yaml

from caddisfly.launch.config import document, edit
from caddisfly.launch.detect.settings import Default

_HEAD = "# What {app} is and how it runs. Each value says why it is so, and every one may be changed.\n"


def made(path: Path, defaults: Sequence[Default], *, app: str) -> str:
    """A new file in the format that its suffix says."""
    if path.suffix == ".toml":
        return _HEAD.format(app=app) + _toml(defaults)
    return _plain(path, _with({}, defaults))


def edited(path: Path, before: str, changes: Iterable[Default]) -> str:
    """The file with these values, its comments and order kept where its format allows. Raises `ConfigInvalid`."""
    present = document.parse(before, name=str(path)).plain
    wanted = [one for one in changes if one.value is not None or _at(present, one.path) is not None]
    if path.suffix not in (".json", ".yaml", ".yml"):
        return edit.changed(before, {one.path: one.value for one in wanted})
    after = _with(present, wanted)
    return before if after == present else _plain(path, after)


def _at(tables: Any, path: Sequence[str]) -> Any:
    for name in path:
        tables = tables.get(name) if isinstance(tables, Mapping) else None
    return tables


def _with(present: Mapping[str, Any], changes: Iterable[Default]) -> dict[str, Any]:
    found = copy.deepcopy(dict(present))
    for one in changes:
        table = found
        for name in one.path[:-1]:
            table = table.setdefault(name, {})
        if one.value is None:
            table.pop(one.path[-1], None)
        else:
            table[one.path[-1]] = one.value
    return found


def _plain(path: Path, values: Mapping[str, Any]) -> str:
    if path.suffix == ".json":
        return json.dumps(values, indent=2, ensure_ascii=False) + "\n"
    return str(yaml.safe_dump(values, sort_keys=False, allow_unicode=True))


def _toml(defaults: Sequence[Default]) -> str:
    """Top-level values, then table by table in the order in which they came, then lists of tables."""
    tables: dict[tuple[str, ...], list[Default]] = {(): []}
    for one in defaults:
        if one.value is not None:
            tables.setdefault(one.path[:-1], []).append(one)
    top = tables.pop(())
    names = [path[0] for path in tables]
    parts = ["\n".join(_pairs(top))]
    for path in sorted(tables, key=lambda path: (names.index(path[0]), len(path))):
        if pairs := _pairs(tables[path]):
            parts.append("\n".join([f"[{_dotted(path)}]", *pairs]))
        parts += _lists(tables[path])
    return "\n\n".join([*parts, *_lists(top)]) + "\n"


def _pairs(defaults: Iterable[Default]) -> list[str]:
    return [
        f"{_dotted(one.path[-1:])} = {edit.inline(one.value).as_string()}{_reason(one)}"
        for one in defaults
        if not _is_tables(one.value)
    ]


def _lists(defaults: Iterable[Default]) -> list[str]:
    found = []
    for one in defaults:
        for number, entry in enumerate(one.value if _is_tables(one.value) else ()):
            lines = [f"{_dotted((key,))} = {edit.inline(value).as_string()}" for key, value in entry.items()]
            found.append("\n".join([f"[[{_dotted(one.path)}]]{'' if number else _reason(one)}", *lines]))
    return found


def _reason(one: Default) -> str:
    return f"  # {' '.join(one.why.split())}" if one.why else ""


def _dotted(path: Sequence[str]) -> str:
    return ".".join(tomlkit.key(name).as_string() for name in path)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)
