"""Asking a person, where there is one."""

from __future__ import annotations

import sys

import typer

from caddisfly.model.errors import InvalidArgument


def confirm(question: str, *, yes: bool, flag: str = "--yes") -> None:
    """Leaves with exit code 1 after a no. Raises `InvalidArgument` where nobody can be asked."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidArgument(f"{question} Nobody can be asked", why="there is no terminal", next=f"add {flag}")
    typer.confirm(question, abort=True, err=True)
