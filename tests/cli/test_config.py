"""`caddis config`: what it prints, how it ends, and that it changes nothing it was not asked to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch import config
from caddisfly.model.config import Config
from tests.cli.machines import MACHINES, Caddis
from tests.cli.machines import machine as shown
from tests.client.conftest import Api

FILE = """# mine
app = "hello"
primary_region = "ams"

[env]
A = "1" # one

[http_service]
internal_port = 8080
"""


@pytest.fixture
def file(caddis: Caddis) -> Path:
    """The file here. `caddis` has made the directory and gone into it."""
    path = Path("fly.toml")
    path.write_text(FILE)
    return path


def machine(text: str = FILE, **changes: Any) -> dict[str, Any]:
    wire = config.machine_config(config.text(text), "app", image="x")
    return shown(config=Config.parse(wire).wire, **changes)


def test_a_right_file_is_valid(file: Path, caddis: Caddis) -> None:
    outcome = caddis("config", "validate")
    assert (outcome.code, outcome.out) == (0, "Validating fly.toml\n✓ Configuration is valid\n")


def test_a_wrong_file_says_what_is_wrong_and_ends_with_2(file: Path, caddis: Caddis) -> None:
    file.write_text(FILE.replace("internal_port", "internal_prot"))
    outcome = caddis("config", "validate")
    assert outcome.code == 2
    assert "✘ fly.toml is not valid" in outcome.out
    assert "Error: App configuration is not valid\n" in outcome.err
    assert "fly.toml:9: http_service.internal_prot: unknown key; did you mean internal_port?" in outcome.err


def test_the_lenient_see_warnings(file: Path, caddis: Caddis) -> None:
    file.write_text(FILE.replace("internal_port", "internal_prot"))
    outcome = caddis("config", "validate", "--lenient")
    assert outcome.code == 0
    assert "Warning: fly.toml:9: http_service.internal_prot: unknown key" in outcome.err


def test_findings_are_json_too(file: Path, caddis: Caddis) -> None:
    assert caddis("config", "validate", "--json").json == {"valid": True, "findings": []}
    file.write_text("primary_regoin = 'ams'")
    outcome = caddis("config", "validate", "--json")
    assert outcome.code == 2
    assert outcome.json["findings"] == [
        {
            "severity": "error",
            "file": "fly.toml",
            "line": 1,
            "key": "primary_regoin",
            "message": "unknown key",
            "allowed": "",
            "did_you_mean": "primary_region",
        }
    ]


def test_no_file_and_a_missing_overlay_are_errors(file: Path, caddis: Caddis, monkeypatch: pytest.MonkeyPatch) -> None:
    outcome = caddis("config", "validate", "--env", "staging")
    assert outcome.code == 1
    assert "config file not found at fly.staging.toml" in outcome.err
    monkeypatch.setenv("FLY_CONFIG", "gone.toml")
    assert "FLY_CONFIG names it" in caddis("config", "validate").err


def test_show_prints_what_is_meant(file: Path, caddis: Caddis) -> None:
    Path("fly.staging.toml").write_text("app = 'hello-staging'\n[caddisfly]\ncount = 2\n")
    meant = caddis("config", "show", "--json", "--env", "staging").json
    assert (meant["app"], meant["files"]) == ("hello-staging", ["fly.toml", "fly.staging.toml"])
    assert meant["deploy"]["strategy"] == "rolling"
    assert meant["groups"]["app"]["count"] == 2
    assert meant["groups"]["app"]["config"]["services"][0]["internal_port"] == 8080
    assert meant["release_machine"] is None
    plain = caddis("config", "show").out
    assert "[app]" in plain
    assert "config.env.A: 1" in plain


def test_env_prints_the_variables_of_each_group(file: Path, caddis: Caddis) -> None:
    assert caddis("config", "env").out.splitlines() == [
        "GROUP\tNAME\tVALUE",
        "app\tA\t1",
        "app\tFLY_PROCESS_GROUP\tapp",
        "app\tPRIMARY_REGION\tams",
    ]
    assert caddis("config", "env", "--json").json["app"]["A"] == "1"


def test_diff_shows_each_machine(file: Path, caddis: Caddis, api: Api) -> None:
    other = machine(FILE.replace('A = "1"', 'A = "2"'), id="other")
    api.on("GET", MACHINES, (200, [machine(), other]))
    outcome = caddis("config", "diff")
    assert outcome.code == 0, outcome.err
    assert outcome.out.splitlines() == [
        "app: 2 Machines",
        "  148e21ea7e46e8 (lab, started): the same",
        "  other (lab, started)",
        "    ~ env.A: 2 -> 1",
    ]
    assert caddis("config", "diff", "--check").code == 1
    assert caddis("config", "diff", "--json").json[0]["machines"][1]["changes"] == ["~ env.A: 2 -> 1"]
    assert {request.method for request in api.seen} == {"GET"}


def test_diff_of_what_is_the_same_passes_the_check(file: Path, caddis: Caddis, api: Api) -> None:
    api.on("GET", MACHINES, (200, [machine()]))
    assert caddis("config", "diff", "--check").code == 0


def test_a_wrong_file_asks_no_server(file: Path, caddis: Caddis, api: Api) -> None:
    file.write_text("app = 'hello'\nnonsense = 1")
    assert caddis("config", "diff").code == 2
    assert not api.seen


def test_save_writes_a_new_file(caddis: Caddis, api: Api) -> None:
    api.on("GET", MACHINES, (200, [machine()]))
    outcome = caddis("config", "save", "-a", "hello")
    assert (outcome.code, outcome.out) == (0, "Saved fly.toml\n")
    assert caddis("config", "diff", "--check").code == 0


def test_save_keeps_comments_shows_what_changes_and_asks(file: Path, caddis: Caddis, api: Api) -> None:
    api.on("GET", MACHINES, (200, [machine(FILE.replace('A = "1"', 'A = "2"'))]))
    refused = caddis("config", "save", stdin="n\n")
    assert refused.code == 1
    assert '-A = "1" # one' in refused.err
    assert '+A = "2" # one' in refused.err
    assert file.read_text() == FILE
    assert caddis("config", "save", "--yes").code == 0
    assert file.read_text() == FILE.replace('A = "1"', 'A = "2"')


def test_save_of_what_is_the_same_writes_nothing(file: Path, caddis: Caddis, api: Api) -> None:
    api.on("GET", MACHINES, (200, [machine()]))
    assert caddis("config", "save").out == "fly.toml says so already.\n"
    assert file.read_text() == FILE


def test_save_does_not_make_the_file_of_one_app_that_of_another(file: Path, caddis: Caddis, api: Api) -> None:
    outcome = caddis("config", "save", "-a", "other", "--yes")
    assert outcome.code == 1
    assert "fly.toml is of app hello, not of other" in outcome.err
    assert not api.seen
    assert file.read_text() == FILE


@pytest.mark.parametrize(
    ("name", "text", "variables"),
    [
        ("fly.toml", "app = 'hello'", {}),
        ("fly.yaml", "app: hello", {}),
        ("fly.json", '{"app": "hello"}', {}),
        ("other.toml", "app = 'hello'", {"FLY_CONFIG": "other.toml"}),
        ("fly.toml", "app = 'other'", {"FLY_APP": "hello"}),
    ],
)
def test_every_command_finds_the_app(
    caddis: Caddis, api: Api, monkeypatch: pytest.MonkeyPatch, name: str, text: str, variables: dict[str, str]
) -> None:
    Path(name).write_text(text)
    for variable, value in variables.items():
        monkeypatch.setenv(variable, value)
    api.on("GET", MACHINES, (200, []))
    assert caddis("machine", "list").code == 0
    assert api.seen[0].path == MACHINES


def test_a_missing_config_is_no_reason_to_take_another_app(
    file: Path, caddis: Caddis, api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLY_CONFIG", "gone.toml")
    outcome = caddis("machine", "list")
    assert outcome.code == 1
    assert "config file not found at" in outcome.err
    assert not api.seen
