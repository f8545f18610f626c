"""A real agent that builds with a real buildah, and a registry to pull from and push to."""

from __future__ import annotations

import asyncio
import json
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.bus.contract import AppRecord
from caddisfly.host.images.build import write_busybox_image
from caddisfly.host.network.network import Network
from tests.builds.factories import write_context
from tests.builds.registry import PushRegistry
from tests.conftest import NatsServer, eventually
from tests.host.conftest import POOL, RunningAgent, shared_nats
from tests.leaks import TEST_DIRECTORY, traces

__all__ = ["shared_nats"]

ENDED = ("done", "failed", "cancelled", "interrupted")
DISK_GB = 1


class BuildingAgent(RunningAgent):
    """An agent whose contexts come from a directory and whose results go to a registry of the test's own."""

    def __init__(self, directory: Path, nats: NatsServer, registry: PushRegistry, builds: dict[str, Any]) -> None:
        super().__init__(directory, nats)
        self.registry, self.builds = registry, builds
        self.contexts = directory / "contexts"
        self.contexts.mkdir()

    def command(self, *, die_at: str = "") -> list[str]:
        record = self.settings.model_dump(mode="json") | {"bus_token": self.nats.token}
        rest = json.dumps({"builds": self.builds, "registry": self.registry.address, "contexts": str(self.contexts)})
        return [sys.executable, "-c", _PROGRAM, json.dumps(record), rest]

    async def build(
        self,
        dockerfile: str,
        *,
        files: dict[str, str] | None = None,
        links: dict[str, str] | None = None,
        app: AppRecord | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """Start a build; how it is shown."""
        content = files or {"a.txt": "hello\n"}
        digest = write_context(self.contexts, content, dockerfile=dockerfile, links=links)
        request = contract.StartBuild(build_id=secrets.token_hex(7), app=app or self.app, context=digest, **more)
        return dict((await self.ask(contract.START_BUILD, request)).build)

    async def show(self, build: dict[str, Any], *, app: AppRecord | None = None) -> dict[str, Any]:
        call = contract.BuildCall(build_id=build["id"], app_id=(app or self.app).id)
        return dict((await self.ask(contract.SHOW_BUILD, call)).build)

    async def cancel(self, build: dict[str, Any]) -> dict[str, Any]:
        call = contract.BuildCall(build_id=build["id"], app_id=self.app.id)
        return dict((await self.ask(contract.CANCEL_BUILD, call)).build)

    async def ended(
        self, build: dict[str, Any], *, app: AppRecord | None = None, timeout_s: float = 90
    ) -> dict[str, Any]:
        async def over() -> dict[str, Any] | None:
            now = await self.show(build, app=app)
            return now if now["state"] in ENDED else None

        found: dict[str, Any] = await eventually(over, timeout_s=90, every_s=0.05)
        return found

    async def built(self, dockerfile: str, *, app: AppRecord | None = None, **more: Any) -> dict[str, Any]:
        """Build and wait. Fails with the log when it did not come out well."""
        build = await self.ended(await self.build(dockerfile, app=app, **more), app=app)
        assert build["state"] == "done", (build["failure"], await self.output(build, app=app))
        return build

    async def log_lines(self, build: dict[str, Any], *, app: AppRecord | None = None) -> list[dict[str, Any]]:
        lines, offset = [], 0
        while True:
            page = await self.ask(
                contract.READ_BUILD_LOG,
                contract.ReadBuildLog(build_id=build["id"], app_id=(app or self.app).id, offset=offset),
            )
            if not page.lines:
                return lines
            lines += page.lines
            offset = page.next_offset

    async def output(self, build: dict[str, Any], *, app: AppRecord | None = None) -> str:
        return "\n".join(line["message"] for line in await self.log_lines(build, app=app) if line["kind"] == "output")

    async def printed(self, build: dict[str, Any], text: str) -> None:
        """Wait until it has printed this."""

        async def seen() -> bool:
            return text in await self.output(build)

        await eventually(seen, timeout_s=30, every_s=0.05)


_PROGRAM = """
import json, logging, sys
from pathlib import Path
from caddisfly.host.agent import main
from caddisfly.host.builds.buildah import Destination
from caddisfly.host.builds.contexts import Directory
from caddisfly.host.builds.settings import BuildSettings
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.settings import HostSettings

logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
rest = json.loads(sys.argv[2])
mirrors = {"docker.io": f"http://{rest['registry']}"}
main(
    HostSettings.model_validate_json(sys.argv[1]),
    ImageSettings(store_size_gb=2, min_free_mb=64, mirrors=mirrors),
    builds=BuildSettings.model_validate(rest["builds"]),
    registry=Destination(names=("registry.localhost",), address=rest["registry"]),
    repositories=Directory(Path(rest["contexts"])),
)
"""


@contextmanager
def building_agent(nats: NatsServer, registry: PushRegistry, **builds: Any) -> Iterator[BuildingAgent]:
    """An agent of its own, taken down to the last trace."""
    directory = Path(tempfile.mkdtemp(prefix=TEST_DIRECTORY))
    directory.chmod(0o755)
    values = {"disk_gb": DISK_GB, "cache_gb": 1, "caches_gb": 4, "min_free_mb": 64, "memory_mb": 512, **builds}
    agent = BuildingAgent(directory, nats, registry, values)
    agent.start()
    try:
        yield agent
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.stop()
        for part in ("images", "builds"):
            subprocess.run(["umount", agent.settings.data_dir / part / "fs"], check=False, capture_output=True)
        Network(pool=POOL).close()
        shutil.rmtree(directory)


@pytest.fixture(scope="package")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PushRegistry]:
    layout = tmp_path_factory.mktemp("base") / "layout"
    write_busybox_image(layout)
    server = PushRegistry()
    server.serve_layout(layout, "library/busybox:latest")
    yield server
    server.close()


