"""How values are written in a fly.toml: lengths of time, sizes, command lines. The rules are flyctl's.

A bare number means seconds, milliseconds or nanoseconds, depending on the key. Nanoseconds are an accident of flyctl's
decoder, and nobody means them: there a number below a second's worth of them is read as the milliseconds that the
documentation speaks of, with a warning.
"""

from __future__ import annotations

import re
from fractions import Fraction
from typing import Literal

from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument

Bare = Literal["seconds", "milliseconds", "nanoseconds"]

_SECOND_NS = 1_000_000_000
_MILLISECOND_NS = 1_000_000
_SIZE = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*(?:([kmgtp])(i?b)?|b)?", re.IGNORECASE)
_POWERS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4, "p": 5}


def duration(value: object, *, bare: Bare, field: str) -> tuple[Duration | None, str]:
    """The length, None for an empty text, and a warning or nothing. Raises `InvalidArgument`."""
    if value == "" and bare != "nanoseconds":
        return None, ""
    if isinstance(value, bool) or not isinstance(value, int | float):
        if value == "":
            raise InvalidArgument(f'invalid {field}: time: invalid duration ""')
        return Duration.parse(value, field=field), ""
    if bare == "seconds":
        return Duration.parse(int(value) * _SECOND_NS, field=field), ""
    if bare == "milliseconds":
        return Duration.parse(value * _MILLISECOND_NS, field=field), ""
    if abs(value) < _SECOND_NS:
        length = Duration.parse(value * _MILLISECOND_NS, field=field)
        return length, f"{field} = {value} is read as milliseconds, {length}; flyctl reads nanoseconds"
    return Duration.parse(value, field=field), ""


def memory_mb(value: object) -> int:
    """1 MB is 2^20 bytes, and the unit of a bare number. Raises `InvalidArgument`."""
    amount, unit, _ = _parts(value)
    return int(amount * 1024 ** (_POWERS[unit] - 2) if unit else amount)


def disk_gb(value: object) -> int:
    """1 GB is 10^9 bytes and the unit of a bare number; with an i, as in GiB, powers of 1024. Rounded down."""
    amount, unit, suffix = _parts(value)
    if not unit:
        return int(amount)
    base = 1024 if suffix.lower() == "ib" else 1000
    return int(amount * Fraction(base) ** _POWERS[unit] / 10**9)


def words(line: str) -> list[str]:
    """A command line as flyctl splits it: quotes, backslashes, and comments that begin at a `#`.

    Raises `InvalidArgument` for a quote or an escape without an end.
    """
    found: list[str] = []
    word: list[str] | None = None
    quote, at = "", 0
    while at < len(line):
        character = line[at]
        at += 1
        if character == "\\" and quote != "'":
            if at == len(line):
                raise InvalidArgument("EOF found after escape character")
            word = [*(word or ()), line[at]]
            at += 1
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = [*(word or ()), character]
        elif character in "'\"":
            quote, word = character, word or []
        elif character in " \t\r\n":
            if word is not None:
                found.append("".join(word))
            word = None
        elif character == "#" and word is None:
            end = line.find("\n", at)
            at = len(line) if end < 0 else end
        else:
            word = [*(word or ()), character]
    if quote:
        raise InvalidArgument("EOF found when expecting closing quote")
    return found if word is None else [*found, "".join(word)]


def _parts(value: object) -> tuple[Fraction, str, str]:
    """Amount, the letter of its unit, and what follows the letter."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return Fraction(value), "", ""
    match = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise InvalidArgument(f"invalid size: '{value}'", next="a number with a unit, such as 512mb or 1gb")
    return Fraction(match[1]), (match[2] or "").lower(), match[3] or ""
