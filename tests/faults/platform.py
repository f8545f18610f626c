"""A whole platform as an operator runs it, with its outages as verbs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import httpx

from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import Projection
from caddisfly.control.records.accounts import Accounts
from caddisfly.control.records.database import Database
from caddisfly.host.images.build import write_busybox_image
from caddisfly.host.network.network import Network
from caddisfly.up import presence
from caddisfly.up.settings import load
from tests.conftest import eventually, free_port
from tests.leaks import TEST_DIRECTORY, traces
from tests.small_disk import SmallDisk, small_disk

IMAGE = "faults/busybox:1"
POOL = "10.213.0.0/16"
APP = "web"
SERVE = "mkdir -p /tmp/www && echo -n served > /tmp/www/index.html && exec httpd -f -p '[::]:8080' -h /tmp/www"
PARTS = ("bus", "control", "agent", "registry", "edge@0", "edge@1")


class Platform:
    """`kill`, `freeze`, `thaw` and `pid` take the name of a part, or `up` for the supervisor."""

    def __init__(self) -> None:
        # A short path that any uid may traverse: roots of Machines and Unix sockets live below it.
        self.directory = Path(tempfile.mkdtemp(prefix=TEST_DIRECTORY))
        self.directory.chmod(0o755)
        self.data_dir, self.run_dir = self.directory / "data", self.directory / "run"
        self.stack = ExitStack()
        self.ports = {name: free_port() for name in ("bus", "control", "registry", "edge")}
        self.file = self.directory / "caddisfly.toml"
        self.file.write_text(
            f'[platform]\ndata_dir = "{self.data_dir}"\nrun_dir = "{self.run_dir}"\nedge_workers = 2\n'
            f"[bus]\nport = {self.ports['bus']}\n"
            f"[control]\nlisten_port = {self.ports['control']}\n"
            f"[registry]\nport = {self.ports['registry']}\n"
            f'[edge]\nhttp_listen = ["127.0.0.1:{self.ports["edge"]}"]\ndrain_timeout_s = 2\nautostop_pass_s = 0.5\n'
            f'[images]\nstore_size_gb = 4\n[host]\nipv4_pool = "{POOL}"\nroot_size_mb = 64\nstop_grace_s = 0.5\n'
        )

    def cramp(self, part: str, *, megabytes: int) -> SmallDisk:
        """Give a part a small disk of its own, before `up`. Stores stay where there is room, and a host uses it up."""
        disk = self.stack.enter_context(small_disk(self.data_dir / part, megabytes=megabytes))
        if part == "host":
            self.file.write_text(self.file.read_text().replace("[host]\n", "[host]\ndisk_floor_mb = 0\n"))
            for name in ("images", "builds"):
                roomy, store = self.directory / name, disk.path / name
                roomy.mkdir()
                store.mkdir()
                subprocess.run(["mount", "--bind", str(roomy), str(store)], check=True)
                self.stack.callback(subprocess.run, ["umount", "--lazy", str(store)], check=True)
        return disk

    def caddis(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """A command, as a user of this platform types it."""
        kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
        kept |= {"HOME": str(self.directory), "CADDIS_CONFIG": str(self.file)}
        return subprocess.run(
            [sys.executable, "-m", "caddisfly", *words],
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
            env=kept | environment,
            cwd=self.directory,
        )

    async def command(self, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """The same while the loop goes on."""
        return await asyncio.to_thread(self.caddis, *words, **environment)

    def up(self) -> None:
        done = self.caddis("up", "--detach")
        assert done.returncode == 0, done.stderr

    def prepare(self) -> None:
        """An image and an app."""
        layout = self.directory / "layout"
        write_busybox_image(layout)
        for words in (("image", "import", str(layout), IMAGE), ("apps", "create", APP)):
            done = self.caddis(*words)
            assert done.returncode == 0, done.stderr

    def close(self) -> None:
        """Down to the last trace, whatever a test left."""
        for name in ("up", *PARTS):
            if self.pid(name):
                self.thaw(name)
        done = self.caddis("down")
        for store in ("images", "builds"):
            path = self.data_dir / "host" / store / "fs"
            subprocess.run(["umount", path], check=False, capture_output=True)
        Network(pool=POOL).close()
        self.stack.close()
        shutil.rmtree(self.directory)
        assert done.returncode == 0, done.stderr

    def _processes(self) -> dict[str, dict[str, Any]]:
        record = presence.read(self.run_dir)
        found = {part["name"]: part for part in record.get("parts", ())}
        return found | ({"up": {"state": "ready", **record["supervisor"]}} if "supervisor" in record else {})

    def pid(self, part: str) -> int:
        """0 when it does not run now."""
        found = self._processes().get(part, {})
        process = presence.Process(found.get("pid", 0), found.get("started", 0))
        return process.pid if process.pid and process.alive else 0

    def kill(self, part: str) -> int:
        """As the kernel kills: no warning. Returns the pid that it had."""
        return self._send(part, signal.SIGKILL)

    def freeze(self, part: str) -> None:
        self._send(part, signal.SIGSTOP)

    def thaw(self, part: str) -> None:
        self._send(part, signal.SIGCONT)

    def _send(self, part: str, number: int) -> int:
        pid = self.pid(part)
        assert pid, f"{part} does not run"
        os.kill(pid, number)
        return pid

    async def back(self, part: str, *, instead_of: int = 0) -> None:
        """Wait until a part is there and ready, as another process than before."""

        def there() -> bool:
            pid = self.pid(part)
            return bool(pid) and pid != instead_of and self._processes()[part]["state"] == "ready"

        await eventually(there, timeout_s=30, every_s=0.02)

    @property
    def token(self) -> str:
        return self.caddis("auth", "token").stdout.strip()

    @asynccontextmanager
    async def api(self) -> AsyncIterator[Api]:
        """The API as an HTTP client without any retries of its own."""
        base = f"http://127.0.0.1:{self.ports['control']}"
        token = await asyncio.to_thread(lambda: self.token)
        headers = {"authorization": f"Bearer {token}"}
        async with httpx.AsyncClient(base_url=base, headers=headers, timeout=60, trust_env=False) as http:
            yield Api(self, http)

    @asynccontextmanager
    async def catalog(self) -> AsyncIterator[Projection]:
        """The catalog as it stands on the bus, read anew."""
        token = (self.data_dir / "bus-token").read_text().strip()
        bus = Bus(url=f"nats://127.0.0.1:{self.ports['bus']}", token=token, name="test")
        bus.open()
        projection = Projection(bus)
        projection.start()
        try:
            await eventually(projection.ready.is_set)
            yield projection
        finally:
            await projection.stop()
            await bus.close()

    def machine_pid(self, record: dict[str, Any]) -> int:
        """The host's number of a Machine's first process; 0 when it has none."""
        for sandbox in self.sandboxes(record["id"]):
            try:
                return int((sandbox / "pid").read_text())
            except (FileNotFoundError, ValueError):  # it is being made, or taken down
                continue
        return 0

    def sandboxes(self, machine_id: str) -> list[Path]:
        """What the runtime's side knows of a Machine."""
        return sorted((self.run_dir / "sandboxes").glob(f"{machine_id}-*"))

    def log(self, part: str) -> str:
        return (self.data_dir / "logs" / f"{part}.log").read_text()

    async def token_of_another(self, slug: str, *, expires_ms: int | None = None) -> str:
        """A token of a tenant that is made here; the API has no calls for that yet."""
        settings = load(self.file, environment={}).control
        database = Database(settings.database(), timeout_s=5)
        try:
            accounts = Accounts(database)
            user = await accounts.create_user(f"{slug}@example.com")
            await accounts.create_organization(slug, name=slug, owner_id=user)
            _, secret = await accounts.create_token(name="test", user_id=user, expires_ms=expires_ms)
        finally:
            await database.close()
        return secret


