"""Frames of a WebSocket, as far as one must know them to say goodbye between two of them (RFC 6455, 5.2)."""

from __future__ import annotations

GOING_AWAY = b"\x88\x02\x03\xe9"
"""A close frame with code 1001."""
_LONG, _LONGER = 126, 127


class Frames:
    """Follows what one side sends."""

    __slots__ = ("_head", "_left")

    def __init__(self) -> None:
        self._head = b""
        self._left = 0

    @property
    def between(self) -> bool:
        """Whether everything that has come is whole frames."""
        return not self._left and not self._head

    def feed(self, data: bytes, *, only_one: bool = False) -> int:
        """Take `data`, or with `only_one` as much as belongs to the frame that is under way. Returns how much."""
        at, size = 0, len(data)
        while at < size and not (only_one and self.between):
            if self._left:
                step = min(self._left, size - at)
                self._left -= step
                at += step
                continue
            step = min(_head_size(self._head) - len(self._head), size - at)
            self._head += data[at : at + step]
            at += step
            if len(self._head) == _head_size(self._head):
                self._left, self._head = _payload_size(self._head), b""
        return at


def _head_size(head: bytes) -> int:
    """Of the whole head, as far as one can tell from its beginning."""
    if len(head) < 2:
        return 2
    length, masked = head[1] & 0x7F, head[1] & 0x80
    return 2 + {_LONG: 2, _LONGER: 8}.get(length, 0) + (4 if masked else 0)


def _payload_size(head: bytes) -> int:
    length = head[1] & 0x7F
    if length == _LONG:
        return int.from_bytes(head[2:4], "big")
    return int.from_bytes(head[2:10], "big") if length == _LONGER else length
