"""The language in which the mock driver is told how to act."""

from __future__ import annotations

import random

import pytest

from caddisfly.host.drivers.conduct import MEANINGS, Conduct, Script, described
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import Exit


def drawn(text: str, seed: int = 0) -> Conduct:
    return Script.parse(text, where="test").draw(random.Random(seed))


def test_words_with_values() -> None:
    assert drawn("exit-after=2s,code=3") == Conduct(exit=Exit(exit_code=3), exit_after_s=2)
    assert drawn(" log-every=500ms , ignore-signals ") == Conduct(log_every_s=0.5, ignores_signals=True)
    assert [problem.code for problem in drawn("start-error=2").start_errors] == ["unavailable"] * 2
    assert [problem.code for problem in drawn("start-error").start_errors] == ["failed_precondition"]
    assert drawn("") == Conduct()


@pytest.mark.parametrize(("name", "default", "help"), described())
def test_every_word_has_a_meaning_and_can_be_said(name: str, default: str, help: str) -> None:
    text = f"{name}={default}" if default else name
    if name == "code":
        text = "exit-after,code=9"
    script = Script.parse(text, where="test")
    assert name in script.words
    assert help
    acts = script.draw(random.Random(0)) != Conduct() or script.check_status(random.Random(0)) != 200
    assert name == "calm" or acts


def test_ranges_are_drawn_from() -> None:
    times = [drawn("slow-start=200ms..2s", seed).slow_start_s for seed in range(200)]
    assert 0.2 <= min(times) < 0.4
    assert 1.8 < max(times) <= 2


@pytest.mark.parametrize("text", ["oom=25%", "oom=100ms@25%", "oom@25%"])
def test_chances_are_taken(text: str) -> None:
    hits = sum(drawn(text, seed).exit is not None for seed in range(1000))
    assert 200 < hits < 300


def test_what_comes_later_has_the_last_word() -> None:
    chaos = Script.parse("oom=1s,log-every=1s", where="a")
    more = Script.parse("oom=2s", where="b")
    assert chaos.under(more).draw(random.Random(0)).exit_after_s == 2
    assert chaos.under(more).draw(random.Random(0)).log_every_s == 1
    assert chaos.under(Script.parse("calm,exec-code=4", where="c")).draw(random.Random(0)) == Conduct(exec_code=4)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("boom", "test: unknown word 'boom'"),
        ("exit_after=2s", "did you mean exit-after?"),
        ("exit-after=soon", "use units"),
        ("exit-after=-1s", "nor negative"),
        ("exit-after,code=256", "from 0 to 255"),
        ("exit-after,code", "code needs a value"),
        ("ignore-signals=yes", "it takes no value"),
        ("start-error=sometimes", "final, retryable, or how many"),
        ("start-error=0", "final, retryable, or how many"),
        ("suspend-error=sometimes", "refused, after which it runs on"),
        ("log-every=1ms", "at least 10ms"),
        ("oom@often", "no chance"),
        ("oom@", "no chance"),
        ("oom,oom=2s", "stands there twice"),
    ],
)
def test_what_cannot_be_understood_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Script.parse(text, where="test")
    assert said in f"{caught.value} {caught.value.why} {caught.value.next}"


def test_an_unknown_word_is_told_all_there_are() -> None:
    with pytest.raises(InvalidArgument) as caught:
        Script.parse("boom", where="test")
    assert caught.value.next == f"choose from {', '.join(MEANINGS)}"
