"""From a folder to a Machine that runs it: laptop, registry, builder and host as an operator has them."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from caddisfly.host.images import kernel
from tests.up.conftest import wait_until
from tests.up.test_up import Box

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("buildah") is None, reason="a platform that builds needs root and buildah"
)

DOCKERFILE = """FROM scratch
COPY busybox /bin/busybox
COPY . /src/
RUN --mount=type=secret,id=key ["/bin/busybox", "sh", "-c", "/bin/busybox cut -c 1-3 /run/secrets/key"]
CMD ["/bin/busybox", "cat", "/src/hello.txt"]
"""


@pytest.fixture
def box() -> Iterator[Box]:
    """In a directory that everybody may enter: what builds runs as a user of its own."""
    directory = Path(tempfile.mkdtemp(prefix="caddis-build-"))
    directory.chmod(0o755)
    made = Box(directory)
    try:
        yield made
    finally:
        made.caddis("down")
        for point, _ in reversed(kernel.mounts_below(directory)):  # a host keeps its stores mounted
            kernel.unmount(point)
        shutil.rmtree(directory)


def test_a_folder_is_built_and_runs_and_a_changed_line_costs_little(box: Box) -> None:
    project = box.directory / "project"
    project.mkdir()
    shutil.copy("/bin/busybox", project / "busybox")
    (project / "hello.txt").write_text("hello\n")
    (project / "Dockerfile").write_text(DOCKERFILE)
    (project / ".dockerignore").write_text("Dockerfile\n.dockerignore\n")
    (project / "fly.toml").write_text('app = "hello"\n')
    up = box.caddis("up", "--detach")
    assert up.returncode == 0, up.stderr
    assert box.caddis("apps", "create", "hello").returncode == 0
    command = ("build", str(project), "--build-secret", "key=s3cret", "--tag")

    first = box.caddis(*command, "v1")
    assert first.returncode == 0, first.stderr
    assert first.stdout.startswith("image   registry.localhost/hello:v1\n")
    assert "Sent: 2 of 2 packs" in first.stderr
    assert "\ns3c\n" in first.stderr

    (project / "hello.txt").write_text("changed\n")
    second = box.caddis(*command, "v2")
    assert second.returncode == 0, second.stderr
    assert "Sent: 1 of 2 packs" in second.stderr
    assert "[2/5] cached" in second.stderr
    assert "[3/5] cached" not in second.stderr

    ran = box.caddis("machine", "run", "registry.localhost/hello:v2", "-a", "hello", "--restart", "no")
    assert ran.returncode == 0, ran.stderr
    wait_until(lambda: box.caddis("logs", "-a", "hello", "-n").stdout.endswith("changed\n"))

    (project / "Dockerfile").write_text(
        DOCKERFILE + 'RUN ["/bin/busybox", "sh", "-c", "/bin/busybox echo why; exit 3"]\n'
    )
    third = box.caddis(*command, "v3")
    assert third.returncode == 1
    assert third.stdout == ""
    assert "failed with exit code 3" in third.stderr
    assert "\nWhy:   why\n" in third.stderr
