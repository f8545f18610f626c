"""The grammar of HTTP/1.1 heads, as regular expressions, stricter than RFC 9112 asks.

One match checks a whole header block inside the regular expression engine, which is C; a parser with callbacks costs a
Python call for each header. More important is that there is exactly one reading of what passes: CRLF ends a line and
nothing else does, no folding, no control characters, no space before a colon. Quantifiers are possessive, so time is
linear in the input, whatever it is.
"""

from __future__ import annotations

import re

_TOKEN = rb"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_TEXT = rb"[\t\x20-\x7e\x80-\xff]*+"

TOKEN = re.compile(_TOKEN)
LEAD = re.compile(rb"(" + _TOKEN + rb") ([\x21-\x7e]++) ")
"""Method and target, up to the HTTP version."""

HOST = re.compile(rb"([A-Za-z0-9_.\-]++|\[[0-9A-Fa-f:.]++\])(?::([0-9]{0,5}))?")
STATUS = re.compile(rb"HTTP/1\.([01]) ([1-5][0-9][0-9])(?: (" + _TEXT + rb"))?\r\n")
LENGTH = re.compile(rb"[0-9]{1,18}")
CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})[ \t]*(?:;" + _TEXT + rb")?")
BARE_LF = re.compile(rb"(?<!\r)\n")

_FIELD = re.compile(rb"(" + _TOKEN + rb"):[ \t]*+(" + _TEXT + rb")\r\n")
_FIELDS = re.compile(rb"(?:" + _TOKEN + rb":" + _TEXT + rb"\r\n)*+")


def fields(block: bytes, start: int = 0, end: int | None = None) -> list[tuple[bytes, bytes]] | None:
    """Names and values of a header block, each line with its CRLF; None when anything in it is not exactly right.

    Values may still end in spaces or tabs.
    """
    end = len(block) if end is None else end
    if _FIELDS.fullmatch(block, start, end) is None:
        return None
    return _FIELD.findall(block, start, end)


def words(value: bytes) -> list[bytes]:
    """The members of a comma-separated list, in lower case."""
    return [word for part in value.split(b",") if (word := part.strip(b" \t").lower())]
