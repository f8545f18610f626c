"""Identifiers have Fly's shapes and sort as they were made."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from caddisfly.model import ids
from caddisfly.model.errors import NotFound, Problem, Retryable, Unavailable


def test_shapes() -> None:
    assert re.fullmatch(r"[0-9a-f]{14}", ids.machine_id())
    assert re.fullmatch(r"[0-9A-HJKMNP-TV-Z]{26}", ids.ulid())
    assert re.fullmatch(r"[0-9a-z]{16}", ids.app_id())
    assert re.fullmatch(r"[a-z]+-[a-z]+-\d{4}", ids.generated_name())


@given(st.lists(st.integers(0, 2**47), min_size=2, max_size=50))
def test_ulids_sort_in_the_order_they_were_made_whatever_the_clock_does(clock: list[int]) -> None:
    made = [maker.next(ms) for maker in [ids.UlidClock()] for ms in clock]
    assert made == sorted(made)
    assert len(set(made)) == len(made)


def test_an_error_survives_the_way_over_the_wire() -> None:
    there = NotFound("machine not found", why="gone", next="look elsewhere", status="x")
    back = Problem.from_record(there.to_record())
    assert (type(back), back.what, back.why, back.next, back.status) == (
        NotFound,
        "machine not found",
        "gone",
        "look elsewhere",
        "x",
    )
    assert back.text == "not_found: machine not found: gone"


def test_whether_to_retry_is_in_the_type() -> None:
    assert isinstance(Problem.from_record({"code": "unavailable"}), Retryable)
    assert not isinstance(Problem.from_record({"code": "never heard of"}), Retryable)
    assert issubclass(Unavailable, Retryable)
