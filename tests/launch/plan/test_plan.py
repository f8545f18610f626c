"""Where names and regions come from, and what flags change."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch.plan import naming
from caddisfly.launch.plan.surroundings import Surroundings
from caddisfly.launch.plan.values import FROM_FILE, GIVEN, Value
from caddisfly.launch.plan.wishes import Wishes
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, Unprocessable

HERE = Surroundings(("ams", "dfw"), "ams")


@pytest.mark.parametrize(
    ("directory", "name"),
    [
        ("My Shop_2", "my-shop-2"),
        ("café--bar", "caf-bar"),
        ("-x-", "x"),
        ("a" * 70, "a" * 63),
    ],
)
def test_a_directory_gives_its_name(directory: str, name: str) -> None:
    chosen = naming.chosen(given="", generate=False, written="", directory=Path(directory))
    assert chosen == Value(name, "the name of the directory")


def test_other_names() -> None:
    def name(**said: object) -> Value[str]:
        return naming.chosen(**{"given": "", "generate": False, "written": "", "directory": Path("shop"), **said})

    assert name(written="my--app") == Value("my--app", FROM_FILE)
    assert name(directory=Path("日本")).origin == "generated"
    assert name(generate=True).value.startswith("shop-")
    assert len(naming.suffixed("a" * 63)) <= 63
    with pytest.raises(Unprocessable):
        name(given="Shop!")
    assert [one.value for one in naming.candidates(name(given="store"))] == ["store"]
    assert len(list(naming.candidates(name()))) == 5


def test_regions() -> None:
    assert HERE.region("", "") == Value("ams", "the nearest with a host")
    assert HERE.region("dfw", "ams") == Value("dfw", GIVEN)
    assert HERE.region("", "mia") == Value("dfw", "mia was retired in its favour")
    assert HERE.region("", "lhr").value == "ams"
    with pytest.raises(InvalidArgument) as refused:
        HERE.region("dwf", "")
    assert refused.value.next == "did you mean --region dfw?"


def test_flags_that_have_no_place() -> None:
    services = {"services": [{"internal_port": 80}]}
    with pytest.raises(FailedPrecondition, match="no place in this"):
        Wishes(port=9000).changes(services)
    with pytest.raises(FailedPrecondition, match="without"):
        Wishes(auto_stop="off").changes({})
    for wrong in (
        Wishes(port=70000),
        Wishes(auto_stop="maybe"),
        Wishes(volumes=("data",)),
        Wishes(volumes=("a:/a:b",)),
    ):
        with pytest.raises(InvalidArgument):
            wrong.changes({"http_service": {}})


def test_a_size_goes_to_the_entry_for_every_group() -> None:
    (change,) = Wishes(vm={"memory": "2gb"}).changes(
        {"compute": [{"memory": "1gb", "processes": ["web"]}, {"memory_mb": 512, "cpus": 2}]}
    )
    assert change.path == ("compute",)
    assert change.value == [{"memory": "1gb", "processes": ["web"]}, {"cpus": 2, "memory": "2gb"}]