class Service:
    """Something on the host's loopback that answers one line to whoever comes."""

    def __init__(self, answer: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._socket.getsockname()[1]
        self.seen = 0

        def serve() -> None:
            while True:
                try:
                    peer, _ = self._socket.accept()
                except OSError:
                    return
                self.seen += 1
                with peer:
                    peer.sendall(answer)

        threading.Thread(target=serve, daemon=True).start()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


@pytest.fixture(scope="package")
def proxy() -> Iterator[Service]:
    """A service of the host's loopback that the operator lets builds use."""
    service = Service(b"index of packages\n")
    yield service
    service.close()


@pytest.fixture(scope="package")
def private() -> Iterator[Service]:
    """One that they may not use."""
    service = Service(b"of the host\n")
    yield service
    service.close()


@pytest.fixture(scope="package")
def shared_agent(shared_nats: NatsServer, registry: PushRegistry, proxy: Service) -> Iterator[BuildingAgent]:
    before = traces()
    settings = {
        "forward": [f"8081:{proxy.port}"],
        "env": {"PIP_INDEX_URL": "http://127.0.0.1:8081/simple", "ODD": 'a "b" & c|d\\e'},
        "mounts": ["/etc/debian_version:/etc/shown-by-the-operator"],
        "pids": 96,
    }
    with building_agent(shared_nats, registry, **settings) as agent:
        yield agent
    left = traces() - before
    assert not left, "\n".join(sorted(left))


@pytest.fixture
async def agent(shared_agent: BuildingAgent) -> AsyncIterator[BuildingAgent]:
    """The host that tests share; each fails on what its builds leave."""
    before = traces()
    yield shared_agent
    assert shared_agent.process is not None
    if shared_agent.process.poll() is not None:
        await asyncio.to_thread(shared_agent.start)
    await shared_agent.clear()
    try:
        await eventually(lambda: not traces() - before, timeout_s=10)
    except AssertionError:
        raise AssertionError("\n".join(sorted(traces() - before))) from None


def another_app(name: str = "other", *, org: str = "org2", network_id: int = 8) -> AppRecord:
    return AppRecord(id=f"id-of-{name}", name=name, org_id=org, org_slug=org, network_id=network_id)
