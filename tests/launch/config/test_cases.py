"""What each fly.toml means: the cases in `cases/`, which were run against Fly's own parser, validator and translator.

`=> GROUP JSON`: this group's Machine config holds at least this (null: absent). `release` is the release Machine. `=<
JSON` is the Machine's present config. The kinds of error are one here: all are found before anything is changed. A
case in `LENIENT` describes what Fly does and what only the lenient do here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch import config
from caddisfly.launch.config import ConfigInvalid

CASES = Path(__file__).parent / "cases"
LENIENT = ("cpus without memory keep the preset's 256 MB",)


@dataclass(frozen=True, slots=True)
class Case:
    title: str
    text: str
    existing: dict[str, Any] | None
    expected: tuple[tuple[str, str], ...]


def cases() -> Iterator[Case]:
    for file in sorted(CASES.glob("*.txt")):
        for block in file.read_text().split("#### ")[1:]:
            title, *lines = block.splitlines()
            wanted = [line.removeprefix("=> ").removeprefix("caddisfly ") for line in lines if line.startswith("=> ")]
            existing = next((json.loads(line[3:]) for line in lines if line.startswith("=< ")), None)
            text = "\n".join(['app = "demo"', *(line for line in lines if not line.startswith(("=> ", "=< ")))])
            yield Case(title, text, existing, tuple(tuple(line.split(" ", 1)) for line in wanted))  # type: ignore[misc]


def missing(wanted: Any, found: Any, path: str = "config") -> list[str]:
    """Where `found` holds less than `wanted`."""
    if wanted is None:
        return [] if found is None else [f"{path} is {found!r}, wanted nothing"]
    if isinstance(wanted, dict):
        if not isinstance(found, dict):
            return [f"{path} is {found!r}"]
        return [line for key, value in wanted.items() for line in missing(value, found.get(key), f"{path}.{key}")]
    if isinstance(wanted, list):
        if not isinstance(found, list) or len(found) != len(wanted):
            return [f"{path} is {found!r}, wanted {len(wanted)} entries"]
        return [line for i, value in enumerate(wanted) for line in missing(value, found[i], f"{path}[{i}]")]
    return [] if wanted == found and type(wanted) is type(found) else [f"{path} is {found!r}, wanted {wanted!r}"]


@pytest.mark.parametrize("case", [pytest.param(case, id=case.title) for case in cases()])
def test_a_fly_toml_means(case: Case) -> None:
    strict = case.title not in LENIENT
    for about, wanted in case.expected:
        if about.endswith("error"):
            with pytest.raises(ConfigInvalid) as caught:
                config.text(case.text, strict=strict)
            assert wanted in str(caught.value)
            assert all(finding.place for finding in caught.value.findings)
            continue
        app = config.text(case.text, strict=strict)
        if about == "release":
            found = config.release_machine(app)
        else:
            assert about in app.groups.names
            found = config.machine_config(app, about, existing=case.existing)
        assert not missing(json.loads(wanted), found)


def test_all_the_cases_are_here() -> None:
    assert len(list(cases())) == 48
    assert all(case.expected for case in cases())
