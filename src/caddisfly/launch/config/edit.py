"""Edits of a fly.toml that leave the rest of it alone: comments, order and spellings stay.

Fly's own tools write the file anew and lose them, which is the oldest complaint about them.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import tomlkit
from tomlkit.items import AoT, InlineTable, Item
from tomlkit.toml_document import TOMLDocument

from caddisfly.launch.config import words

Path = tuple[str, ...]


def changed(text: str, changes: Mapping[Path, Any]) -> str:
    """The text with values set by path; None removes one. Tables that are missing are made."""
    document = tomlkit.parse(text)
    for path, value in changes.items():
        *tables, name = path
        at: Any = document
        for table in tables:
            if table not in at:
                if value is None:
                    break
                at[table] = tomlkit.table(is_super_table=True)
            at = at[table]
        else:
            _put(at, name, value)
    return tomlkit.dumps(document)


def replaced(text: str, values: Mapping[str, Any], *, owned: Collection[str]) -> str:
    """The text with these top-level values. Of the `owned` keys, those without a value are removed."""
    document = tomlkit.parse(text)
    for name in [name for name in document if name in owned and name not in values]:
        document.remove(name)
    for name, value in values.items():
        _put(document, name, value)
    return tomlkit.dumps(document)


def _put(table: Any, name: str, value: Any) -> None:
    """Only what differs is touched."""
    if value is None:
        if name in table:
            table.remove(name)
        return
    present = table.get(name)
    if present is not None and _same(_unwrapped(present), value):
        return
    if isinstance(present, Mapping) and isinstance(value, Mapping):
        _become(table[name], value)
        return
    if isinstance(present, AoT) and _is_tables(value) and len(present) == len(value):
        for entry, wanted in zip(table[name], value, strict=True):
            _become(entry, wanted)
        return
    if isinstance(table, InlineTable):
        table[name] = inline(value)
        return
    if present is not None and isinstance(present, AoT) != _is_tables(value):
        table.remove(name)  # another kind of thing cannot stand in its place
        present = None
    if present is None and isinstance(table, TOMLDocument) and table.body and _is_section(value):
        table.add(tomlkit.nl())
    table[name] = _item(value)


def _become(table: Any, value: Mapping[str, Any]) -> None:
    for old in [key for key in table if key not in value]:
        del table[old]
    for key, inner in value.items():
        _put(table, key, inner)


def _item(value: Any) -> Item:
    if _is_tables(value):
        tables = tomlkit.aot()
        for entry in value:
            tables.append(_item(entry))
        return tables
    if isinstance(value, Mapping):
        table = tomlkit.table()
        for key, inner in sorted(value.items(), key=lambda pair: _is_section(pair[1])):
            table.add(key, _item(inner))
        return table
    item: Item = tomlkit.item(value)
    return item


def inline(value: Any) -> Item:
    """On one line, because it stands in something that is."""
    if isinstance(value, Mapping):
        table = tomlkit.inline_table()
        for key, inner in value.items():
            table.append(key, inline(inner))
        return table
    if isinstance(value, list):
        array = tomlkit.array()
        for entry in value:
            array.append(inline(entry))
        return array
    item: Item = tomlkit.item(value)
    return item


def _same(present: Any, value: Any) -> bool:
    """Variables may be written as numbers: `PORT = 8080` is as good as a text."""
    written = isinstance(value, str) and isinstance(present, bool | int | float)
    return bool(words.scalar(present) == value if written else present == value)


def _is_tables(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(isinstance(entry, Mapping) for entry in value)


def _is_section(value: Any) -> bool:
    return isinstance(value, Mapping) or _is_tables(value)


def _unwrapped(item: Any) -> Any:
    return item.unwrap() if hasattr(item, "unwrap") else item
