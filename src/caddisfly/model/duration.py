"""Durations as Go writes them, because every client of Fly's API was generated from, or compared with, Go.

In: a string such as `1m30s`, or a JSON number of **nanoseconds**. Out: always Go's normal form, so `90s` comes back as
`1m30s` (reference machines-api, 1.7).
"""

from __future__ import annotations

import math
import re
from fractions import Fraction

from caddisfly.model.errors import InvalidArgument

_UNITS_NS = {
    "ns": 1,
    "us": 1_000,
    "µs": 1_000,
    "μs": 1_000,
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_PART = re.compile(r"(\d+\.?\d*|\.\d+)(ns|us|µs|μs|ms|s|m|h)")
_LARGEST_NS = 2**63 - 1


class Duration(int):
    """A length of time in nanoseconds. It is an `int`, so it compares and adds as one; `str()` gives Go's form."""

    @classmethod
    def parse(cls, value: object, *, field: str = "duration") -> Duration:
        """Read what JSON gave us. Raises `InvalidArgument` naming `field`."""
        if isinstance(value, bool) or not isinstance(value, int | float | str):
            raise InvalidArgument(
                f"invalid {field}: {value!r}", next='give a string such as "15s" or a number of nanoseconds'
            )
        if not isinstance(value, str):
            if not math.isfinite(value):
                raise InvalidArgument(f"invalid {field}: not a finite number")
            return cls._within(int(value), field)
        sign, rest = (-1, value[1:]) if value.startswith("-") else (1, value.removeprefix("+"))
        if rest == "0":
            return cls(0)
        total: int | Fraction = 0
        end = 0
        for part in _PART.finditer(rest):
            if part.start() != end:
                break
            unit = _UNITS_NS[part[2]]
            total += int(part[1]) * unit if part[1].isdecimal() else Fraction(part[1]) * unit
            end = part.end()
        if not rest or end != len(rest):
            raise InvalidArgument(
                f"invalid {field}: {value!r}", next="use units ns, us, ms, s, m or h, as in 500ms or 1m30s"
            )
        return cls._within(sign * int(total), field)

    @classmethod
    def _within(cls, ns: int, field: str) -> Duration:
        if abs(ns) > _LARGEST_NS:
            raise InvalidArgument(f"invalid {field}: longer than 292 years")
        return cls(ns)

    @classmethod
    def of_seconds(cls, seconds: float) -> Duration:
        return cls(round(seconds * 1_000_000_000))

    @property
    def seconds(self) -> float:
        return int(self) / 1_000_000_000

    def __str__(self) -> str:
        ns = abs(int(self))
        sign = "-" if int(self) < 0 else ""
        if ns == 0:
            return "0s"
        if ns < 1_000_000_000:
            for unit in ("ms", "µs", "ns"):
                if ns >= _UNITS_NS[unit]:
                    return f"{sign}{_decimal(ns, _UNITS_NS[unit])}{unit}"
        minutes, rest = divmod(ns, 60_000_000_000)
        hours, minutes = divmod(minutes, 60)
        text = f"{_decimal(rest, 1_000_000_000)}s"
        if hours or minutes:
            text = f"{minutes}m{text}"
        if hours:
            text = f"{hours}h{text}"
        return sign + text

    __repr__ = __str__


def _decimal(value: int, unit: int) -> str:
    whole, rest = divmod(value, unit)
    if not rest:
        return str(whole)
    digits = str(rest).rjust(len(str(unit)) - 1, "0").rstrip("0")
    return f"{whole}.{digits}"
