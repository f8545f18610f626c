"""`caddis dev` as a process of its own, for tests that need one with options; the others share the plugin's."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.client import Client

COMMAND = (sys.executable, "-m", "caddisfly", "dev")


class Dev:
    """One `caddis dev` and a client for it."""

    def __init__(self, *options: str, **process: Any) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, "--port", "0", "--json", *options], stdout=subprocess.PIPE, text=True, **process
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, f"it ended with {self.process.wait()}"
        self.facts = json.loads(line)
        self.client = Client(self.facts["url"], token=self.facts["token"])

    def app(self, name: str = "demo") -> str:
        self.client.apps.create(name)
        return name

    def machine(self, app: str = "demo", *, act: str = "", image: str = "nginx", **options: Any) -> dict[str, Any]:
        """Once it has settled."""
        config = {"image": image, "restart": {"policy": "no"}, "metadata": {"caddis-dev": act} if act else {}}
        made = self.client.machines.create(app, config, **options)
        self.client.machines.wait(app, made["id"], "settled", timeout_s=20)
        return self.client.machines.get(app, made["id"])

    def end(self, number: int = signal.SIGTERM) -> int:
        self.client.close()
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            return self.process.wait(10)
        finally:
            self.process.kill()
            assert self.process.stdout is not None
            self.process.stdout.close()


@pytest.fixture
def start() -> Iterator[Callable[..., Dev]]:
    """Starts a `caddis dev` with options; each is ended."""
    made: list[Dev] = []

    def run(*options: str, **process: Any) -> Dev:
        made.append(Dev(*options, **process))
        return made[-1]

    yield run
    for dev in made:
        dev.end()


@pytest.fixture
def temporary() -> Iterator[Path]:
    """A directory for what is temporary, with a short name."""
    directory = Path(tempfile.mkdtemp(prefix="cd-"))
    directory.chmod(0o777)
    yield directory
    shutil.rmtree(directory)