class Api:
    """What tests ask of the API. Replies are checked; `http` is there for those who want to see errors."""

    def __init__(self, platform: Platform, http: httpx.AsyncClient) -> None:
        self.platform, self.http = platform, http

    async def create(self, name: str = "", *, line: str = SERVE, app: str = APP, **more: Any) -> dict[str, Any]:
        """A Machine behind the edge that serves, unless `line` says what else it runs."""
        service = {
            "protocol": "tcp",
            "internal_port": 8080,
            "autostart": True,
            "autostop": "off",
            "ports": [{"port": 80, "handlers": ["http"]}],
        }
        skip = more.pop("skip_launch", False)
        config = {"image": IMAGE, "init": {"exec": ["/bin/sh", "-c", line]}, "services": [service], **more}
        body = {"name": name, "config": config, "skip_launch": skip}
        reply = await self.http.post(f"/v1/apps/{app}/machines", json={k: v for k, v in body.items() if v})
        assert reply.status_code == 200, reply.text
        made: dict[str, Any] = reply.json()
        return made

    async def started(self, name: str = "", **more: Any) -> dict[str, Any]:
        """Created, started, and answering through the edge."""
        made = await self.create(name, **more)
        await self.state(made["id"], "started")
        await eventually(lambda: served(self.platform.ports["edge"]), timeout_s=20, every_s=0.05)
        return made

    async def get(self, id: str) -> dict[str, Any]:
        reply = await self.http.get(f"/v1/apps/{APP}/machines/{id}")
        assert reply.status_code == 200, reply.text
        found: dict[str, Any] = reply.json()
        return found

    async def state(self, id: str, state: str, *, timeout_s: float = 20) -> dict[str, Any]:
        """Wait for it."""

        async def reached() -> dict[str, Any] | None:
            found = await self.get(id)
            return found if found["state"] == state else None

        found: dict[str, Any] = await eventually(reached, timeout_s=timeout_s, every_s=0.05)
        return found

    async def list(self) -> list[dict[str, Any]]:
        reply = await self.http.get(f"/v1/apps/{APP}/machines")
        assert reply.status_code == 200, reply.text
        found: list[dict[str, Any]] = reply.json()
        return found

    async def stop(self, id: str) -> None:
        reply = await self.http.post(f"/v1/apps/{APP}/machines/{id}/stop")
        assert reply.status_code == 200, reply.text
        await self.state(id, "stopped")

    async def answers(self) -> bool:
        """Whether it can be asked about Machines, and knows of a host that is up."""
        try:
            listed = await self.http.get(f"/v1/apps/{APP}/machines")
        except httpx.TransportError:
            return False
        return listed.status_code == 200 and all(one["host_status"] == "ok" for one in listed.json())

    async def clear(self) -> None:
        """Destroy every Machine of the app."""
        await eventually(self.answers, timeout_s=20, every_s=0.05)
        for machine in await self.list():
            reply = await self.http.delete(f"/v1/apps/{APP}/machines/{machine['id']}", params={"force": "true"})
            assert reply.status_code in (200, 404), reply.text
        await eventually(self._none, timeout_s=20, every_s=0.05)

    async def _none(self) -> bool:
        return not [machine for machine in await self.list() if machine["state"] != "destroyed"]


