"""Control, simulated hosts and the bus between them, in one process and on one event loop.

Everything here is what a real platform runs, but for the two things that would need a server or root: the bus is one
of memory, and the hosts are made up. One process because there is nothing to protect from anything: it starts in one
go, and ends in one go; what a kill leaves behind, a directory, is removed by the next start.
"""

from __future__ import annotations

import asyncio
import fcntl
import logging
import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path

import uvicorn
from pydantic import SecretStr

from caddisfly.bus.connection import Bus
from caddisfly.bus.memory import Exchange, MemoryClient
from caddisfly.control import bootstrap, server
from caddisfly.control.control import Control
from caddisfly.control.rest import api
from caddisfly.control.settings import ControlSettings
from caddisfly.dev.options import HostOption, Options
from caddisfly.host.agent import Agent
from caddisfly.host.lock import HeldError, hold
from caddisfly.host.settings import HostSettings
from caddisfly.host.simulation import Fate, SimulatedComputer
from caddisfly.model.errors import FailedPrecondition, Unavailable
from caddisfly.up import identity, ports

log = logging.getLogger(__name__)

_PREFIX = "caddis-dev-"
_BEAT_S, _SILENCE_S = 0.25, 1.0
_READY_WITHIN_S = 20.0
_GRACE_S = 1
"""Seconds that requests under way have at the end: a wait may be a minute long."""


class Platform:
    """`url` and `token` are there once `start` has returned."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.url = self.token = ""
        self._exchange = Exchange()
        self._fate = Fate(chaos=options.chaos, images=options.images, seed=options.seed)
        self._clients: dict[str, MemoryClient] = {}
        self._restoring: dict[str, asyncio.TimerHandle] = {}
        self._agents: list[Agent] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: _Server | None = None
        self._serving: asyncio.Task[None] | None = None
        self._stack = ExitStack()
        self.control: Control

    async def start(self) -> None:
        """Raises `FailedPrecondition` when the port or the data directory is taken."""
        try:
            await self._start()
        except BaseException:
            await self.stop()
            raise

    async def _start(self) -> None:
        listener = self._stack.enter_context(_listener(self.options.listen, self.options.port))
        self._directory = self._stack.enter_context(_temporary())
        data_dir = self.options.data_dir or self._directory
        if self.options.data_dir is not None:
            self._stack.enter_context(_claimed(data_dir))
        settings = self._control_settings(data_dir)
        self.token = await _token(settings, data_dir / "token")
        self.control = control = Control(settings, bus=self._bus("control"))
        agents = [self._agent(host, data_dir) for host in self.options.hosts]
        await asyncio.gather(*(agent.start() for agent in agents))
        await control.start()
        self._server = _Server(server.listening(api.build(control), grace_s=_GRACE_S, lifespan="off"))
        self._serving = asyncio.create_task(self._server.serve(sockets=[listener]), name="rest")
        self.url = f"http://{_reachable(self.options.listen)}:{listener.getsockname()[1]}"
        await self._until_ready()

    async def stop(self) -> None:
        for timer in self._restoring.values():
            timer.cancel()
        if self._server is not None and self._serving is not None:
            self._server.should_exit = True
            await self._serving
        if hasattr(self, "control"):
            await self.control.stop()
        await asyncio.gather(*(agent.stop() for agent in self._agents))
        self._agents.clear()
        await asyncio.to_thread(self._stack.close)

    def lose(self, host_id: str, seconds: float) -> None:
        """Take a host away for so long. What runs on it runs on, and is known again when it is back."""
        client = self._clients[host_id]
        loop = asyncio.get_running_loop()
        if (timer := self._restoring.get(host_id)) is not None:
            timer.cancel()
        client.cut()
        log.warning("dev.host_lost", extra={"host": host_id, "seconds": seconds})
        self._restoring[host_id] = loop.call_later(seconds, self._restore, host_id)

    def _restore(self, host_id: str) -> None:
        task = asyncio.ensure_future(self._clients[host_id].restore())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        log.warning("dev.host_back", extra={"host": host_id})

    def _agent(self, host: HostOption, data_dir: Path) -> Agent:
        settings = HostSettings(
            data_dir=data_dir / "hosts" / host.id,
            run_dir=self._directory / host.id,
            host_id=host.id,
            host_name=f"simulated-{host.region}-{host.id[:4]}",
            region=host.region,
            disk_floor_mb=0,
            memory_reserve_mb=0,
            beat_s=_BEAT_S,
            secrets_key=_secrets_key(data_dir),
        )
        computer = SimulatedComputer(
            settings,
            fate=self._fate,
            cpus=self.options.cpus,
            memory_mb=self.options.memory_mb,
            lose=lambda seconds: self.lose(host.id, seconds),
        )
        agent = Agent(settings, computer, bus=self._bus(host.id))
        self._agents.append(agent)
        return agent

    def _bus(self, name: str) -> Bus:
        self._clients[name] = client = self._exchange.client()
        return Bus(url="memory", token="", name=name, client=client)

    def _control_settings(self, data_dir: Path) -> ControlSettings:
        return ControlSettings(
            data_directory=data_dir / "control",
            region=self.options.regions[0],
            host_silence_s=_SILENCE_S,
            standby_after_s=_SILENCE_S / 2,
            shutdown_grace_s=_GRACE_S,
            secrets_key=_secrets_key(data_dir),
        )

    async def _until_ready(self) -> None:
        assert self._server is not None
        try:
            async with asyncio.timeout(_READY_WITHIN_S):
                # Two parts that tell nobody when they are there, asked during one start only.
                while not (self._server.started and len(self.control.hosts.up) == len(self._agents)):  # noqa: ASYNC110
                    await asyncio.sleep(0.002)
        except TimeoutError:
            raise Unavailable(
                "the simulated hosts did not come up",
                why=f"not within {_READY_WITHIN_S:g} s",
                next="report this as a bug",
            ) from None


class _Server(uvicorn.Server):
    """Leaves signals to whoever owns the process."""

    capture_signals = nullcontext  # type: ignore[assignment] # called without arguments


async def _token(settings: ControlSettings, file: Path) -> str:
    """The admin's token: made at the first start, kept beside the data for the next."""
    file.parent.mkdir(parents=True, exist_ok=True)
    token = await bootstrap.first_run(settings)
    if token is None:
        try:
            return file.read_text().strip()
        except FileNotFoundError as error:
            raise FailedPrecondition(
                f"{file} is gone", why="the token of this data directory is only there", next="use another --data-dir"
            ) from error
    file.touch(mode=0o600)
    file.write_text(f"{token}\n")
    return token


