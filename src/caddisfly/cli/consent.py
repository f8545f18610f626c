"""Questions, and what becomes of them where nobody can answer: never a prompt that hangs, never a guess.

`--yes` is the answer to all of them. Without a terminal a question is an error that names the flag which answers it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass

import typer

from caddisfly.model.errors import FailedPrecondition, InvalidArgument, Problem


def confirm(question: str, *, yes: bool, flag: str = "--yes") -> None:
    """The one question of a command. Leaves with exit code 1 after a no.

    Raises `InvalidArgument` where nobody can be asked: the command line lacks the answer.
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise InvalidArgument(f"{question} Nobody can be asked", why="there is no terminal", next=f"add {flag}")
    typer.confirm(question, abort=True, err=True)


@dataclass(frozen=True, slots=True)
class Consent:
    yes: bool

    @property
    def asks(self) -> bool:
        """Whether somebody is there to be asked."""
        return not self.yes and sys.stdin.isatty()

    def given(self, question: str, *, flag: str = "--yes", default: bool = False) -> bool:
        """Raises `FailedPrecondition` where nobody can be asked."""
        if self.yes:
            return True
        if not self.asks:
            raise FailedPrecondition(
                f"this needs an answer: {question}", why="there is no terminal to ask at", next=f"{flag} answers it"
            )
        return typer.confirm(question, default=default, err=True)

    def text(self, question: str, default: str, *, check: Callable[[str], object] = str) -> str:
        """Asked until it is right. Only where somebody is there."""

        def checked(said: str) -> str:
            try:
                check(said)
            except (Problem, ValueError) as error:
                raise typer.BadParameter(str(error)) from error
            return said

        return str(typer.prompt(question, default=default, value_proc=checked, err=True))
