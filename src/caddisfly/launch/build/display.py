"""A build as it goes: its steps, on a terminal alive and elsewhere line by line; and what to say when one fails.

It is fed with the records of a build's log, as the API has them:

    {"kind": "step", "step": {"event": "started" | "ended", "number", "of", "stage", "text", "cached", "exit_code"}}
    {"kind": "output" | "note", "message": ...}

All of it goes to standard error. What a build prints is shown without its control characters: a terminal does what they
say, and they come from whoever made the base image.
"""

from __future__ import annotations

import re
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.spinner import Spinner
from rich.text import Text

LAST_LINES = 20
"""Of a step that failed, shown again at the end."""
_LIVE_LINES = 6
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\^_])")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Step:
    label: str
    started: float
    """By the clock of the display, in seconds."""


class Display(Protocol):
    """Use `with`. `last_lines` are those of the step under way, or of the one that failed."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def feed(self, record: Mapping[str, Any]) -> None: ...

    def say(self, text: str) -> None:
        """Something of our own, such as how much was sent."""

    def doing(self, text: str) -> None:
        """What goes on now, until the next; it is not kept."""

    @property
    def last_lines(self) -> tuple[str, ...]: ...


class _Steps:
    """What both kinds know."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.step: Step | None = None
        self.tail: deque[str] = deque(maxlen=LAST_LINES)

    @property
    def last_lines(self) -> tuple[str, ...]:
        return tuple(self.tail)

    def feed(self, record: Mapping[str, Any]) -> None:
        kind = record.get("kind")
        if kind != "step":
            for line in str(record.get("message") or "").split("\n"):
                shown = plain(line)
                if kind == "output":
                    self.tail.append(shown)
                self.printed(shown, note=kind == "note")
            return
        step = record.get("step") or {}
        if step.get("event") == "started":
            self.tail.clear()
            self.step = Step(_label(step), self.clock())
            self.began(self.step)
        elif self.step is not None:
            ended, seconds = self.step, self.clock() - self.step.started
            self.step = None
            self.ended(ended, seconds, cached=bool(step.get("cached")), exit_code=int(step.get("exit_code") or 0))

    def printed(self, line: str, *, note: bool) -> None:
        raise NotImplementedError

    def began(self, step: Step) -> None:
        raise NotImplementedError

    def ended(self, step: Step, seconds: float, *, cached: bool, exit_code: int) -> None:
        raise NotImplementedError


class Plain(_Steps):
    """For pipes and logs of others: each line once, as it comes."""

    def __init__(self, out: TextIO, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._out = out

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def say(self, text: str) -> None:
        self._out.write(plain(text) + "\n")
        self._out.flush()

    def doing(self, text: str) -> None:
        """Nobody wants it in a file."""

    def printed(self, line: str, *, note: bool) -> None:
        self.say(line)

    def began(self, step: Step) -> None:
        self.say(step.label)

    def ended(self, step: Step, seconds: float, *, cached: bool, exit_code: int) -> None:
        self.say(f"{step.label.partition(' ')[0]} {_outcome(seconds, cached, exit_code)}")


class OnTerminal(_Steps):
    """Steps that are done stand above, the one under way moves below them with its last lines."""

    def __init__(self, console: Console, *, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self._console = console
        self._spinner = Spinner("dots")
        self._doing = ""
        self._live = Live(get_renderable=self._now, console=console, refresh_per_second=10, transient=True)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()
        if self.step is not None:  # it was interrupted, or the log ended in it
            self._console.print(Text(f"✗ {self._fit(self.step.label, beside='✗ ')}", style="red"))

    def say(self, text: str) -> None:
        self._console.print(Text(plain(text)))

    def doing(self, text: str) -> None:
        self._doing = text

    def printed(self, line: str, *, note: bool) -> None:
        if note or self.step is None:
            self._console.print(Text(line, style="dim" if not note else ""))

    def began(self, step: Step) -> None:
        self._doing = ""

    def ended(self, step: Step, seconds: float, *, cached: bool, exit_code: int) -> None:
        mark, style = ("✗", "red") if exit_code else ("✓", "green")
        outcome = f"  {_outcome(seconds, cached, exit_code)}"
        label = self._fit(step.label, beside=f"{mark} {outcome}")
        self._console.print(Text.assemble((f"{mark} ", style), label, (outcome, "dim")))

    def _now(self) -> RenderableType:
        if self.step is None:
            if not self._doing:
                return Text()
            self._spinner.update(text=Text(self._doing))
            return self._spinner
        since = f"  {self.clock() - self.step.started:.0f}s"
        self._spinner.update(text=Text(self._fit(self.step.label, beside=f"⠋ {since}") + since))
        lines = list(self.tail)[-_LIVE_LINES:]
        return Group(
            self._spinner, *(Text(f"  {line}", style="dim", no_wrap=True, overflow="ellipsis") for line in lines)
        )

    def _fit(self, label: str, *, beside: str) -> str:
        """As much of it as fits on one line beside the rest."""
        width = max(10, self._console.width - len(beside))
        return label if len(label) <= width else label[: width - 1] + "…"


def choose(out: TextIO) -> Display:
    """Alive where somebody looks."""
    return OnTerminal(Console(file=out, highlight=False)) if out.isatty() else Plain(out)


def plain(text: str) -> str:
    """One line without control characters; of one that was written over and over, what was last."""
    line = _ESCAPES.sub("", text).rstrip("\r\n").rpartition("\r")[2]
    return _CONTROL.sub("", line)


def _label(step: Mapping[str, Any]) -> str:
    stage = f"{step['stage']}:" if step.get("stage") else ""
    return plain(f"[{stage}{step.get('number', '?')}/{step.get('of', '?')}] {step.get('text', '')}")


def _outcome(seconds: float, cached: bool, exit_code: int) -> str:
    if exit_code:
        return f"failed with exit code {exit_code} after {seconds:.1f}s"
    return "cached" if cached else f"done in {seconds:.1f}s"


def size(count: int) -> str:
    """Bytes as people say them."""
    amount = float(count)
    for unit in ("B", "kB", "MB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" or amount >= 10 else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} GB"
