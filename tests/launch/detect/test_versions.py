"""Which version of a language is taken, and where from."""

from __future__ import annotations

from pathlib import Path

import pytest

from caddisfly.launch.detect import NoInterpreters
from caddisfly.launch.detect.versions import Version, allows, lowest
from tests.launch.detect import projects
from tests.launch.detect.projects import Files, found, package


@pytest.mark.parametrize(
    ("requirement", "floor"),
    [
        (">=3.12", "3.12"),
        (">=3.9,<3.13", "3.9"),
        ("<3.13,>=3.10", "3.10"),
        ("^3.11", "3.11"),
        ("~=3.10", "3.10"),
        ("==3.11.*", "3.11"),
        (">3.10", "3.11"),
        ("3.12", "3.12"),
        ("<3.13", ""),
        ("!=3.9.1", ""),
        ("*", ""),
        ("", ""),
        ("^18 || ^20", "18"),
        ("20.x", "20"),
        ("=20.x", "20"),
        ("v20.11.0", "20.11.0"),
    ],
)
def test_where_a_requirement_begins(requirement: str, floor: str) -> None:
    assert lowest(requirement) == floor


@pytest.mark.parametrize(
    ("requirement", "version", "so"),
    [
        (">=3.8", "3.12", True),
        (">=3.8,<3.12", "3.12", False),
        ("<=3.12", "3.12.4", True),
        ("~=3.8", "3.12", True),
        ("~=3.8.1", "3.12", False),
        ("^3.8", "3.12", True),
        ("^2.7", "3.12", False),
        ("!=3.12", "3.12", False),
        ("3.8.*", "3.12", False),
    ],
)
def test_what_a_requirement_takes(requirement: str, version: str, so: bool) -> None:
    assert allows(requirement, version) is so


PEP621 = '[project]\nname = "a"\nversion = "1"\ndependencies = ["fastapi[standard]"]\nrequires-python = "{}"\n'
FLASK: Files = {"requirements.txt": "flask\n", "app.py": "app = Flask(__name__)\n"}
NODE = {"scripts": {"start": "node server.js"}}
CASES: list[tuple[str, Files, str, str]] = [
    ("nothing said", FLASK, "3.12", "the default"),
    ("a range", {"pyproject.toml": PEP621.format(">=3.9,<3.13")}, "3.9", "requires-python in pyproject.toml"),
    (
        "too old, newer allowed",
        {"pyproject.toml": PEP621.format(">=3.7")},
        "3.12",
        "the default, which requires-python",
    ),
    ("too old, nothing else", {"pyproject.toml": PEP621.format(">=3.7,<3.9")}, "3.7", "requires-python"),
    ("python-version", {**FLASK, ".python-version": "3.11.4\n"}, "3.11", ".python-version"),
    ("runtime.txt", {**FLASK, "runtime.txt": "python-3.10.2\n"}, "3.10", "runtime.txt"),
    ("tool-versions", {**FLASK, ".tool-versions": "nodejs 20.1.0\npython 3.13.1\n"}, "3.13", ".tool-versions"),
    ("mise", {**FLASK, "mise.toml": '[tools]\npython = "3.13"\n'}, "3.13", "mise.toml"),
    (
        "pipenv",
        {"Pipfile": '[packages]\nflask = "*"\n', "Pipfile.lock": '{"_meta": {"requires": {"python_version": "3.10"}}}'},
        "3.10",
        "python_version in Pipfile.lock",
    ),
    ("engines", {"package.json": package(**NODE, engines={"node": "^20.1"})}, "20", "engines in package.json"),
    ("engines, open", {"package.json": package(**NODE, engines={"node": ">=18"})}, "22", "the default, which engines"),
    ("engines, newer", {"package.json": package(**NODE, engines={"node": ">=24"})}, "24", "engines in package.json"),
    ("nvmrc", {"package.json": package(**NODE), ".nvmrc": "v20.11.1\n"}, "20", ".nvmrc"),
    ("nvmrc alias", {"package.json": package(**NODE), ".nvmrc": "lts/iron\n"}, "22", "the default"),
    ("go toolchain", {**projects.GO, "go.mod": "module a\ngo 1.22\ntoolchain go1.23.4\n"}, "1.23.4", "go.mod"),
    ("ruby lock", projects.RAILS, "3.3.5", "Gemfile.lock"),
    (
        "ruby version",
        {**projects.SINATRA, "Gemfile": 'gem "sinatra"\n', ".ruby-version": "ruby-3.1.4"},
        "3.1.4",
        ".ruby",
    ),
    ("elixir", {**projects.PHOENIX, ".tool-versions": "elixir 1.16.2-otp-26\n"}, "1.16", ".tool-versions"),
    ("dotnet 10", projects.DOTNET, "10.0", "TargetFramework in Shop.csproj"),
    ("java property", {"pom.xml": "<maven.compiler.release>17</maven.compiler.release>"}, "17", "pom.xml"),
    ("java without an image", {"pom.xml": "<java.version>19</java.version>"}, "21", "pom.xml"),
    ("java 1.8", {"pom.xml": "<java.version>1.8</java.version>"}, "8", "pom.xml"),
    ("rust", {**projects.RUST, "rust-toolchain.toml": '[toolchain]\nchannel = "1.80.1"\n'}, "1.80.1", "rust-toolchain"),
    ("rust channel", {**projects.RUST, "rust-toolchain.toml": '[toolchain]\nchannel = "stable"\n'}, "1", "the default"),
    ("php", projects.LARAVEL, "8.2", "php in composer.json"),
    ("php too old", {"index.php": "", "composer.json": '{"require": {"php": ">=5.6"}}'}, "8.3", "the default"),
    ("bun", {**projects.BUN, ".bun-version": "1.1.30\n"}, "1.1.30", ".bun-version"),
]


@pytest.mark.parametrize(("files", "value", "origin"), [case[1:] for case in CASES], ids=[case[0] for case in CASES])
def test_files_say_which(tmp_path: Path, files: Files, value: str, origin: str) -> None:
    version = found(tmp_path, files).recipe.version
    assert version is not None
    assert version.value == value
    assert version.origin.startswith(origin)


def test_an_old_interpreter_of_this_computer_is_not_taken(tmp_path: Path) -> None:
    class Old(NoInterpreters):
        def version(self, program: str) -> str:
            return {"python3": "3.6.9", "node": "14.2.0"}.get(program, "")

    assert found(tmp_path / "a", FLASK, local=Old()).recipe.version == Version("3.12", "the default")
    assert found(tmp_path / "b", projects.NODE, local=Old()).recipe.version == Version("22", "the default")
