"""A real host: a real agent with a real runtime, network, image store and bus, in directories of its own."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.contract import AppRecord
from caddisfly.bus.projection import Projection
from caddisfly.bus.rpc import LocalCaller, Method
from caddisfly.bus.sealing import new_key
from caddisfly.host.images.build import write_busybox_image
from caddisfly.host.network import namespace
from caddisfly.host.network.network import Network
from caddisfly.host.settings import HostSettings
from caddisfly.model import ids
from caddisfly.model.errors import NotFound, Problem, Unavailable
from caddisfly.model.machine import Machine
from tests.conftest import NatsServer, eventually
from tests.leaks import TEST_DIRECTORY, traces

POOL = "10.211.0.0/16"
IMAGE = "caddisfly/busybox:test"
SECRETS_KEY = new_key()


class RunningAgent:
    """An agent process, with the verbs of its outages, and a way to talk to it."""

    def __init__(self, directory: Path, nats: NatsServer, **settings: Any) -> None:
        self.directory, self.nats = directory, nats
        self.settings = HostSettings(
            data_dir=directory / "data",
            run_dir=directory / "run",
            host_id="0a7b0018",
            bus_url=nats.url,
            ipv4_pool=POOL,
            root_size_mb=64,
            stop_grace_s=0.5,
            disk_floor_mb=64,
            **settings,
        )
        self.caller = LocalCaller(self.settings.socket)
        self.app = AppRecord(id="app0000000000001", name="demo", org_id="org1", org_slug="personal", network_id=7)
        self.process: subprocess.Popen[bytes] | None = None
        self._log = directory / "agent.log"
        self._made: set[str] = set()

    def start(self, *, die_at: str = "") -> None:
        """Start and wait until it answers. `die_at`, `before:<step>` or `after:<step>`, is where it is to be killed."""
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(self.command(die_at=die_at), stdout=log, stderr=log)
        asyncio.run(eventually(self._ready, timeout_s=60))

    def command(self, *, die_at: str = "") -> list[str]:
        """What starts the process."""
        record = self.settings.model_dump(mode="json") | {"bus_token": self.nats.token, "secrets_key": SECRETS_KEY}
        return [sys.executable, "-c", _PROGRAM, json.dumps(record), die_at]

    async def _ready(self) -> bool:
        assert self.process is not None
        assert self.process.poll() is None, self.log[-4000:]
        try:
            await self.ask(contract.HOST_STATUS, contract.Nothing())
        except Problem:
            return False
        return True

    def kill(self) -> None:
        """As the kernel kills: no warning."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        assert self.process.wait(timeout=30) == 0, self.log[-4000:]

    async def restarted(self, *, die_at: str = "") -> None:
        """Start again from within a test."""
        await asyncio.to_thread(self.start, die_at=die_at)

    async def died(self) -> None:
        """Wait until it has been killed at its step."""
        assert self.process is not None
        assert await asyncio.to_thread(self.process.wait, 30) == -signal.SIGKILL, self.log[-4000:]

    async def ask(self, method: Method[Any, Any], request: Any, *, timeout_s: float = 0) -> Any:
        if isinstance(request, contract.CreateMachine):
            self._made.add(request.machine_id)
        return await self.caller.call(method, request, timeout_s=timeout_s)

    async def create(self, *command: str, name: str = "", app: AppRecord | None = None, **config: Any) -> Machine:
        """A Machine that runs a shell command line, or sleeps."""
        request = self.request(*command, name=name, app=app, **config)
        return Machine.from_record((await self.ask(contract.CREATE_MACHINE, request)).record)

    def request(
        self, *command: str, name: str = "", app: AppRecord | None = None, **config: Any
    ) -> contract.CreateMachine:
        skip = config.pop("skip_launch", False)
        init = {"exec": ["/bin/sh", "-c", " ".join(command) or "while :; do sleep 1; done"]}
        return contract.CreateMachine(
            machine_id=ids.machine_id(),
            app=app or self.app,
            name=name or ids.generated_name(),
            config={"image": IMAGE, "init": init, **config},
            region=self.settings.region,
            skip_launch=skip,
        )

    async def ask_in_vain(self, method: Method[Any, Any], request: Any) -> bool:
        """Ask an agent that may be killed before it answers. Whether it did."""
        try:
            await self.ask(method, request)
        except Unavailable:
            return False
        return True

    async def shell(self, machine: Machine, line: str, *, timeout_s: float = 10) -> contract.ExecReply:
        reply: contract.ExecReply = await self.ask(
            contract.EXEC_MACHINE,
            contract.ExecMachine(machine_id=machine.id, command=("/bin/sh", "-c", line), timeout_s=timeout_s),
        )
        return reply

    async def clear(self) -> None:
        """Destroy every Machine through the agent itself, so that what it leaves is a finding."""
        for id in self._made:
            await eventually(lambda id=id: self._gone(id), timeout_s=30)
        self._made.clear()

    async def _gone(self, machine_id: str) -> bool:
        try:
            await self.ask(contract.DESTROY_MACHINE, contract.DestroyMachine(machine_id=machine_id, force=True))
        except NotFound:
            return True
        return False

    @property
    def log(self) -> str:
        return self._log.read_text()


