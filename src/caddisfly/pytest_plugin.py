"""Fixtures for tests of programs that use the Machines API: `caddis dev` beside the tests (docs/dev.md).

The platform is a process of its own: whatever loop, thread or signal handling the tests use, it is not disturbed, and
it ends when the tests do, also when those are killed. It starts when the first test asks for it.
"""

from __future__ import annotations

import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from caddisfly.client import Client

_OPTIONS = {
    "chaos": "how all Machines fail, such as start-error=5%,slow-start=200ms..2s",
    "regions": "regions to simulate, such as ams,fra,ord",
    "seed": "the same seed gives the same failures, start by start",
}


@dataclass(frozen=True, slots=True)
class CaddisDev:
    """A running `caddis dev`. `client` is a `caddisfly.client.Client` for it."""

    url: str
    token: str = field(repr=False)
    client: Client = field(repr=False)
    regions: tuple[str, ...]

    @property
    def env(self) -> dict[str, str]:
        """What a program for Fly reads from its environment."""
        return {"FLY_API_TOKEN": self.token, "FLY_FLAPS_BASE_URL": self.url}


@dataclass(frozen=True, slots=True)
class CaddisApp:
    """An app that no other test knows. `str()` gives its name."""

    name: str
    client: Client = field(repr=False)

    def __str__(self) -> str:
        return self.name

    def create(
        self, image: str = "nginx", *, act: str = "", region: str = "", wait: str = "settled", **config: Any
    ) -> dict[str, Any]:
        """A Machine, once it is in the state `wait`; empty returns it at once. Settled is also what has failed.

        `act` says how it fails, in the words of `caddis dev --words`. What else is given goes into its config.
        """
        if act:
            config = {**config, "metadata": {**config.get("metadata", {}), "caddis-dev": act}}
        made = self.client.machines.create(self.name, {"image": image, **config}, region=region)
        if not wait:
            return made
        self.client.machines.wait(self.name, made["id"], wait)
        return self.client.machines.get(self.name, made["id"])

    def machines(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.client.machines.list(self.name)
        return found


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("caddis", "caddis dev, the Machines API on simulated hosts")
    for name, help in _OPTIONS.items():
        group.addoption(f"--caddis-{name}", default=None, help=help)
        parser.addini(f"caddis_{name}", help=help)


@pytest.fixture(scope="session")
def caddis_dev(request: pytest.FixtureRequest) -> Iterator[CaddisDev]:
    """The Machines API on simulated hosts, for all tests of this run."""
    from caddisfly.client import Client

    with tempfile.TemporaryFile("w+") as said:  # not a pipe, which fills up when nobody reads it
        process = subprocess.Popen(
            [sys.executable, "-m", "caddisfly", "dev", "--port", "0", "--json", "--until-eof", *_words(request.config)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            start_new_session=True,  # Ctrl-C is for pytest, whose fixtures still need the API while they end
        )
        try:
            facts = _ready(process, said)
            with Client(facts["url"], token=facts["token"]) as client:
                yield CaddisDev(facts["url"], facts["token"], client, tuple(facts["regions"]))
        finally:
            _end(process)


@pytest.fixture
def caddis_app(caddis_dev: CaddisDev) -> Iterator[CaddisApp]:
    """A fresh app, destroyed with its Machines after the test."""
    name = f"test-{secrets.token_hex(6)}"
    caddis_dev.client.apps.create(name)
    yield CaddisApp(name, caddis_dev.client)
    from caddisfly.client import NotFoundError

    try:
        caddis_dev.client.apps.delete(name)
    except NotFoundError:
        return  # the test deleted it


def _words(config: pytest.Config) -> Iterator[str]:
    for name in _OPTIONS:
        value = config.getoption(f"--caddis-{name}") or config.getini(f"caddis_{name}")
        if value:
            yield f"--{name}={value}"


def _ready(process: subprocess.Popen[str], said: IO[str]) -> Mapping[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        process.wait()
        said.seek(0)
        raise pytest.UsageError(f"caddis dev did not start\n{said.read()}")
    facts: Mapping[str, Any] = json.loads(line)
    return facts


def _end(process: subprocess.Popen[str]) -> None:
    """The end of its input is what it ends by."""
    try:
        process.communicate(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
