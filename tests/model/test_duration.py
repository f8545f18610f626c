"""Durations read and print as Go's do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caddisfly.model.duration import Duration
from caddisfly.model.errors import InvalidArgument


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("15s", "15s"),
        ("60s", "1m0s"),
        ("90s", "1m30s"),
        ("1h", "1h0m0s"),
        ("500ms", "500ms"),
        ("1.5s", "1.5s"),
        (".5s", "500ms"),
        ("0", "0s"),
        ("0s", "0s"),
        ("1m30s", "1m30s"),
        ("-90s", "-1m30s"),
        ("+5s", "5s"),
        ("1500us", "1.5ms"),
        ("2µs", "2µs"),
        ("3ns", "3ns"),
        (60_000_000_000, "1m0s"),
        (1.9e9, "1.9s"),
        (5, "5ns"),
    ],
)
def test_a_duration_comes_back_in_gos_normal_form(given_: object, shown: str) -> None:
    assert str(Duration.parse(given_)) == shown


@pytest.mark.parametrize(
    "wrong", ["", "5", "s", "5 s", "5d", "1s2", "--5s", None, True, [], float("inf"), "9e9s", 1e300]
)
def test_anything_else_is_refused_by_name(wrong: object) -> None:
    with pytest.raises(InvalidArgument, match=r"config\.x"):
        Duration.parse(wrong, field="config.x")


@given(st.integers(min_value=-(2**63 - 1), max_value=2**63 - 1))
def test_every_duration_survives_print_and_read(ns: int) -> None:
    assert Duration.parse(str(Duration(ns))) == ns
