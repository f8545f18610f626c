"""The text of a new fly.toml, and edits of one that is there."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
import yaml

from caddisfly.launch import config
from caddisfly.launch.detect import Default
from caddisfly.launch.detect.settings import check, env, mount, settings, web
from caddisfly.launch.plan import fly_toml
from tests.launch.detect.projects import EVERY, Files, found

SETTINGS = settings(
    Default(("kill_signal",), "SIGTERM", "it is asked\nkindly"),
    web(8000, "the app says so"),
    check("/up", "it answers there"),
    env("GREETING", 'say "hi"', ""),
    mount("data", "/data", "kept"),
)
TEXT = """\
# What shop is and how it runs. Each value says why it is so, and every one may be changed.
kill_signal = "SIGTERM"  # it is asked kindly

[http_service]
internal_port = 8000  # the app says so
force_https = true  # requests over plain HTTP are sent on to HTTPS
auto_stop_machines = "stop"  # a Machine that nobody asks anything costs nothing
auto_start_machines = true  # the next request starts it again
min_machines_running = 0  # all may sleep; 1 keeps one awake
processes = ["app"]  # requests go to the group app

[[http_service.checks]]  # it answers there
method = "GET"
path = "/up"
interval = "10s"
timeout = "2s"
grace_period = "5s"

[env]
GREETING = "say \\"hi\\""

[[vm]]  # most apps need about 1 GB of memory
size = "shared-cpu-1x"
memory = "1gb"

[[mounts]]  # kept
source = "data"
destination = "/data"
initial_size = "1gb"
auto_extend_size_threshold = 80
auto_extend_size_increment = "1GB"
auto_extend_size_limit = "10GB"
"""


def test_a_new_file_says_why() -> None:
    assert fly_toml.made(Path("fly.toml"), SETTINGS.defaults, app="shop") == TEXT


@pytest.mark.parametrize("name", EVERY)
def test_what_is_detected_comes_back_from_each_format(name: str, tmp_path: Path) -> None:
    files: Files = EVERY[name][0]
    wanted = found(tmp_path, files).recipe.settings
    for path, read in (("fly.toml", tomllib.loads), ("fly.json", json.loads), ("fly.yaml", yaml.safe_load)):
        text = fly_toml.made(Path(path), wanted.defaults, app="shop")
        assert read(text) == wanted.document()
        config.text(text, name=path, directory=tmp_path)


@pytest.mark.parametrize("path", ["fly.toml", "fly.json", "fly.yaml"])
def test_an_edit_changes_what_it_names(path: str) -> None:
    before = fly_toml.made(Path(path), SETTINGS.defaults, app="shop")
    same = fly_toml.edited(Path(path), before, SETTINGS.defaults)
    assert same == before
    changes = [Default(("http_service", "internal_port"), 9000, ""), Default(("mounts",), None, "")]
    after = config.text(fly_toml.edited(Path(path), before, changes), name=path)
    assert after.http_service is not None
    assert (after.http_service.internal_port, after.mounts) == (9000, ())
    assert after.env == {"GREETING": 'say "hi"'}
