"""What commands print: results on standard output, everything about them on standard error.

A result is a table for people or, with `--json`, exactly what the API said. An error has three lines, Error, Why and
Next, and never a stack trace: a trace tells a user only that somebody else did not think of this.

In tables, facts and errors stands what others have said: apps in their last words, colleagues in descriptions. What a
terminal would obey is taken out of it.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

_OBEYED = dict.fromkeys([*range(32), *range(127, 160)], " ")
_BUT_LINES = {code: space for code, space in _OBEYED.items() if chr(code) not in "\n\t"}


def harmless(text: object) -> str:
    """Lines stay lines, and other control characters become spaces."""
    return str(text).translate(_BUT_LINES)


def result(value: object) -> None:
    """The `--json` form."""
    sys.stdout.write(json.dumps(value, indent=2, default=str) + "\n")


def line(text: str = "") -> None:
    sys.stdout.write(text + "\n")


def note(text: str) -> None:
    """Something worth knowing beside the result."""
    sys.stderr.write(text + "\n")


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Columns as wide as they need to be; on a pipe, plain text that cut and awk understand."""
    if not sys.stdout.isatty():
        for row in (headers, *rows):
            line("\t".join(str(cell).translate(_OBEYED) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    drawn = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        drawn.add_column(header, overflow="fold")
    for row in rows:
        drawn.add_row(*(Text(harmless(cell)) for cell in row))
    Console().print(drawn)


@contextmanager
def waiting(text: str) -> Iterator[None]:
    """A spinner while the block runs, if somebody looks."""
    if not sys.stderr.isatty():
        note(text)
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def error(what: str, *, why: str = "", next: str = "") -> None:
    labels = {"Error": what, "Why": why, "Next": next}
    colour = {"Error": "\x1b[1;31m", "Why": "\x1b[1m", "Next": "\x1b[1;32m"} if sys.stderr.isatty() else {}
    reset = "\x1b[0m" if colour else ""
    for label, text in labels.items():
        if text:
            body = harmless(text).rstrip().replace("\n", "\n       ")
            sys.stderr.write(f"{colour.get(label, '')}{label + ':':<7}{reset}{body}\n")


def ago(milliseconds: float, now_ms: float) -> str:
    """A length of time in one unit, as people say it: `42s`, `7m`, `3h`, `12d`."""
    seconds = max(0, int((now_ms - milliseconds) / 1000))
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def pairs(values: dict[str, Any]) -> None:
    """Facts about one thing, one per line."""
    width = max((len(key) for key in values), default=0)
    for key, value in values.items():
        line(f"{key:<{width}}  {harmless(value)}")
