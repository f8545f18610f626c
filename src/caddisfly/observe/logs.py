"""Logs: one line per event, on standard error, for people and for grep.

    2026-11-22T23:22:15.123Z INFO agent machine.started machine=148e21ea7e46e8 took_ms=61

The event's name is the message and never changes; what differs goes into `extra`. Standard error, because whoever
starts a process (the supervisor, systemd, a container) already knows how to keep, rotate and ship that.

Nothing is redacted here: no secret is ever passed to a logger, and a filter that hides the few that look like one would
only make that rule seem optional.
"""

from __future__ import annotations

import json
import logging
import sys
from datetime import UTC, datetime
from typing import Any, Literal

Format = Literal["text", "json"]

_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "color_message"}


def configure(part: str, level: str = "info", *, format: Format = "text") -> None:
    """Send every log line of this process to standard error. `part` names the process, such as `edge@1`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(Lines(part) if format == "text" else JsonLines(part))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for chatty in ("httpx", "httpcore", "asyncio", "aiosqlite"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, root.level))


class Lines(logging.Formatter):
    """`time level part event key=value…`. Values with blanks or quotes are written as JSON strings."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        words = [_time(record), record.levelname, self._part, _flat(record.getMessage())]
        words += [f"{key}={_word(value)}" for key, value in _facts(self, record).items()]
        return " ".join(words)


class JsonLines(logging.Formatter):
    """The same facts as one JSON object per line, for a log store."""

    def __init__(self, part: str) -> None:
        super().__init__()
        self._part = part

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "part": self._part,
            "event": record.getMessage(),
            **_facts(self, record),
        }
        return json.dumps(line, default=str)


def _facts(formatter: logging.Formatter, record: logging.LogRecord) -> dict[str, Any]:
    facts = {key: value for key, value in record.__dict__.items() if key not in _STANDARD}
    if record.exc_info:
        facts["trace"] = formatter.formatException(record.exc_info)
    return facts


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"


def _flat(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\n", "\\n").replace("\r", "\\r")


def _word(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    plain = text and text.isprintable() and not any(character in text for character in ' "=\\')
    return text if plain else json.dumps(text, ensure_ascii=False)
