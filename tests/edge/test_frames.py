"""Where one frame of a WebSocket ends and the next begins, however it is cut into pieces."""

from __future__ import annotations

import pytest

from caddisfly.edge.frames import GOING_AWAY, Frames


def frame(size: int, *, masked: bool = False) -> bytes:
    if size < 126:
        length = bytes([size])
    elif size < 65536:
        length = b"\x7e" + size.to_bytes(2, "big")
    else:
        length = b"\x7f" + size.to_bytes(8, "big")
    if masked:
        length = bytes([length[0] | 0x80]) + length[1:] + b"mask"
    return b"\x82" + length + b"x" * size


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("size", [0, 1, 125, 126, 65535, 65536])
@pytest.mark.parametrize("piece", [1, 7, 1000, 10**6])
def test_it_is_between_frames_exactly_at_their_ends(size: int, piece: int, masked: bool) -> None:
    one = frame(size, masked=masked)
    data, frames = one + GOING_AWAY + one, Frames()
    ends = {0, len(one), len(one) + len(GOING_AWAY), len(data)}
    at = 0
    while at < len(data):
        assert frames.feed(data[at : at + piece]) == len(data[at : at + piece])
        at += piece
        assert frames.between == (min(at, len(data)) in ends)


@pytest.mark.parametrize("size", [0, 5, 300, 70_000])
def test_it_stops_at_the_end_of_the_frame_under_way(size: int) -> None:
    one = frame(size)
    for begun in (1, len(one) // 2, len(one) - 1):
        frames = Frames()
        frames.feed(one[:begun])
        assert frames.feed(one[begun:] + one, only_one=True) == len(one) - begun
        assert frames.between
    assert Frames().feed(one, only_one=True) == 0
