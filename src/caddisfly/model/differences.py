"""What differs between two configs, in lines for people: `~ image: a -> b`, `+ env.A: 1`, `- env.B: 2`. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_LONGEST = 60


def between(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """Empty when both mean the same. A member that is null or empty is as one that is absent."""
    old, new = dict(_leaves("", before)), dict(_leaves("", after))
    lines = []
    for path in sorted({*old, *new}):
        if path not in new:
            lines.append(f"- {path}: {_text(old[path])}")
        elif path not in old:
            lines.append(f"+ {path}: {_text(new[path])}")
        elif old[path] != new[path]:
            lines.append(f"~ {path}: {_text(old[path])} -> {_text(new[path])}")
    return lines


def _leaves(path: str, value: object) -> Iterator[tuple[str, object]]:
    if isinstance(value, Mapping):
        for key, member in value.items():
            yield from _leaves(f"{path}.{key}" if path else str(key), member)
    elif isinstance(value, Sequence) and not isinstance(value, str) and any(isinstance(one, Mapping) for one in value):
        for number, member in enumerate(value):
            yield from _leaves(f"{path}[{number}]", member)
    elif value is not None and value != []:
        yield path, value


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."
