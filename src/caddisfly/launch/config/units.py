"""Durations and sizes as a fly.toml may write them (reference fly-launch, 1.2).

A number without a unit means seconds, milliseconds, MB or GB, depending on the key. On some keys Fly reads it as
nanoseconds, by an accident of its decoder; nobody has ever meant that, so there it is milliseconds, with a warning.
"""

from __future__ import annotations

import enum
import math
import re
from fractions import Fraction

from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument

_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+) *([kmgtp]?)(b|ib)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}
_ACCIDENT_BELOW_NS = 1_000_000_000
_MS = 1_000_000


class Bare(enum.Enum):
    """What a number without a unit means on a key."""

    SECONDS = "seconds"
    MILLISECONDS = "milliseconds"
    ACCIDENT = "nanoseconds on Fly"


class Wrong(ValueError):
    """The text is not what it should be; says so in Fly's words."""


def duration(value: object, bare: Bare) -> tuple[Duration | None, str]:
    """The duration, None for an empty text that means unset, and a warning or nothing. Raises `Wrong`."""
    if isinstance(value, str):
        return _written(value, bare), ""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise Wrong(f"must be a duration, got {kind(value)}")
    if bare is Bare.SECONDS:
        return _positive(Duration.of_seconds(int(value))), ""
    if bare is Bare.MILLISECONDS:
        return _positive(Duration(int(value * _MS))), ""
    if value >= _ACCIDENT_BELOW_NS:
        return Duration(int(value)), f'the number was read as nanoseconds; write "{Duration(int(value))}"'
    meant = _positive(Duration(int(value * _MS)))
    return meant, f'the number was read as milliseconds (Fly reads nanoseconds); write "{meant}"'


def _written(text: str, bare: Bare) -> Duration | None:
    if not text and bare is not Bare.ACCIDENT:
        return None
    if re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)", text) and float(text):
        raise Wrong(f'time: missing unit in duration "{text}"')
    try:
        return _positive(Duration.parse(text))
    except InvalidArgument as error:
        raise Wrong(f'time: invalid duration "{text}"') from error


def _positive(duration: Duration) -> Duration:
    if duration < 0:
        raise Wrong(f"must not be negative, got {duration}")
    return duration


def megabytes(value: object) -> int:
    """Memory: 1 GB is 1024 MB, a bare number is MB. Raises `Wrong`."""
    return _size(value, bare=1 << 20, decimal=False) >> 20


def gigabytes(value: object) -> int:
    """Disk: 1 GB is 10^9 bytes (1 GiB 2^30), a bare number is GB, what is less than one is cut off. Raises `Wrong`."""
    return _size(value, bare=10**9, decimal=True) // 10**9


def _size(value: object, *, bare: int, decimal: bool) -> int:
    if isinstance(value, int) and not isinstance(value, bool):
        if value < 0:
            raise Wrong(f"invalid size: '{value}'")
        return value * bare
    if not isinstance(value, str):
        raise Wrong(f"must be a size, got {kind(value)}")
    match = _SIZE.fullmatch(value)
    if match is None:
        raise Wrong(f"invalid size: '{value}'")
    number, letter, suffix = Fraction(match[1].rstrip(".")), match[2].lower(), (match[3] or "").lower()
    if not letter and not suffix:
        return int(number * bare)
    base = 1000 if decimal and suffix != "ib" else 1024
    return int(number * base ** _POWERS[letter])


def kind(value: object) -> str:
    """A value's type, as people call it."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, tuple | list):
        return "a list"
    if isinstance(value, bool):
        return f"the boolean {str(value).lower()}"
    if isinstance(value, str):
        return f'the text "{value}"' if len(value) <= 40 else "a text"
    return f"the number {value}" if isinstance(value, int | float) else f"{value}"
