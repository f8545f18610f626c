"""Members of what clients send, checked one by one.

Each function returns the value, normalised, or raises `InvalidArgument` that names the member and what is allowed.
"""

from __future__ import annotations

import re
from typing import Any

from caddisfly.model.errors import InvalidArgument

_NAME = re.compile(r"[^=\x00]+")


def empty(value: object) -> bool:
    return value is None or value is False or value == 0 or value == "" or value == [] or value == {}


def mapping(value: object, field: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InvalidArgument(f"invalid {field}, must be an object, got {type(value).__name__}")
    return value


def text(value: object, field: str) -> str:
    if not isinstance(value, str):
        raise InvalidArgument(f"invalid {field}, must be a string, got {value!r}")
    if "\x00" in value:
        raise InvalidArgument(f"invalid {field}, must not hold a NUL character")
    return value


def texts(value: object, field: str) -> list[str]:
    if not isinstance(value, list):
        raise InvalidArgument(f"invalid {field}, must be a list of strings")
    return [text(item, f"{field}[{index}]") for index, item in enumerate(value)]


def string_map(value: object, field: str) -> dict[str, str]:
    wire = mapping(value, field)
    for name, inner in wire.items():
        if not _NAME.fullmatch(name):
            raise InvalidArgument(f"invalid {field}, {name!r} is not a usable name")
        text(inner, f"{field}.{name}")
    return wire


def flag(value: object, field: str) -> bool:
    if not isinstance(value, bool):
        raise InvalidArgument(f"invalid {field}, must be true or false, got {value!r}")
    return value


def whole(value: object, field: str, low: int, high: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise InvalidArgument(f"invalid {field}, must be a whole number, got {value!r}")
    if not low <= value <= high:
        raise InvalidArgument(f"invalid {field}, must be from {low} to {high}, got {value}")
    return int(value)


def one_of(value: object, field: str, allowed: tuple[object, ...]) -> str:
    if value not in allowed:
        raise InvalidArgument(f"invalid {field}, {value!r} is not one of {', '.join(map(str, allowed))}")
    return str(value)


def sequence(value: object, field: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidArgument(f"invalid {field}, must be a list")
    return value
