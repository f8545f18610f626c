"""An app in a folder, deployed as a user does it, on simulated hosts."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from caddisfly.model import ids
from caddisfly.pytest_plugin import CaddisDev
from tests.cli.conftest import Outcome, caddis, caddis_on_dev
from tests.client.conftest import api

__all__ = ["api", "caddis", "caddis_on_dev"]

SERVICE = """
[http_service]
internal_port = 8080
"""
CHECKED = """
[http_service]
internal_port = 8080
[[http_service.checks]]
interval = "1s"
timeout = "1s"
grace_period = "1s"
path = "/"
"""
WORD = "caddis-dev/"


@dataclass(frozen=True, slots=True)
class Project:
    """`text` is its fly.toml without the name of the app, which no other test has."""

    app: str
    folder: Path
    dev: CaddisDev
    _caddis: Callable[..., Outcome] = field(repr=False)
    _processes: list[subprocess.Popen[str]] = field(default_factory=list, repr=False)

    def write(self, text: str) -> None:
        (self.folder / "fly.toml").write_text(f'app = "{self.app}"\nprimary_region = "fra"\n{text}')

    def deploy(self, image: str = "shop:1", *flags: str) -> Outcome:
        return self._caddis("deploy", "--image", image, *flags)

    def run(self, *words: str) -> Outcome:
        return self._caddis(*words)

    def start(self, image: str, *flags: str) -> subprocess.Popen[str]:
        """The same as a process of its own, which can be killed."""
        process = subprocess.Popen(
            [sys.executable, "-m", "caddisfly", "deploy", "--image", image, *flags],
            cwd=self.folder,
            env={**os.environ, **self.dev.env},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.communicate()
        self.dev.client.apps.delete(self.app)

    def machines(self, group: str = "") -> list[dict[str, Any]]:
        found = self.dev.client.machines.list(self.app)
        return [
            one for one in found if one["state"] not in ("destroyed", "destroying") and group in ("", group_of(one))
        ]

    def release(self, version: int | str = "latest") -> dict[str, Any]:
        found: dict[str, Any] = self.dev.client.releases.get(self.app, version)
        return found


def group_of(machine: dict[str, Any]) -> str:
    return str(machine["config"]["metadata"].get("fly_process_group", ""))


def version_of(machine: dict[str, Any]) -> str:
    return str(machine["config"]["metadata"].get("fly_release_version", ""))


def images(machines: list[dict[str, Any]]) -> set[str]:
    """`shop:2`, by repository and tag."""
    return {f"{one['image_ref']['repository'].rpartition('/')[2]}:{one['image_ref']['tag']}" for one in machines}


def until(check: Callable[[], bool], *, within_s: float) -> None:
    """For facts that have no event: asked again and again."""
    deadline = time.monotonic() + within_s
    while not check():
        assert time.monotonic() < deadline, f"not within {within_s} s"
        time.sleep(0.05)


@pytest.fixture
def project(caddis_on_dev: Callable[..., Outcome], caddis_dev: CaddisDev, tmp_path: Path) -> Iterator[Project]:
    name = f"shop-{ids.ulid()[-10:].lower()}"
    caddis_dev.client.apps.create(name)
    made = Project(name, tmp_path, caddis_dev, caddis_on_dev)
    made.write(CHECKED)
    yield made
    made.close()
