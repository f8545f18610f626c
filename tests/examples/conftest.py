"""One platform for all examples: launched there side by side, then asked for their pages."""

from __future__ import annotations

import http.client
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from caddisfly.host.images import kernel
from tests.examples import bases, packages
from tests.examples.bases import ROOT
from tests.up.test_up import Box

KEPT = Path(tempfile.gettempdir()) / "caddisfly-example-bases"
"""What takes long to make, and does not change."""


class Examples(Box):
    """A platform whose Docker Hub and whose index of packages are this computer's."""

    def __init__(self, directory: Path, *, mirror: str, index: packages.Index) -> None:
        super().__init__(directory)
        text = self.file.read_text().replace("store_size_gb = 2", "store_size_gb = 6")
        self.file.write_text(
            f'{text}mirrors = {{ "docker.io" = "http://{mirror}" }}\n'
            f'[builds]\ncpu_share = 1000\nforward = ["{index.port}"]\nenv = {{ PIP_INDEX_URL = "{index.url}" }}\n'
        )
        self.launched: dict[str, subprocess.CompletedProcess[str]] = {}

    def launch(self, example: str, *flags: str) -> subprocess.CompletedProcess[str]:
        """As somebody would who has a copy of it."""
        folder = self.directory / example
        shutil.copytree(ROOT / "examples" / example, folder, ignore=shutil.ignore_patterns("__pycache__"))
        done = self.caddis("launch", str(folder), "--now", "--ha=false", *flags)
        self.launched[example] = done
        return done

    def page(self, app: str, path: str = "/") -> tuple[int, str]:
        """Through the edge."""
        connection = http.client.HTTPConnection("127.0.0.1", self.ports["edge"], timeout=30)
        try:
            connection.request("GET", path, headers={"host": f"{app}.localhost"})
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def logs(self, app: str) -> str:
        return self.caddis("logs", "-a", app, "-n").stdout


@pytest.fixture(scope="package")
def examples() -> Iterator[Examples]:
    """All of them, launched. In a directory that everybody may enter: what builds runs as a user of its own."""
    KEPT.mkdir(exist_ok=True)
    wheels = KEPT / "wheels"
    with ThreadPoolExecutor(2) as pool:
        fetching = pool.submit(packages.fetched, wheels, sorted((ROOT / "examples").glob("*/requirements.txt")))
        mirror = bases.mirror(KEPT)
        fetching.result()
    index = packages.Index(wheels)
    directory = Path(tempfile.mkdtemp(prefix="caddis-examples-"))
    directory.chmod(0o755)
    box = Examples(directory, mirror=mirror.address, index=index)
    try:
        up = box.caddis("up", "--detach")
        assert up.returncode == 0, up.stderr
        with ThreadPoolExecutor(3) as pool:  # they are built one by one, and watched side by side
            django = pool.submit(_with_its_database, box)
            others = [
                pool.submit(box.launch, name) for name in ("fastapi", "flask-worker", "node", "groups", "dockerfile")
            ]
            for one in (django, *others):
                one.result()
        yield box
    finally:
        box.caddis("down")
        for point, _ in reversed(kernel.mounts_below(directory)):
            kernel.unmount(point)
        shutil.rmtree(directory)
        mirror.close()
        index.close()


def _with_its_database(box: Examples) -> None:
    done = box.launch("postgres", "--secret", "POSTGRES_PASSWORD=open-sesame")
    assert done.returncode == 0, done.stdout + done.stderr
    machines = box.caddis("machine", "list", "-a", "postgres", "--json").stdout
    address = json.loads(machines)[0]["private_ip"]
    box.launch("django", "--secret", f"DATABASE_URL=postgres://postgres:open-sesame@[{address}]:5432/postgres")


def can_run() -> bool:
    return os.geteuid() == 0 and shutil.which("buildah") is not None and shutil.which("mmdebstrap") is not None
