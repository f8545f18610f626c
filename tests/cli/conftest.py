"""The commands as a user runs them, against the SDK's test server."""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from caddisfly.cli import app
from caddisfly.pytest_plugin import CaddisDev
from caddisfly.up import commands
from tests.client.conftest import Api, api

__all__ = ["api"]


@dataclass(frozen=True, slots=True)
class Outcome:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Typed(io.StringIO):
    """Standard input at which somebody sits."""

    def isatty(self) -> bool:
        return True


@pytest.fixture
def caddis(api: Api, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Outcome]:
    """`caddis("machine", "list")`: through the program's own door for errors, logged in, in an empty directory."""
    for name in (
        "CADDIS_CONFIG",
        "FLY_CONFIG",
        "CADDIS_DEBUG",
        "FLY_API_TOKEN",
        "FLY_APP",
        "FLY_FLAPS_BASE_URL",
        "XDG_CONFIG_HOME",
    ):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CADDIS_API_URL", api.url)
    monkeypatch.setenv("CADDIS_API_TOKEN", "secret")
    monkeypatch.chdir(tmp_path)

    def run(*words: str, stdin: str = "", terminal: bool = False) -> Outcome:
        out, err = io.StringIO(), io.StringIO()
        monkeypatch.setattr(sys, "argv", ["caddis", *words])
        monkeypatch.setattr(sys, "stdin", Typed(stdin) if terminal else io.StringIO(stdin))
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            program = app.build()
            commands.register(program)
            code = app.guarded(program)
        return Outcome(code, out.getvalue(), err.getvalue())

    return run


@pytest.fixture
def caddis_on_dev(
    caddis: Callable[..., Outcome], caddis_dev: CaddisDev, monkeypatch: pytest.MonkeyPatch
) -> Callable[..., Outcome]:
    """The same, on a platform with simulated hosts."""
    monkeypatch.setenv("CADDIS_API_URL", caddis_dev.url)
    monkeypatch.setenv("CADDIS_API_TOKEN", caddis_dev.token)
    return caddis
