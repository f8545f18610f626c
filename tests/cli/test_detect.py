"""`caddis detect`, as a user runs it: no platform, no login, nothing written."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from tests.cli.conftest import Outcome
from tests.launch.detect import projects
from tests.launch.detect.projects import project

Caddis = Callable[..., Outcome]


def test_a_folder_is_explained(tmp_path: Path, caddis: Caddis) -> None:
    project(tmp_path / "shop", projects.RAILS)
    before = sorted(tmp_path.rglob("*"))
    outcome = caddis("detect", "shop")
    assert outcome.code == 0
    for line in (
        "Framework  Rails",
        "Evidence   found bin/rails, rails in Gemfile.lock, config.ru of Rails",
        "Version    Ruby 3.3.5 (Gemfile.lock)",
        "  http_service.internal_port = 3000  # Rails' port",
        "  secret RAILS_MASTER_KEY, from config/master.key  # opens the credentials; taken from config/master.key, "
        "never copied into the image",
        "  needs postgres, as DATABASE_URL  # the adapter in config/database.yml",
        "New file Dockerfile:",
        "+FROM ruby:${RUBY_VERSION}-slim AS base",
    ):
        assert line in outcome.out.splitlines(), line
    assert outcome.err == ""
    assert sorted(tmp_path.rglob("*")) == before


def test_the_same_for_programs(tmp_path: Path, caddis: Caddis) -> None:
    project(tmp_path, projects.GO)
    told = caddis("detect", "--json").json
    assert told["framework"] == "go"
    assert (told["version"], told["version_from"]) == ("1.23", "go.mod")
    assert told["fly_toml"]["build"]["args"] == {"GO_VERSION": "1.23"}
    assert [file["path"] for file in told["files"]] == ["Dockerfile", ".dockerignore"]
    assert all(file["new"] for file in told["files"])
    assert all(reason["why"] for reason in told["reasons"])


def test_a_tie_and_a_named_framework(tmp_path: Path, caddis: Caddis) -> None:
    project(tmp_path, {"requirements.txt": "fastapi[standard]\nflask\n"})
    outcome = caddis("detect")
    assert "As much speaks for Flask: take one with --framework flask" in outcome.err
    named = caddis("detect", "--framework", "flask")
    assert named.out.startswith("Framework  Flask (named with --framework)\n")
    assert "As much" not in named.err


def test_an_existing_file_is_shown_as_a_difference(tmp_path: Path, caddis: Caddis) -> None:
    project(tmp_path, {**projects.GO, "Dockerfile": "FROM golang:1\n"})
    assert "No file would be written." in caddis("detect").out
    outcome = caddis("detect", "--framework", "go")
    assert "Change of Dockerfile:" in outcome.out
    assert "-FROM golang:1" in outcome.out


def test_wrong_input_is_answered_in_three_lines(tmp_path: Path, caddis: Caddis) -> None:
    (tmp_path / "file").write_text("")
    missing = caddis("detect", "missing")
    assert missing.code == 2
    assert missing.err.startswith("Error: directory 'missing' not found\nNext:")
    assert caddis("detect", "file").err.startswith("Error: 'file' is not a directory\nWhy:")
    unknown = caddis("detect", "--framework", "railz")
    assert unknown.code == 2
    assert unknown.err.splitlines()[0] == "Error: there is no framework 'railz'"
    assert unknown.err.splitlines()[-1] == "Next:  did you mean rails?"
    (tmp_path / "empty").mkdir()
    blank = caddis("detect", "empty")
    assert blank.code == 1
    assert blank.err.splitlines() == [
        f"Error: no app found in {tmp_path}/empty",
        "Why:   there is nothing in it",
        "Next:  add a Dockerfile, name a --framework, or deploy an image with --image",
    ]
