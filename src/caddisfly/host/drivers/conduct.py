"""How a mock sandbox acts, and the small language in which that is said.

    exit-after=2s,code=1        ends by itself after two seconds, with 1
    start-error=5%              one start in twenty fails for good
    slow-start=200ms..2s        a start takes some time between the two
    host-loss=5s@10%            one start in ten takes its host away for five seconds

A word may have a value after `=` and a chance after `@`; `word=5%` is short for `word@5%`. What is said is a `Script`;
what comes of it at one start, with the dice thrown, is a `Conduct`.
"""

from __future__ import annotations

import asyncio
import difflib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from caddisfly.model.duration import Duration
from caddisfly.model.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Problem, Unavailable
from caddisfly.model.machine import Exit

_FOREVER = 1000
_PERCENT = re.compile(r"(\d+(?:\.\d+)?)%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Conduct:
    """What one sandbox does. The default is to start at once and to run until it is told to end."""

    gate: asyncio.Event | None = None
    """A start waits for it."""
    slow_start_s: float = 0.0
    hang_s: float = 0.0
    """Each try to start is stuck for so long, and then given up."""
    start_errors: tuple[Problem, ...] = ()
    """What the first tries to start end with."""
    exit: Exit | None = None
    exit_after_s: float = 0.0
    ignores_signals: bool = False
    log_every_s: float = 0.0
    job: bool = False
    """It does what its command says, as far as that can be pretended, and ends with what comes of it."""
    exec_code: int = 0
    host_loss_s: float = 0.0
    slow_suspend_s: float = 0.0
    suspend_error: str = ""
    """`refused`: it runs on. `lost`: it ends."""
    resume_error: bool = False
    """Nothing can be resumed from its snapshots."""


@dataclass(frozen=True, slots=True)
class Range:
    """Seconds, from `low` to `high`."""

    low: float
    high: float

    def draw(self, chance: random.Random) -> float:
        return self.low if self.low == self.high else chance.uniform(self.low, self.high)


@dataclass(frozen=True, slots=True)
class Word:
    """One word as it was said. `chance` is from 0 to 1."""

    name: str
    value: Any
    chance: float = 1.0


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a word means. `default` is its value when none is given; None when one must be."""

    help: str
    read: Callable[[str], Any]
    default: str | None


@dataclass(frozen=True, slots=True)
class Script:
    """Words by name."""

    words: dict[str, Word] = field(default_factory=dict)

    @classmethod
    def parse(cls, text: str, *, where: str) -> Script:
        """Raises `InvalidArgument` that says what is allowed. `where` is what people know the text by."""
        words = [_word(part.strip(), where) for part in text.split(",") if part.strip()]
        script = cls({word.name: word for word in words})
        if len(script.words) < len(words):
            raise InvalidArgument(f"{where}: a word stands there twice", why=text, next="keep one of them")
        if "code" in script.words and "exit-after" not in script.words:
            raise InvalidArgument(f"{where}: code says nothing without exit-after", next="exit-after=2s,code=1")
        return script

    def under(self, more: Script) -> Script:
        """Both, where `more` has the last word."""
        return more if "calm" in more.words else Script({**self.words, **more.words})

    def check_status(self, chance: random.Random) -> int:
        """What one health check gets."""
        word = self.words.get("check-status")
        if word is None or (word.chance < 1 and chance.random() >= word.chance):
            return 200
        return int(word.value)

    def draw(self, chance: random.Random) -> Conduct:
        """Throw the dice for one start."""
        said: dict[str, Any] = {}
        for name in MEANINGS:  # in one order, so that a seed gives one course of things
            word = self.words.get(name)
            if word is not None and (word.chance >= 1 or chance.random() < word.chance):
                said[name] = word.value.draw(chance) if isinstance(word.value, Range) else word.value
        exit, exit_after_s = None, 0.0
        if "exit-after" in said:
            exit, exit_after_s = Exit(exit_code=said.get("code", 0)), said["exit-after"]
        if "oom" in said:
            exit, exit_after_s = Exit(exit_code=137, signal=9, oom_killed=True), said["oom"]
        return Conduct(
            slow_start_s=said.get("slow-start", 0.0),
            hang_s=said.get("hang", 0.0),
            start_errors=said.get("start-error", ()),
            exit=exit,
            exit_after_s=exit_after_s,
            ignores_signals="ignore-signals" in said,
            log_every_s=said.get("log-every", 0.0),
            job="job" in said,
            exec_code=said.get("exec-code", 0),
            host_loss_s=said.get("host-loss", 0.0),
            slow_suspend_s=said.get("slow-suspend", 0.0),
            suspend_error=said.get("suspend-error", ""),
            resume_error="resume-error" in said,
        )


def _seconds(text: str) -> Range:
    low, dots, high = text.partition("..")
    first = Duration.parse(low).seconds
    last = Duration.parse(high).seconds if dots else first
    if not 0 <= first <= last:
        raise InvalidArgument("the first duration must not be longer than the second, nor negative")
    return Range(first, last)


def _pause(text: str) -> Range:
    found = _seconds(text)
    if found.low < 0.01:
        raise InvalidArgument("must be at least 10ms")
    return found


def _code(text: str) -> int:
    if not text.isdecimal() or int(text) > 255:
        raise InvalidArgument("must be a whole number from 0 to 255")
    return int(text)


def _status(text: str) -> int:
    if not text.isdecimal() or not (text == "0" or 100 <= int(text) <= 599):
        raise InvalidArgument("must be a status of HTTP, or 0")
    return int(text)


def _errors(text: str) -> tuple[Problem, ...]:
    if text == "final":
        why = "its start-error says so"
        return (FailedPrecondition("the simulated host cannot start this machine", why=why),)
    if text != "retryable" and not (text.isdecimal() and 0 < int(text) <= _FOREVER):
        raise InvalidArgument("must be final, retryable, or how many tries fail before one succeeds")
    problem = Unavailable("the simulated host is busy", why="its start-error says so", next="try again")
    return (problem,) * (_FOREVER if text == "retryable" else int(text))


def _suspend_error(text: str) -> str:
    if text not in ("refused", "lost"):
        raise InvalidArgument("must be refused, after which it runs on, or lost, after which nothing does")
    return text


def _nothing(text: str) -> None:
    if text:
        raise InvalidArgument("it takes no value")


MEANINGS: dict[str, _Meaning] = {
    "start-error": _Meaning(
        "starts fail: `final` at once, `retryable` after four tries, `2` at the first two tries", _errors, "final"
    ),
    "slow-start": _Meaning("a start takes so long", _seconds, "200ms..2s"),
    "hang": _Meaning("each of four tries to start is stuck for so long", _seconds, "30s"),
    "exit-after": _Meaning("ends by itself after so long", _seconds, "1s"),
    "code": _Meaning("with this exit code (0)", _code, None),
    "oom": _Meaning("is killed for its memory after so long", _seconds, "100ms"),
    "ignore-signals": _Meaning("does not end when asked to, only when killed", _nothing, ""),
    "log-every": _Meaning("prints a line so often", _pause, "1s"),
    "job": _Meaning("answers its command as exec would, and ends with that; release commands do", _nothing, ""),
    "check-status": _Meaning("its health checks get this HTTP status (200); 0 refuses them", _status, "500"),
    "exec-code": _Meaning("commands run inside end with this code", _code, "1"),
    "host-loss": _Meaning("its host is out of reach for so long, once it has started", _seconds, "5s"),
    "slow-suspend": _Meaning("its memory takes so long to write", _seconds, "200ms..2s"),
    "suspend-error": _Meaning(
        "it cannot be suspended and is stopped instead: `refused` while it runs, `lost` with its memory",
        _suspend_error,
        "refused",
    ),
    "resume-error": _Meaning("what was written of its memory is no good: it starts anew", _nothing, ""),
    "calm": _Meaning("none of what is said for all Machines, or for the image, holds", _nothing, ""),
}


def described() -> list[tuple[str, str, str]]:
    """Word, default value and meaning of every word there is."""
    return [(name, meaning.default or "", meaning.help) for name, meaning in MEANINGS.items()]


def hung(hang_s: float) -> Problem:
    return DeadlineExceeded(f"the simulated runtime did not answer within {hang_s:g} s")


def _word(text: str, where: str) -> Word:
    head, at, percent = text.partition("@")
    name, _, value = head.partition("=")
    if not at and _PERCENT.fullmatch(value):
        value, percent = "", value
    meaning = MEANINGS.get(name)
    if meaning is None:
        close = difflib.get_close_matches(name, MEANINGS, 1)
        raise InvalidArgument(
            f"{where}: unknown word {name!r}",
            why=f"did you mean {close[0]}?" if close else "",
            next=f"choose from {', '.join(MEANINGS)}",
        )
    if not value:
        if meaning.default is None:
            raise InvalidArgument(f"{where}: {name} needs a value", next=f"write it as {name}=1")
        value = meaning.default
    try:
        return Word(name, meaning.read(value), _chance(percent) if percent or at else 1.0)
    except InvalidArgument as error:
        raise InvalidArgument(
            f"{where}: {text!r} cannot be understood",
            why=str(error),
            next="; ".join(filter(None, (f"{name}: {meaning.help}", error.next))),
        ) from error


def _chance(text: str) -> float:
    found = _PERCENT.fullmatch(text)
    if found is None or float(found[1]) > 100:
        raise InvalidArgument(f"{text!r} is no chance, which is from 0% to 100%")
    return float(found[1]) / 100
