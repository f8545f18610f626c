"""`caddis run PART [--config FILE]` without Typer: the parts live long and should not carry a command line."""

from __future__ import annotations

import sys
from pathlib import Path

from caddisfly.cli import show
from caddisfly.model.errors import InvalidArgument, Problem


def main(words: list[str]) -> None:
    """Exits with 2 on a wrong command line, 1 on a problem."""
    match words:
        case [part]:
            file = None
        case [part, "--config", name]:
            file = Path(name)
        case _:
            show.error(
                "caddis run takes the name of a part", next="caddis run bus|control|agent|registry|edge [--config FILE]"
            )
            sys.exit(2)
    from caddisfly.up import parts

    try:
        parts.run(part, config=file)
    except Problem as problem:
        show.error(problem.what, why=problem.why, next=problem.next)
        sys.exit(2 if isinstance(problem, InvalidArgument) else 1)
