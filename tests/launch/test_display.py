"""What one sees of a build."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from caddisfly.launch.build import display
from caddisfly.launch.build.display import Display, OnTerminal, Plain


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def step(event: str, number: int, text: str = "", **more: Any) -> dict[str, Any]:
    return {"kind": "step", "step": {"event": event, "number": number, "of": 3, "text": text, **more}}


def output(message: str) -> dict[str, Any]:
    return {"kind": "output", "message": message}


def build(shown: Display, clock: Clock) -> None:
    shown.feed({"kind": "note", "message": "two builds are before this one"})
    shown.feed(step("started", 1, "FROM alpine", stage="1/2"))
    shown.feed(step("ended", 1, cached=True))
    shown.feed(step("started", 2, "RUN make"))
    shown.feed(output("cc -o app"))
    clock.now += 2.25
    shown.feed(step("ended", 2, exit_code=0))
    shown.feed(step("started", 3, "RUN make test"))
    for number in range(25):
        shown.feed(output(f"test {number}"))
    shown.feed(step("ended", 3, exit_code=2))


def test_line_by_line() -> None:
    out, clock = io.StringIO(), Clock()
    with Plain(out, clock=clock) as shown:
        build(shown, clock)
    lines = out.getvalue().splitlines()
    assert lines[:7] == [
        "two builds are before this one",
        "[1/2:1/3] FROM alpine",
        "[1/2:1/3] cached",
        "[2/3] RUN make",
        "cc -o app",
        "[2/3] done in 2.2s",
        "[3/3] RUN make test",
    ]
    assert lines[-1] == "[3/3] failed with exit code 2 after 0.0s"
    assert shown.last_lines == tuple(f"test {number}" for number in range(5, 25))


def test_on_a_terminal_steps_remain_and_their_output_does_not() -> None:
    out, clock = io.StringIO(), Clock()
    console = Console(file=out, force_terminal=True, width=80, color_system=None, legacy_windows=False)
    with OnTerminal(console, clock=clock) as shown:
        build(shown, clock)
        shown.say("and [bold]this[/bold]")
    text = out.getvalue()
    assert "✓ [1/2:1/3] FROM alpine  cached" in text
    assert "✓ [2/3] RUN make  done in 2.2s" in text
    assert "✗ [3/3] RUN make test  failed with exit code 2 after 0.0s" in text
    assert "and [bold]this[/bold]" in text
    assert shown.last_lines[-1] == "test 24"


def test_on_a_terminal_the_step_under_way_shows_its_last_lines() -> None:
    clock = Clock()
    shown = OnTerminal(Console(file=io.StringIO(), force_terminal=True, width=80, color_system=None), clock=clock)
    shown.doing("sending")
    seen = Console(file=io.StringIO(), width=80, color_system=None)
    seen.print(shown._now())
    shown.feed(step("started", 2, "RUN make"))
    for number in range(9):
        shown.feed(output(f"line {number} " + "x" * 100))
    clock.now += 61
    seen.print(shown._now())
    text = seen.file.getvalue()  # type: ignore[attr-defined]
    assert "sending" in text
    assert "[2/3] RUN make  61s" in text
    assert "line 2" not in text
    assert len([line for line in text.splitlines() if "xxx" in line]) == 6


def test_a_long_step_takes_one_line_of_the_terminal() -> None:
    out = io.StringIO()
    with OnTerminal(Console(file=out, force_terminal=True, width=60, color_system=None)) as shown:
        shown.feed(step("started", 2, "RUN " + "word " * 50))
        shown.feed(step("ended", 2, exit_code=130))
    (line,) = (line for line in out.getvalue().splitlines() if "✗" in line)
    assert line.endswith("[2/3] RUN word word…  failed with exit code 130 after 0.0s")


def test_a_step_that_nobody_ended_is_named() -> None:
    out = io.StringIO()
    with OnTerminal(Console(file=out, force_terminal=True, width=80, color_system=None)) as shown:
        shown.feed(step("started", 2, "RUN make"))
    assert "✗ [2/3] RUN make" in out.getvalue()


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "red"),
        ("10%\r50%\r100%\r\n", "100%"),
        ("\x1b]0;title\x07after", "after"),
        ("\x1b]52;c;ZXZpbA==\x1b\\after", "after"),
        ("a\tb\x00\x08\x9bc", "a\tbc"),
        ("ünï", "ünï"),
    ],
)
def test_control_characters_do_not_reach_the_terminal(text: str, shown: str) -> None:
    assert display.plain(text) == shown


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1500, "1.5 kB"), (123_456_789, "123 MB"), (2_100_000_000, "2.1 GB")],
)
def test_sizes(count: int, text: str) -> None:
    assert display.size(count) == text
