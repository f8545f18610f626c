"""What is kept of a config with a release means the same as the file did, without the files beside it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caddisfly.launch import config as launch
from caddisfly.launch.config import AppConfig, machine_config, release_machine

_EVERYTHING = Path(__file__).with_name("everything.toml")


def meant(app: AppConfig) -> object:
    return [machine_config(app, group) for group in app.groups.names], release_machine(app), app.deploy, app.extension


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "motd").write_text("hello")
    (tmp_path / "machine.json").write_text('{"schedule": "daily", "containers": [{"name": "app"}]}')
    (tmp_path / "compose.yaml").write_text(
        "services:\n  web:\n    build: .\n  cache:\n    image: redis:7\n    environment:\n      A: '1'\n"
    )
    return tmp_path


@pytest.mark.parametrize(
    "text",
    [
        'app = "a"\nkill_timeout = 120\n[env]\nA = 1\n[http_service]\ninternal_port = 80\n',
        'machine_config = "machine.json"\n[[files]]\nguest_path = "/motd"\nlocal_path = "motd"\n',
        '[experimental]\nmachine_config = "machine.json"\n',
        "[build.compose]\n",
        '[processes]\nweb = "run web"\nworker = "run worker"\n[[files]]\nguest_path = "/w"\nliteral = "x"\n'
        'processes = ["worker"]\n[caddisfly.groups.worker]\ncount = 3\n',
    ],
)
def test_a_definition_means_what_its_file_meant(folder: Path, text: str) -> None:
    (folder / "fly.toml").write_text(text)
    app = launch.find_and_load(directory=folder)
    kept = json.loads(json.dumps(app.definition))
    for beside in folder.iterdir():
        beside.unlink()
    assert meant(launch.of_release(kept)) == meant(app)


@pytest.mark.parametrize(
    "kept",
    [
        {"files": [{"guest_path": "/x", "local_path": "{file}"}]},
        {"machine_config": "{file}"},
        {"machine_config": '{"containers": [{"name": "a", "files": [{"guest_path": "/x", "local_path": "{file}"}]}]}'},
        {"experimental": {"machine_config": "{file}"}},
        {"build": {"compose": {"file": "{file}"}}},
    ],
)
def test_a_definition_that_somebody_else_wrote_reads_no_file_here(tmp_path: Path, kept: dict[str, object]) -> None:
    """Who rolls an app back must not send their own files to whoever else may deploy it."""
    file = tmp_path / "key.json"
    file.write_text('{"services": {"app": {"image": "mine"}}, "schedule": "daily"}')
    with pytest.raises(launch.ConfigInvalid, match="a config that is no file here has no files"):
        launch.of_release(json.loads(json.dumps(kept).replace("{file}", str(file))))


def test_a_definition_of_a_file_that_uses_everything_is_read_again() -> None:
    app = launch.load(launch.find(str(_EVERYTHING)), strict=False)
    assert launch.of_release(app.definition).groups == app.groups


def test_an_overlay_is_part_of_the_definition(folder: Path) -> None:
    (folder / "fly.toml").write_text("[env]\nA = 'base'\n")
    (folder / "fly.staging.toml").write_text("[env]\nA = 'staging'\n")
    assert launch.find_and_load(directory=folder, environment="staging").definition["env"]["A"] == "staging"
