"""The name of a new app, and what comes next when it is taken.

A name that somebody typed is taken or an error. One that only lies near, the directory's or a copied fly.toml's, gets a
suffix and tries again: whoever cloned a template did not choose the name in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from caddisfly.launch.plan.values import FROM_FILE, GIVEN, Value
from caddisfly.model import ids
from caddisfly.model.app import check_app_name
from caddisfly.model.errors import Unprocessable

_LONGEST = 63
_TRIES = 4


def normalised(text: str) -> str:
    """What is left of a directory's name in the alphabet of apps; may be empty."""
    ascii_only = text.encode("ascii", "ignore").decode().lower()
    return re.sub(r"[^a-z0-9]+", "-", ascii_only).strip("-")[:_LONGEST].strip("-")


def usable(name: str) -> bool:
    try:
        check_app_name(name)
    except Unprocessable:
        return False
    return True


def chosen(*, given: str, generate: bool, written: str, directory: Path) -> Value[str]:
    """`--name`, else the file's, else the directory's. Raises `Unprocessable` for one that no app can have."""
    near = (written if usable(written) else normalised(written)) if written else normalised(directory.name)
    if given:
        return Value(check_app_name(given), GIVEN)
    if generate or not near:
        return Value(suffixed(near), "generated")
    return Value(near, FROM_FILE if written else "the name of the directory")


def candidates(name: Value[str]) -> Iterator[Value[str]]:
    """It, and what to try when it is taken. Of a name that was given there is no other."""
    yield name
    if name.origin != GIVEN:
        for _ in range(_TRIES):
            yield Value(suffixed(name.value), f"{name.value} is taken")


def suffixed(name: str) -> str:
    """With three words that nobody else has."""
    words = ids.generated_name()
    return f"{name[: _LONGEST - len(words) - 1].rstrip('-')}-{words}" if name else words
