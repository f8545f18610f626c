"""The tools that people push and pull with, as they are: skopeo, buildah, podman and docker.

Each makes an image of its own, so that every blob is really uploaded, pushes it, and pulls back what another pushed.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.images.build import busybox_layer, write_busybox_image
from tests.conftest import eventually
from tests.registry.conftest import APP, FOREIGN_TOKEN, OTHER_APP, TOKEN, Served, sha

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="these tools store images as root here")


class Tool:
    """Commands, run beside the loop that serves them."""

    def __init__(self, directory: Path, host: str) -> None:
        self.directory, self.host = directory, host
        self.log_in(TOKEN)

    def log_in(self, token: str) -> None:
        pair = base64.b64encode(f"x:{token}".encode()).decode()
        config = json.dumps({"auths": {self.host: {"auth": pair}}})
        (self.directory / "docker").mkdir(exist_ok=True)
        for name in ("auth.json", "docker/config.json"):
            (self.directory / name).write_text(config)

    async def fails(self, *words: str) -> str:
        """Run one that must fail. What it said."""
        done = await self._run(*words)
        assert done.returncode != 0, done.stdout
        return done.stdout + done.stderr

    async def __call__(self, *words: str) -> str:
        done = await self._run(*words)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout.strip()

    async def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
            "REGISTRY_AUTH_FILE": str(self.directory / "auth.json"),
            "DOCKER_CONFIG": str(self.directory / "docker"),
        }
        return await asyncio.to_thread(
            subprocess.run, words, capture_output=True, text=True, timeout=120, check=False, env=environment
        )


@pytest.fixture
def tool(served: Served) -> Iterator[Tool]:
    with tempfile.TemporaryDirectory(prefix="tool-") as name:  # podman wants short paths
        directory = Path(name)
        write_busybox_image(directory / "layout")
        yield Tool(directory, served.host)


@pytest.fixture
def root_tar(tmp_path: Path) -> Path:
    """A root file system as a tar: what `import` makes an image of."""
    path = tmp_path / "root.tar"
    path.write_bytes(busybox_layer())
    assert tarfile.is_tarfile(path)
    return path


async def whole(served: Served, tag: str, *, app: str = APP) -> dict[str, Any]:
    """The manifest of a tag, after every blob of it was read and held to its digest."""
    answer = await served.http.get(f"/v2/{app}/manifests/{tag}")
    assert answer.status_code == 200, answer.text
    document: dict[str, Any] = answer.json()
    for entry in (document["config"], *document["layers"]):
        blob = await served.http.get(f"/v2/{app}/blobs/{entry['digest']}")
        assert (sha(blob.content), len(blob.content)) == (entry["digest"], entry["size"])
    return document


async def pushed_by_skopeo(served: Served, tool: Tool) -> dict[str, Any]:
    source = f"oci:{tool.directory / 'layout'}"
    await tool("skopeo", "copy", "--dest-tls-verify=false", source, f"docker://{served.host}/{APP}:base")
    return await whole(served, "base")


async def test_skopeo(served: Served, tool: Tool) -> None:
    document = await pushed_by_skopeo(served, tool)
    image = f"docker://{served.host}/{APP}"
    target = tool.directory / "back"
    await tool("skopeo", "copy", "--src-tls-verify=false", f"{image}:base", f"oci:{target}")
    index = json.loads((target / "index.json").read_text())
    manifest = target / "blobs" / "sha256" / index["manifests"][0]["digest"].removeprefix("sha256:")
    assert json.loads(manifest.read_text())["layers"] == document["layers"]
    # To another repository: the blobs are mounted, or found, and not sent again.
    words = ("--src-tls-verify=false", "--dest-tls-verify=false", f"{image}:base")
    await tool("skopeo", "copy", *words, f"docker://{served.host}/{OTHER_APP}:copied")
    assert await whole(served, "copied", app=OTHER_APP) == document
    await tool("skopeo", "copy", "--format=v2s2", "--dest-compress-format=zstd", *words, f"{image}:docker-format")
    await tool("skopeo", "copy", "--dest-compress-format=zstd", *words, f"{image}:zstd")
    listed = json.loads(await tool("skopeo", "list-tags", "--tls-verify=false", image))
    assert listed["Tags"] == ["base", "docker-format", "zstd"]
    shown = json.loads(await tool("skopeo", "inspect", "--tls-verify=false", f"{image}:base"))
    assert shown["Layers"] == [layer["digest"] for layer in document["layers"]]
    await tool("skopeo", "delete", "--tls-verify=false", f"{image}:base")
    assert (await served.http.get(f"/v2/{APP}/manifests/base")).status_code == 404


@pytest.mark.parametrize("name", ["buildah", "podman"])
async def test_buildah_and_podman(served: Served, tool: Tool, root_tar: Path, name: str) -> None:
    await pushed_by_skopeo(served, tool)
    program = (name, "--root", f"{tool.directory}/c", "--runroot", f"{tool.directory}/r", "--storage-driver", "vfs")
    image = f"{served.host}/{APP}"
    if name == "podman":
        await tool(*program, "import", str(root_tar), "made")
    else:
        container = await tool(*program, "from", "scratch")
        await tool(*program, "add", container, str(root_tar), "/")
        await tool(*program, "commit", container, "made")
    await tool(*program, "push", "--tls-verify=false", "made", f"docker://{image}:{name}")
    assert (await whole(served, name))["layers"]
    await tool(*program, "push", "--tls-verify=false", "--format=v2s2", "made", f"docker://{image}:{name}-docker")
    assert (await whole(served, f"{name}-docker"))["mediaType"].startswith("application/vnd.docker.")
    await tool(*program, "pull", "--tls-verify=false", f"docker://{image}:base")
    assert f"{image}" in await tool(*program, "images")
    tool.log_in(FOREIGN_TOKEN)
    said = await tool.fails(*program, "push", "--tls-verify=false", "made", f"docker://{image}:stolen")
    assert "name unknown" in said
    assert "create it first" in said


@pytest.fixture
def dockerd(tool: Tool) -> Iterator[str]:
    """A daemon of our own, without any network: it only pushes and pulls."""
    program = shutil.which("dockerd", path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    assert program, "scripts/setup --test installs docker.io"
    directory = tool.directory / "dockerd"
    directory.mkdir()
    socket = f"unix://{directory}/sock"
    with (directory / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                program,
                f"--data-root={directory}/data",
                f"--exec-root={directory}/exec",
                f"--pidfile={directory}/pid",
                f"--host={socket}",
                "--bridge=none",
                "--iptables=false",
                "--ip-forward=false",
                "--ip-masq=false",
                "--storage-driver=vfs",
            ],
            stdout=log,
            stderr=log,
        )
    try:
        yield socket
    finally:
        process.terminate()
        process.wait(timeout=30)


async def test_docker(served: Served, tool: Tool, root_tar: Path, dockerd: str) -> None:
    await pushed_by_skopeo(served, tool)
    docker = ("docker", "--host", dockerd)
    image = f"{served.host}/{APP}"

    async def ready() -> bool:
        return (await tool._run(*docker, "version")).returncode == 0

    await eventually(ready, timeout_s=30, every_s=0.1)
    assert "Login Succeeded" in await tool(*docker, "login", "-u", "x", "-p", TOKEN, served.host)
    assert "401 Unauthorized" in await tool.fails(*docker, "login", "-u", "x", "-p", "wrong", served.host)
    tool.log_in(TOKEN)
    await tool(*docker, "import", str(root_tar), f"{image}:docker")
    await tool(*docker, "push", f"{image}:docker")
    assert (await whole(served, "docker"))["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"
    await tool(*docker, "tag", f"{image}:docker", f"{served.host}/{OTHER_APP}:mounted")
    assert "Mounted from" in await tool(*docker, "push", f"{served.host}/{OTHER_APP}:mounted")
    await tool(*docker, "rmi", f"{image}:docker", f"{served.host}/{OTHER_APP}:mounted")
    for tag in ("docker", "base"):
        await tool(*docker, "pull", f"{image}:{tag}")
    tool.log_in(FOREIGN_TOKEN)
    assert "not there" in await tool.fails(*docker, "push", f"{image}:docker")
