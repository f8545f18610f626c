from __future__ import annotations

import pytest

from caddisfly.model.errors import InvalidArgument
from caddisfly.model.region import expand

HERE = frozenset({"ams", "fra", "iad"})


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("", ("fra",)),
        ("ams", ("ams",)),
        ("iad, ams", ("iad", "ams")),
        ("eu", ("ams", "fra")),
        ("any", ("fra", "ams", "iad")),
        ("local", ("fra",)),
        ("[local]", ("fra",)),
        ("[local],any", ("fra", "ams", "iad")),
        ("[iad,local]", ("iad", "fra")),
        ("syd,us", ("iad",)),
    ],
)
def test_what_a_client_writes_becomes_regions_with_the_best_first(written: str, meant: tuple[str, ...]) -> None:
    assert expand(written, local="fra", available=HERE) == meant


@pytest.mark.parametrize("written", ["syd", "apac", "[]", "fra]x"])
def test_a_region_without_a_host_is_refused_with_those_that_have_one(written: str) -> None:
    with pytest.raises(InvalidArgument, match="no host in region") as refused:
        expand(written, local="fra", available=HERE)
    assert "ams, fra, iad" in refused.value.next


def test_without_a_region_and_with_the_local_one_gone_every_other_will_do() -> None:
    assert expand("", local="nrt", available=HERE) == ("ams", "fra", "iad")
