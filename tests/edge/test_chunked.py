"""Chunked bodies come out the same however the network cuts them, and request ids stay unique and sorted."""

from __future__ import annotations

import re

from hypothesis import given, settings
from hypothesis import strategies as st

from caddisfly.edge.chunked import LAST, BadChunk, Chunked, frame
from caddisfly.edge.request_id import RequestIds


def read(wire: bytes, cuts: list[int]) -> tuple[bytes, bytes | None]:
    reader, payload, at = Chunked(), b"", 0
    for cut in [*sorted(cut % (len(wire) + 1) for cut in cuts), len(wire)]:
        piece, rest = reader.feed(wire[at:cut])
        payload, at = payload + piece, cut
        if rest is not None:
            return payload, rest + wire[at:]
    return payload, None


@settings(max_examples=300, deadline=None)
@given(
    pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6),
    extension=st.sampled_from([b"", b";a", b' ; a="b"']),
    trailers=st.sampled_from([b"", b"X: y\r\n", b"X: y\r\nZ:\r\n"]),
    after=st.binary(max_size=20),
    cuts=st.lists(st.integers(0, 500), max_size=12),
)
def test_any_cut_gives_the_same(
    pieces: list[bytes], extension: bytes, trailers: bytes, after: bytes, cuts: list[int]
) -> None:
    body = b"".join(b"%x%b\r\n%b\r\n" % (len(piece), extension, piece) for piece in pieces)
    wire = body + b"0%b\r\n%b\r\n" % (extension, trailers)
    assert read(wire + after, cuts) == (b"".join(pieces), after)
    assert read(wire[:-1], cuts) == (b"".join(pieces), None)


@settings(max_examples=300, deadline=None)
@given(junk=st.binary(max_size=60), cuts=st.lists(st.integers(0, 60), max_size=5))
def test_junk_is_refused_or_understood_alike_however_it_is_cut(junk: bytes, cuts: list[int]) -> None:
    def outcome(cuts: list[int]) -> object:
        try:
            return read(junk + b"\r\n\r\n", cuts)
        except BadChunk:
            return "refused"

    assert outcome(cuts) == outcome([])


def test_what_is_framed_can_be_read() -> None:
    assert Chunked().feed(frame(b"abc") + frame(b"") + LAST + b"next") == (b"abc", b"next")


def test_request_ids_are_unique_and_sorted() -> None:
    ids = RequestIds("ams")
    made = [ids.next() for _ in range(50_000)]
    assert made == sorted(set(made))
    assert re.fullmatch(rb"[0-9A-HJKMNP-TV-Z]{26}-ams", made[0])