@contextmanager
def _listener(host: str, port: int) -> Iterator[socket.socket]:
    """Raises `FailedPrecondition` naming who has the port."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, port))
            listener.listen(1024)
        except OSError as error:
            holder = ports.holder_of(port) if port else ""
            raise FailedPrecondition(
                f"port {port} on {host} cannot be listened on",
                why=f"{holder} listens there" if holder else error.strerror or str(error),
                next="choose another one with --port, or any free one with --port 0, and an address of this computer",
            ) from error
        yield listener


def _reachable(host: str) -> str:
    """Where to knock for a listener on this address, as a URL has it."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
    return f"[{host}]" if ":" in host else host


def _secrets_key(data_dir: Path) -> SecretStr:
    return SecretStr(identity.secrets_key(data_dir, None))


@contextmanager
def _temporary() -> Iterator[Path]:
    # Not below TMPDIR when that is long: the paths of Unix sockets end at 107 characters.
    parent = Path(tempfile.gettempdir() if len(tempfile.gettempdir()) < 40 else "/tmp")
    _sweep(parent)
    directory = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=parent))
    try:
        # Locked before it has its name: whoever finds the name unlocked knows that its owner is gone.
        with (directory / "fresh").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            os.rename(directory / "fresh", directory / "lock")
            yield directory
    finally:
        shutil.rmtree(directory)


def _sweep(parent: Path) -> None:
    """Remove what platforms of ours that were killed have left."""
    for lock in parent.glob(f"{_PREFIX}*/lock"):
        try:
            with lock.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(lock.parent)
        except OSError as error:  # in use, somebody else's, or gone this very moment
            log.debug("dev.not_swept", extra={"directory": str(lock.parent), "reason": str(error)})


@contextmanager
def _claimed(directory: Path) -> Iterator[None]:
    """Be the only one who uses this data directory. Raises `FailedPrecondition`."""
    try:
        directory.mkdir(parents=True, exist_ok=True)
        file = hold(directory / "lock")
    except HeldError as other:
        raise FailedPrecondition(
            f"--data-dir {directory} is in use", why=f"process {other} has it", next="choose another"
        ) from None
    except OSError as error:
        raise FailedPrecondition(
            f"--data-dir {directory} cannot be used", why=str(error), next="choose a directory that you may write to"
        ) from error
    with file:
        yield
