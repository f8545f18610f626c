"""Command lines and scalars, as Fly's tools read and write them."""

from __future__ import annotations

import shlex
from datetime import date, datetime, time

_QUOTE_ERRORS = {
    "No closing quotation": "EOF found when expecting closing quote",
    "No escaped character": "EOF found after escape character",
}


def split(command: str) -> tuple[str, ...]:
    """Words by POSIX quoting. Raises `ValueError` in Fly's words."""
    try:
        return tuple(shlex.split(command))
    except ValueError as error:
        raise ValueError(_QUOTE_ERRORS.get(str(error), str(error))) from error


def scalar(value: object) -> str:
    """What a number or a boolean is as text: `true`, `8080`, `0.5`. A float without a fraction loses its point."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    return str(value)
