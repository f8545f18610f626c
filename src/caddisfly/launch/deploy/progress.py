"""What a deploy tells as it goes: each Machine's step, alive on a terminal and elsewhere line by line.

All of it goes to standard error; the result alone is on standard output. What Machines print is shown without its
control characters, as with builds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Literal, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

from caddisfly.launch.build.display import plain

Mark = Literal["doing", "done", "failed"]


class Progress(Protocol):
    """Use `with`."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def say(self, text: str) -> None: ...

    def output(self, text: str) -> None:
        """A line of what a Machine printed."""

    def machine(self, id: str, group: str, step: str, mark: Mark = "doing") -> None:
        """Where a Machine is. Saying the same twice shows it once."""


class Plain:
    """For pipes and CI: a line for each step."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last: dict[str, tuple[str, Mark]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        self._out.write(text + "\n")
        self._out.flush()

    def output(self, text: str) -> None:
        self.say(f"  | {plain(text)}")

    def machine(self, id: str, group: str, step: str, mark: Mark = "doing") -> None:
        if self._last.get(id) == (step, mark):
            return
        self._last[id] = (step, mark)
        self.say(f"  {'✗ ' if mark == 'failed' else '✓ ' if mark == 'done' else ''}{id} [{group}] {plain(step)}")


@dataclass(frozen=True, slots=True)
class _Row:
    group: str
    step: str
    mark: Mark
    since: float


class OnTerminal:
    """Machines that are done stand above, those under way move below them."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._console, self._clock = console, clock
        self._rows: dict[str, _Row] = {}
        self._spinner = Spinner("dots")
        self._live = Live(get_renderable=self._now, console=console, refresh_per_second=10, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def say(self, text: str) -> None:
        self._console.print(Text(text))

    def output(self, text: str) -> None:
        self._console.print(Text(f"  | {plain(text)}", style="dim"))

    def machine(self, id: str, group: str, step: str, mark: Mark = "doing") -> None:
        before = self._rows.get(id)
        since = before.since if before else self._clock()
        row = _Row(group, plain(step), mark, since)
        if mark == "doing":
            self._rows[id] = row
            return
        if before is None or replace(before, since=0.0) != replace(row, since=0.0):
            sign, style = ("✓", "green") if mark == "done" else ("✗", "red")
            took = f"  {self._clock() - since:.1f}s"
            self._console.print(Text.assemble((f"{sign} ", style), f"{id} [{group}] {row.step}", (took, "dim")))
        self._rows.pop(id, None)

    def _now(self) -> RenderableType:
        lines = [
            Text(
                f"  {id} [{row.group}] {row.step}  {self._clock() - row.since:.0f}s", no_wrap=True, overflow="ellipsis"
            )
            for id, row in self._rows.items()
        ]
        return Group(self._spinner, *lines) if lines else Text()


def choose(out: TextIO) -> Progress:
    """Alive where somebody looks."""
    return OnTerminal(Console(file=out, highlight=False)) if out.isatty() else Plain(out)