_PROGRAM = """
import logging, os, signal, sys
from caddisfly.host.agent import main
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.operations.steps import STEPS
from caddisfly.host.settings import HostSettings

when, _, name = sys.argv[2].partition(":")
if name:
    step = STEPS[name]

    async def deadly(work):
        if when == "after":
            await step(work)
        os.kill(os.getpid(), signal.SIGKILL)

    STEPS[name] = deadly

logging.basicConfig(level="INFO", format="%(asctime)s %(levelname)s %(message)s")
main(HostSettings.model_validate_json(sys.argv[1]), ImageSettings(store_size_gb=4, min_free_mb=64))
"""


@contextmanager
def running_agent(nats: NatsServer, busybox: Path, **settings: Any) -> Iterator[RunningAgent]:
    """An agent of its own, taken down to the last trace."""
    # Not under pytest's own directory: the paths of Unix sockets are short, and roots must be reachable by any uid.
    directory = Path(tempfile.mkdtemp(prefix=TEST_DIRECTORY))
    directory.chmod(0o755)
    agent = RunningAgent(directory, nats, **settings)
    agent.start()
    try:
        asyncio.run(agent.ask(contract.IMPORT_IMAGE, contract.ImportImage(path=str(busybox), name=IMAGE)))
        yield agent
    finally:
        if agent.process is not None and agent.process.poll() is None:
            agent.stop()
        subprocess.run(["umount", agent.settings.data_dir / "images" / "fs"], check=False, capture_output=True)
        Network(pool=POOL).close()
        shutil.rmtree(directory)


class Watcher:
    """Sees Machines as every other process does: through the catalog."""

    def __init__(self, projection: Projection) -> None:
        self.projection = projection

    async def until(
        self, machine: Machine | str, condition: Callable[[Machine], bool] | str, *, timeout_s: float = 40
    ) -> Machine:
        id = machine if isinstance(machine, str) else machine.id

        def seen() -> Machine | None:
            now = self.projection.machines.get(id)
            if now is None:
                return None
            met = now.state == condition if isinstance(condition, str) else condition(now)
            return now if met else None

        try:
            found: Machine = await eventually(seen, timeout_s=timeout_s)
        except AssertionError:
            now = self.projection.machines.get(id)
            events = [(event.type, event.status, event.request) for event in now.events[:4]] if now else []
            raise AssertionError(f"{id} is {now.state if now else 'not there'} after {timeout_s} s: {events}") from None
        return found


@pytest.fixture(scope="session")
def busybox(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The busybox-only image, about 1 MB, as an OCI layout."""
    path = tmp_path_factory.mktemp("busybox") / "layout"
    write_busybox_image(path)
    return path


@pytest.fixture(scope="package")
def shared_nats(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    nats = NatsServer(tmp_path_factory.mktemp("nats"))
    nats.start()
    yield nats
    nats.kill()


@pytest.fixture(scope="package")
def shared_agent(shared_nats: NatsServer, busybox: Path) -> Iterator[RunningAgent]:
    # Of this package only: a computer has one agent, and other packages start platforms of their own.
    before = traces()
    with running_agent(shared_nats, busybox) as agent:
        yield agent
    left = traces() - before
    assert not left, "\n".join(sorted(left))


@pytest.fixture
async def agent(shared_agent: RunningAgent) -> AsyncIterator[RunningAgent]:
    """The host that tests share. Each takes down its Machines, and fails on what they leave."""
    before = traces()
    yield shared_agent
    if shared_agent.process is None or shared_agent.process.poll() is not None:
        await shared_agent.restarted()
    await shared_agent.clear()
    try:
        # The kernel takes links and namespaces apart a moment after their names are gone.
        await eventually(lambda: not traces() - before, timeout_s=5)
    except AssertionError:
        raise AssertionError("\n".join(sorted(traces() - before))) from None


@pytest.fixture
async def doomed(agent: RunningAgent) -> AsyncIterator[RunningAgent]:
    """The shared agent, put back to an undisturbed one."""
    yield agent
    assert agent.process is not None
    if agent.process.poll() is not None:
        await agent.restarted()


@pytest.fixture
async def watcher(shared_nats: NatsServer) -> AsyncIterator[Watcher]:
    bus = Bus(url=shared_nats.url, token=shared_nats.token, name="watcher")
    bus.open()
    projection = Projection(bus)
    projection.start()
    await eventually(projection.ready.is_set)
    yield Watcher(projection)
    await projection.stop()
    await bus.close()


def pid_of(agent: RunningAgent, machine: Machine) -> int:
    """The host's number of a Machine's first process."""
    return int((agent.settings.run_dir / "sandboxes" / machine.run_id / "pid").read_text())


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[:1]


def namespaces() -> set[str]:
    return {entry.name for entry in namespace.DIRECTORY.iterdir()}