async def served(port: int, *, app: str = APP, timeout_s: float = 15.0) -> bool:
    """Whether one request through the edge is answered by the app."""
    return await request(port, app=app, timeout_s=timeout_s) == "served"


async def request(port: int, *, app: str = APP, timeout_s: float = 15.0) -> str:
    """`served`, or what came instead, in a word or two."""
    try:
        async with asyncio.timeout(timeout_s):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            try:
                writer.write(f"GET /index.html HTTP/1.1\r\nhost: {app}.localhost\r\nconnection: close\r\n\r\n".encode())
                await writer.drain()
                answer = await reader.read()
            finally:
                writer.close()
    except TimeoutError:
        return "timeout"
    except OSError as error:
        return type(error).__name__
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.split(b" ")[1:2]
    return "served" if (status, body) == ([b"200"], b"served") else (head.split(b"\r\n")[0].decode() or "cut")


class Load:
    """So many requests a second through the edge, each on a connection of its own, for as long as it is entered."""

    MOST = 3000
    """It ends by itself after so many."""

    def __init__(self, platform: Platform, *, rate: float = 50) -> None:
        self._port, self._rate = platform.ports["edge"], rate
        self.outcomes: list[tuple[float, str]] = []
        self._stop = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Load:
        self._task = asyncio.create_task(self._run())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stop.set()
        assert self._task is not None
        await self._task

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(self.MOST):
                group.create_task(self._one())
                try:
                    async with asyncio.timeout(1 / self._rate):
                        await self._stop.wait()
                    return
                except TimeoutError:
                    continue

    async def _one(self) -> None:
        began = time.monotonic()
        self.outcomes.append((began, await request(self._port)))

    async def more(self, number: int = 25) -> None:
        """Wait for so many more answers."""
        wanted = len(self.outcomes) + number
        await eventually(lambda: len(self.outcomes) >= wanted, timeout_s=20)

    @property
    def failures(self) -> list[str]:
        return [outcome for _, outcome in self.outcomes if outcome != "served"]


@contextmanager
def running(before_up: Callable[[Platform], object] = lambda _: None) -> Iterator[Platform]:
    """One that is up and has an image and an app. Nothing of it may be left at the end (I4)."""
    before = traces()
    platform = Platform()
    try:
        before_up(platform)
        platform.up()
        platform.prepare()
        yield platform
    finally:
        platform.close()
    left = traces() - before
    assert not left, "\n".join(sorted(left))
