"""How counts come to regions: the examples of reference fly-launch, 3.1, and what holds for any."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from caddisfly.launch.deploy.spread import spread
from caddisfly.launch.scale.wanted import Count, parse
from caddisfly.model.errors import InvalidArgument


@pytest.mark.parametrize(
    ("present", "total", "regions", "most", "changes"),
    [
        ({}, 3, ["scl", "iad"], None, {"scl": 2, "iad": 1}),
        ({"scl": 1, "iad": 1}, 1, ["scl", "iad"], None, {"iad": -1}),
        ({"scl": 7, "iad": 1}, 8, ["scl", "iad", "ord", "sin"], 2, {"scl": -5, "iad": 1, "ord": 2, "sin": 2}),
        ({"ams": 2}, 2, ["ams"], None, {}),
        ({"ams": 2}, 0, ["ams"], None, {"ams": -2}),
        ({"ams": 3}, 1, ["ams"], None, {"ams": -2}),
        ({"ams": 1, "fra": 3}, 2, ["ams", "fra", "ams"], None, {"fra": -1, "ams": -1}),
        ({"ams": 1, "fra": 3}, 1, ["ams"], None, {}),
        ({"ams": 4}, 3, ["ams", "fra"], 2, {"ams": -2, "fra": 1}),
    ],
)
def test_examples(
    present: dict[str, int], total: int, regions: list[str], most: int | None, changes: dict[str, int]
) -> None:
    assert converge(present, total, regions, most) == changes


def test_no_room_is_told_with_a_way_out() -> None:
    with pytest.raises(InvalidArgument, match="fewer than the expected total") as caught:
        spread({}, 10, ["ams", "fra"], 1)
    assert "allow more in each" in caught.value.next


def converge(present: dict[str, int], total: int, regions: list[str], most: int | None) -> dict[str, int]:
    """Those that change, and by how many."""
    wanted = spread(present, total, regions, most)
    changes = {region: number - present.get(region, 0) for region, number in wanted.items()}
    return {region: change for region, change in changes.items() if change}


_REGIONS = st.lists(st.sampled_from(["ams", "fra", "ord", "sin"]), min_size=1, max_size=5)


@given(
    present=st.dictionaries(st.sampled_from(["ams", "fra", "ord", "xxx"]), st.integers(0, 9)),
    total=st.integers(0, 30),
    regions=_REGIONS,
    most=st.none() | st.integers(1, 9),
)
def test_any_total_is_met_within_the_limit_and_elsewhere_nothing_changes(
    present: dict[str, int], total: int, regions: list[str], most: int | None
) -> None:
    if most is not None and most * len(set(regions)) < total:
        return
    changes = converge(present, total, regions, most)
    assert set(changes) <= set(regions)
    after = {region: present.get(region, 0) + changes.get(region, 0) for region in set(regions)}
    assert sum(after.values()) == total
    assert all(0 <= count <= (most or total) for count in after.values())
    assert converge({**present, **after}, total, regions, most) == {}


@pytest.mark.parametrize(
    ("words", "groups", "default", "found"),
    [
        (["3"], ["app", "web"], "", {"app": Count(3)}),
        (["3"], ["web"], "", {"web": Count(3)}),
        (["3"], ["app", "web"], "web", {"web": Count(3)}),
        (["web=2", "worker=1"], ["web", "worker"], "", {"web": Count(2), "worker": Count(1)}),
        (["+2"], ["app"], "", {"app": Count(2, relative=True)}),
        (["-1"], ["app"], "", {"app": Count(-1, relative=True)}),
        (["web=-1", "0"], ["app", "web"], "", {"web": Count(-1, relative=True), "app": Count(0)}),
    ],
)
def test_words(words: list[str], groups: list[str], default: str, found: dict[str, Count]) -> None:
    assert parse(words, groups=groups, default=default) == found


@pytest.mark.parametrize(
    ("words", "groups", "said"),
    [
        (["many"], ["app"], "is not a count"),
        (["web="], ["web"], "is not a count"),
        (["1", "2"], ["app"], "two counts"),
        (["cron=1"], ["app"], "unknown process groups cron"),
        (["1"], ["web", "worker"], "which process group"),
        (["1"], [], "unknown process groups app"),
    ],
)
def test_words_that_ask_for_nothing(words: list[str], groups: list[str], said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        parse(words, groups=groups)


def test_a_relative_count_cannot_go_below_nothing() -> None:
    assert Count(-1, relative=True).from_present(3) == 2
    with pytest.raises(InvalidArgument, match="-1 is no number"):
        Count(-3, relative=True).from_present(2)
