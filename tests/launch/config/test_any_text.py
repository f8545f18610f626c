"""Whatever a file holds: it is read, or refused with findings that have a place. It never ends in a bug."""

from __future__ import annotations

import copy
import json
import math
import tomllib
from collections.abc import Iterator
from dataclasses import asdict
from datetime import date
from pathlib import Path
from typing import Any

import pytest
import tomlkit
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from caddisfly.launch import config
from caddisfly.launch.config import ConfigInvalid, document, node, toml_lines
from caddisfly.launch.config.loading import of_node

VALUES = ["", "x", "web", "app", "10s", "1gb", "http", "tcp", "/x", "stop", "rolling", "always", "l40s", "{}", "'"]
SCALARS = (
    st.sampled_from(VALUES)
    | st.integers(-1, 300)
    | st.booleans()
    | st.floats(allow_nan=True, allow_infinity=True)
    | st.dates()
    | st.integers(10**20, 10**30)
)
NESTED = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["a", "name", "type"]), inner, max_size=4)
    ),
    max_leaves=12,
)
EVERYTHING = (Path(__file__).parent / "everything.toml").read_text()
NASTY: list[Any] = ["", "x", "app", -1, 0, 1.5, 10**30, math.inf, -math.inf, math.nan, True, date(2026, 1, 1)]
NASTY += [[], [1], ["x"], [[]], [{}], {}, {"x": {}}, {"name": 5}, [{"name": "x", "value": [1]}]]


def places(value: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The path of everything in it."""
    entries = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in entries:
        yield (*path, key)
        yield from places(inner, (*path, key))


SOUND = tomllib.loads(EVERYTHING)
PLACES = tuple(places(SOUND))


def spoilt(path: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """The file with everything, with something else in one place."""
    values = copy.deepcopy(SOUND)
    *parents, last = path
    at: Any = values
    for step in parents:
        at = at[step]
    at[last] = copy.deepcopy(value)
    return values


@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("value", [pytest.param(value, id=repr(value)) for value in NASTY])
def test_any_value_in_any_place_is_read_or_refused(value: Any, strict: bool) -> None:
    for path in PLACES:
        root = node.of(spoilt(path, value), file="fly.toml", lines={})
        try:
            app = of_node(root, directory=Path("/nonexistent"), strict=strict, sources=("fly.toml",))
        except ConfigInvalid:
            continue
        for group in app.groups.names:
            config.machine_config(app, group, existing={"image": "x"}, image="y")
        config.release_machine(app)
        config.console_machine(app)


def test_the_file_with_everything_is_sound() -> None:
    app = config.text(EVERYTHING)
    assert app.groups.names == ("web", "worker")
    assert not [field for field, value in asdict(app).items() if not value]


@given(values=st.dictionaries(st.text("ab .\"'#=é", min_size=1, max_size=4), NESTED, max_size=4))
@settings(max_examples=200, deadline=None)
def test_every_key_of_a_toml_text_has_its_line(values: dict[str, Any]) -> None:
    text = "# [not.a.table]\n" + tomlkit.dumps(values)
    lines = toml_lines.of(text)
    root = document.parse(text, name="fly.toml")
    rows = text.splitlines()

    def look(at: node.Node) -> None:
        for key, member in at.members.items():
            assert member.path in lines
            line = rows[lines[member.path] - 1]
            assert key in line or repr(key)[1:-1] in line or key.replace('"', '\\"') in line
            look(member)

    look(root)


COMPOSE = """
services:
  web: {build: ., environment: [A=1], depends_on: {db: {condition: service_healthy}}, container_name: x}
  db:
    image: postgres
    command: [a]
    entrypoint: b
    user: 1
    environment: {C: 2}
    volumes: ["./gone:/x"]
    healthcheck: {test: [CMD, a], interval: 1m30s, timeout: 1s, start_period: 1s, retries: 3}
"""
CONTAINERS = {"containers": [{"name": "a", "image": "x", "files": [{"local_path": "y", "guest_path": "/y"}]}], "x": 1}


@pytest.mark.parametrize("value", [pytest.param(value, id=repr(value)) for value in NASTY])
def test_any_value_in_a_compose_file_or_a_machine_config_is_read_or_refused(value: Any, tmp_path: Path) -> None:
    for sound, write in ((yaml.safe_load(COMPOSE), yaml.safe_dump), (CONTAINERS, json.dumps)):
        for path in places(sound):
            values = copy.deepcopy(sound)
            *parents, last = path
            at: Any = values
            for step in parents:
                at = at[step]
            at[last] = value
            if write is json.dumps:
                if isinstance(value, date):
                    continue
                text = f"machine_config = '{json.dumps(values)}'"
            else:
                (tmp_path / "compose.yaml").write_text(write(values))
                text = "build = { compose = {} }"
            try:
                app = config.text(text, directory=tmp_path, strict=False)
            except ConfigInvalid:
                continue
            config.machine_config(app, "app", image="y")
