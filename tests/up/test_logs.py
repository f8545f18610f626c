"""One line per event, whatever is in it."""

from __future__ import annotations

import json
import logging

from caddisfly.observe.logs import JsonLines, Lines


def record(message: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("caddisfly.x", logging.INFO, __file__, 1, message, (), None)
    made.__dict__.update(extra)
    return made


def test_a_line_has_time_level_part_event_and_facts() -> None:
    line = Lines("edge@1").format(record("edge.wake", machine="148e21ea7e46e8", took_ms=12, reason='said "no"'))
    time, rest = line.split(" ", 1)
    assert time.endswith("Z")
    assert rest == 'INFO edge@1 edge.wake machine=148e21ea7e46e8 took_ms=12 reason="said \\"no\\""'


def test_nothing_breaks_the_line() -> None:
    line = Lines("agent").format(record("a\nb", text="c\nd\x1b[2J", empty=""))
    assert "\n" not in line
    assert "\x1b" not in line
    assert 'empty=""' in line


def test_json_has_the_same_facts() -> None:
    line = json.loads(JsonLines("control").format(record("control.ready", port=4280)))
    assert (line["level"], line["part"], line["event"], line["port"]) == ("info", "control", "control.ready", 4280)


def test_an_exception_is_a_fact_of_the_same_line() -> None:
    made = record("agent.bug")
    try:
        raise ValueError("no")
    except ValueError as error:
        made.exc_info = (type(error), error, error.__traceback__)
    line = Lines("agent").format(made)
    assert "\n" not in line
    assert "ValueError: no" in line
