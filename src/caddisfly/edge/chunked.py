"""Chunked bodies, taken apart piece by piece as they arrive.

What comes out is the payload; whoever forwards it frames it anew, so extensions, odd spellings of sizes and trailers
never reach the other side, and both sides count the same bytes.
"""

from __future__ import annotations

from caddisfly.edge.grammar import CHUNK_SIZE, fields

_SIZE_LINE_MAX = 256
_TRAILERS_MAX = 8192
LAST = b"0\r\n\r\n"


class BadChunk(Exception):
    """The body is not chunked encoding. The text says what is wrong."""


def frame(payload: bytes) -> bytes:
    """`payload` as one chunk; nothing for nothing, since an empty chunk would end the body."""
    return b"%x\r\n%b\r\n" % (len(payload), payload) if payload else b""


class Chunked:
    """The reader of one body."""

    __slots__ = ("_held", "_left", "_trailers")

    def __init__(self) -> None:
        self._held = b""
        self._left = -1
        """Bytes left of the present chunk and its CRLF; -1 while a size line is due."""
        self._trailers = False

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Returns the payload in `data`, and what follows the body, or None while the body goes on.

        Raises `BadChunk`.
        """
        if self._held:
            data, self._held = self._held + data, b""
        payload: list[bytes] = []
        at, size = 0, len(data)
        while not self._trailers:
            if self._left < 0:
                end = data.find(b"\r\n", at, at + _SIZE_LINE_MAX)
                if end < 0:
                    self._hold(data, at, _SIZE_LINE_MAX, "a chunk size line is too long")
                    return b"".join(payload), None
                match = CHUNK_SIZE.fullmatch(data, at, end)
                if match is None:
                    raise BadChunk("a chunk size is not a plain hexadecimal number")
                at = end + 2
                length = int(match[1], 16)
                if length == 0:
                    self._trailers = True
                    break
                self._left = length + 2
            if self._left > 2:
                take = min(self._left - 2, size - at)
                payload.append(data[at : at + take])
                at += take
                self._left -= take
                if self._left > 2:
                    return b"".join(payload), None
            if size - at < 2:
                self._hold(data, at, 2, "")
                if self._held == b"\r" or not self._held:
                    return b"".join(payload), None
                raise BadChunk("a chunk is longer than its size says")
            if data[at : at + 2] != b"\r\n":
                raise BadChunk("a chunk is longer than its size says")
            at += 2
            self._left = -1
        return b"".join(payload), self._end(data, at)

    def _hold(self, data: bytes, at: int, limit: int, complaint: str) -> None:
        self._held = data[at:]
        if complaint and (len(self._held) >= limit or b"\n" in self._held):
            raise BadChunk(complaint)

    def _end(self, data: bytes, at: int) -> bytes | None:
        if data.startswith(b"\r\n", at):
            return data[at + 2 :]
        end = data.find(b"\r\n\r\n", at)
        if end < 0:
            self._hold(data, at, _TRAILERS_MAX, "")
            if len(self._held) >= _TRAILERS_MAX:
                raise BadChunk("the trailers are too long")
            return None
        if fields(data, at, end + 2) is None:
            raise BadChunk("a trailer is malformed")
        return data[end + 4 :]
