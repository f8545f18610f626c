"""Credentials of this computer, with helpers that are real programs."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from caddisfly.launch.build import credentials
from caddisfly.launch.build.credentials import Credentials
from caddisfly.model.errors import FailedPrecondition


def packed(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


class Home:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.environment = {"HOME": str(path), "PATH": f"{path}/bin:/usr/bin:/bin"}
        (path / "bin").mkdir()

    def docker(self, config: Any) -> None:
        (self.path / ".docker").mkdir(exist_ok=True)
        (self.path / ".docker" / "config.json").write_text(json.dumps(config))

    def podman(self, config: Any) -> None:
        directory = self.path / ".config" / "containers"
        directory.mkdir(parents=True)
        (directory / "auth.json").write_text(json.dumps(config))

    def helper(self, name: str, script: str) -> None:
        program = self.path / "bin" / f"docker-credential-{name}"
        program.write_text(f"#!/bin/sh\nread server\n{script}\n")
        program.chmod(0o755)

    def find(self, registry: str, repository: str = "") -> Credentials | None:
        return credentials.find(registry, repository, environment=self.environment)


@pytest.fixture
def home(tmp_path: Path) -> Home:
    return Home(tmp_path)


def test_nothing_is_known(home: Home) -> None:
    assert home.find("ghcr.io") is None
    home.docker({})
    assert home.find("ghcr.io") is None


@pytest.mark.parametrize("key", ["ghcr.io", "https://ghcr.io", "https://ghcr.io/v2/", "GHCR.io"])
def test_a_registry_in_the_file(home: Home, key: str) -> None:
    home.docker({"auths": {key: {"auth": packed("me:pass:word")}}})
    assert home.find("ghcr.io") == Credentials("me", "pass:word")
    assert home.find("other.io") is None


@pytest.mark.parametrize("name", ["docker.io", "index.docker.io", "registry-1.docker.io"])
def test_docker_hub_under_all_of_its_names(home: Home, name: str) -> None:
    home.docker({"auths": {"https://index.docker.io/v1/": {"auth": packed("me:word")}}})
    assert home.find(name) == Credentials("me", "word")


def test_an_identity_token_and_plain_fields(home: Home) -> None:
    home.docker(
        {
            "auths": {
                "a.io": {"auth": packed("0:"), "identitytoken": "long"},
                "b.io:5000": {"username": "u", "password": "p"},
                "c.io": {},
            }
        }
    )
    assert home.find("a.io") == Credentials("0", "", "long")
    assert home.find("b.io:5000") == Credentials("u", "p")
    assert home.find("c.io") is None


def test_the_helper_of_a_registry_counts_before_that_of_all_and_that_before_the_file(home: Home) -> None:
    home.helper("one", """echo "{\\"Username\\":\\"one\\",\\"Secret\\":\\"of $server\\"}" """)
    home.helper(
        "all",
        """[ "$server" = b.io ] || { echo "credentials not found in native keychain"; exit 1; }
echo '{"Username":"<token>","Secret":"all"}'""",
    )
    home.docker(
        {
            "credHelpers": {"a.io": "one", "docker.io": "one"},
            "credsStore": "all",
            "auths": {"a.io": {}, "c.io": {"auth": packed("file:c")}},
        }
    )
    assert home.find("a.io") == Credentials("one", "of a.io")
    assert home.find("index.docker.io") == Credentials("one", "of https://index.docker.io/v1/")
    assert home.find("b.io") == Credentials("<token>", "", "all")
    assert home.find("c.io") == Credentials("file", "c")
    assert home.find("d.io") is None


def test_podmans_file_comes_after_dockers_and_knows_parts_of_registries(home: Home) -> None:
    home.docker({"auths": {"a.io": {"auth": packed("docker:a")}}})
    home.podman(
        {
            "auths": {
                "a.io": {"auth": packed("podman:a")},
                "quay.io": {"auth": packed("all:q")},
                "quay.io/team": {"auth": packed("team:q")},
            }
        }
    )
    assert home.find("a.io") == Credentials("docker", "a")
    assert home.find("quay.io", "team/app") == Credentials("team", "q")
    assert home.find("quay.io", "teams/app") == Credentials("all", "q")


@pytest.mark.parametrize(
    ("config", "why"),
    [
        ([], "it holds no JSON object"),
        ({"auths": []}, ""),
        ({"auths": "x"}, "`auths` is not an object"),
        ({"auths": {"a.io": {"auth": "%%"}}}, "`auth` of a.io is not base64 of user:password"),
        ({"credsStore": "../../evil"}, "'../../evil' cannot be the name of a credential helper"),
    ],
)
def test_a_file_that_makes_no_sense(home: Home, config: Any, why: str) -> None:
    home.docker(config)
    if not why:
        assert home.find("a.io") is None
        return
    with pytest.raises(FailedPrecondition) as caught:
        home.find("a.io")
    assert caught.value.why == why


def test_a_helper_that_is_not_there_or_fails(home: Home) -> None:
    home.docker({"credsStore": "desktop"})
    with pytest.raises(FailedPrecondition, match="docker-credential-desktop is not there"):
        home.find("a.io")
    home.helper("desktop", "echo the keychain is locked >&2; exit 2")
    with pytest.raises(FailedPrecondition) as caught:
        home.find("a.io")
    assert caught.value.why == "the keychain is locked"
    home.helper("desktop", "echo my-secret")
    with pytest.raises(FailedPrecondition) as caught:
        home.find("a.io")
    assert "my-secret" not in str(caught.value)


def test_secrets_are_not_in_the_repr() -> None:
    assert "word" not in repr(Credentials("me", "word", "word"))
