"""Which file counts, and what an overlay changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch import config
from caddisfly.launch.config import AppConfig, ConfigInvalid
from caddisfly.model.errors import InvalidArgument, NotFound

BASE = """
app = "demo"
[env]
A = "1"
B = "1"
[http_service]
internal_port = 8080
min_machines_running = 1
[[vm]]
memory = "512mb"
[[mounts]]
source = "data"
destination = "/data"
"""


def write(directory: Path, **files: str) -> None:
    for name, text in files.items():
        (directory / f"{name.replace('_', '.')}.toml").write_text(text)


def load(directory: Path, given: str = "", *, environment: str = "", **environ: str) -> AppConfig:
    return config.find_and_load(given, environment=environment, directory=directory, environ=environ)


def test_toml_json_and_yaml_are_looked_for_in_this_order(tmp_path: Path) -> None:
    (tmp_path / "fly.yaml").write_text("app: in-yaml")
    assert load(tmp_path).app == "in-yaml"
    (tmp_path / "fly.json").write_text('{"app": "in-json"}')
    assert load(tmp_path).app == "in-json"
    (tmp_path / "fly.toml").write_text('app = "in-toml"')
    assert load(tmp_path).app == "in-toml"


def test_config_beats_the_variable_which_beats_the_directory(tmp_path: Path) -> None:
    write(tmp_path, fly="app = 'here'", other="app = 'other'", variable="app = 'variable'")
    assert load(tmp_path, FLY_CONFIG="variable.toml").app == "variable"
    assert load(tmp_path, "other.toml", FLY_CONFIG="variable.toml").app == "other"
    (tmp_path / "sub").mkdir()
    write(tmp_path / "sub", fly="app = 'sub'")
    assert load(tmp_path, "sub").app == "sub"


def test_a_file_that_is_named_and_missing_is_an_error_though_another_is_there(tmp_path: Path) -> None:
    write(tmp_path, fly="app = 'here'")
    with pytest.raises(NotFound, match=r"config file not found at .*gone\.toml: --config names it"):
        load(tmp_path, "gone.toml")
    with pytest.raises(NotFound, match="FLY_CONFIG names it"):
        load(tmp_path, FLY_CONFIG="gone.toml")


def test_no_file_at_all_says_what_makes_one(tmp_path: Path) -> None:
    with pytest.raises(NotFound) as caught:
        load(tmp_path)
    assert "caddis launch" in caught.value.next


def test_an_overlay_that_is_missing_is_an_error_that_guesses(tmp_path: Path) -> None:
    write(tmp_path, fly=BASE, fly_staging="", fly_production="")
    with pytest.raises(
        NotFound, match=r"fly.stagin.toml: --env stagin means it; there is production, staging"
    ) as caught:
        load(tmp_path, environment="stagin")
    assert caught.value.next == "did you mean --env staging?"


def test_an_overlay_merges_tables_and_replaces_the_rest(tmp_path: Path) -> None:
    overlay = """
        app = "demo-staging"
        [env]
        B = "2"
        C = "3"
        [http_service]
        min_machines_running = 0
        [[vm]]
        memory = "1gb"
    """
    write(tmp_path, fly=BASE, fly_staging=overlay)
    app = load(tmp_path, environment="staging")
    wire = config.machine_config(app, "app")
    assert app.app == "demo-staging"
    assert {name: wire["env"][name] for name in "ABC"} == {"A": "1", "B": "2", "C": "3"}
    assert wire["services"][0]["internal_port"] == 8080
    assert wire["services"][0]["min_machines_running"] == 0
    assert wire["guest"]["memory_mb"] == 1024
    assert wire["mounts"]
    assert [Path(source).name for source in app.sources] == ["fly.toml", "fly.staging.toml"]


def test_an_empty_list_removes_a_section(tmp_path: Path) -> None:
    write(tmp_path, fly=BASE, fly_test="mounts = []")
    assert "mounts" not in config.machine_config(load(tmp_path, environment="test"), "app")


def test_older_spellings_count_as_the_same_section(tmp_path: Path) -> None:
    write(tmp_path, fly=BASE, fly_test="compute = { memory = 1024 }\n[mount]\nsource = 'other'\ndestination = '/o'")
    wire = config.machine_config(load(tmp_path, environment="test"), "app")
    assert wire["guest"]["memory_mb"] == 1024
    assert [mount["name"] for mount in wire["mounts"]] == ["other"]


def test_lists_of_named_things_are_merged_by_name(tmp_path: Path) -> None:
    base = """
        env = [{ A = 1 }, { B = 1 }]
        processes = [{ name = "web", command = "w" }, { name = "worker", command = "k" }]
        checks = [{ name = "up", type = "tcp", port = 1, processes = ["web"] }]
    """
    overlay = "env = { B = 2 }\nprocesses = { worker = 'other' }\nchecks = { up = { port = 2 } }"
    write(tmp_path, fly=base, fly_test=overlay)
    app = load(tmp_path, environment="test")
    assert app.env == {"A": "1", "B": "2"}
    assert app.groups.commands == {"web": ("w",), "worker": ("other",)}
    assert config.machine_config(app, "web")["checks"]["up"] == {"type": "tcp", "port": 2}


def test_an_error_points_into_the_file_that_made_it(tmp_path: Path) -> None:
    write(tmp_path, fly=BASE, fly_test="\n\n[http_service]\ninternal_prot = 1\n")
    with pytest.raises(ConfigInvalid, match=r"fly\.test\.toml:4: http_service.internal_prot"):
        load(tmp_path, environment="test")
    write(tmp_path, fly=BASE + "[depoly]\n", fly_test="")
    with pytest.raises(ConfigInvalid, match=r"fly\.toml:14: depoly"):
        load(tmp_path, environment="test")


def test_overlays_may_be_of_another_format_and_of_another_name(tmp_path: Path) -> None:
    (tmp_path / "web.toml").write_text(BASE)
    (tmp_path / "web.test.yaml").write_text("env: {A: '9'}")
    assert load(tmp_path, "web.toml", environment="test").env["A"] == "9"


def test_the_name_of_the_app_comes_from_the_flag_the_variable_or_the_file() -> None:
    assert config.app_name("flag", "file", environ={"FLY_APP": "variable"}) == "flag"
    assert config.app_name("", "file", environ={"FLY_APP": "variable"}) == "variable"
    assert config.app_name("", "file", environ={}) == "file"
    with pytest.raises(InvalidArgument, match="missing an app name"):
        config.app_name("", "", environ={})
