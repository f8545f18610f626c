"""Deploys of three Machines under load, as a user sees them: how long, and what requests met meanwhile.

Beside it stands what one would do by hand with the same image: stop three containers of runc and start three others,
one after the other.
"""

from __future__ import annotations

import asyncio
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caddisfly.bench.machines import ratios
from caddisfly.bench.peers import RAW, raw_runc
from caddisfly.bench.platform import IMAGE, Platform, run
from caddisfly.bench.series import Series
from caddisfly.model.errors import FailedPrecondition

APP = "deploys"
RATE = 50
_COUNT = 3
_BY_HAND = f"{_COUNT} x runc run"
_FLY_TOML = """app = "deploys"
kill_signal = "SIGTERM"
[env]
VERSION = "{version}"
[experimental]
exec = {command}
[http_service]
internal_port = 8080
[[http_service.checks]]
interval = "1s"
timeout = "1s"
grace_period = "1s"
path = "/passwd"
[caddisfly]
count = 3
"""
_GOOD = '["/bin/busybox", "httpd", "-f", "-p", "0.0.0.0:8080", "-h", "/etc"]'
_CRASHES = '["/bin/busybox", "sh", "-c", "exit 3"]'


@dataclass(slots=True)
class Load:
    """Requests at a steady rate, whatever becomes of those before."""

    port: int
    sent: int = 0
    failed: int = 0
    slowest_ms: float = 0.0

    async def run(self, over: asyncio.Event) -> None:
        asked: set[asyncio.Task[None]] = set()
        begun = time.perf_counter()
        while not over.is_set():
            task = asyncio.create_task(self._ask())
            asked.add(task)
            task.add_done_callback(asked.discard)
            self.sent += 1
            await asyncio.sleep(max(0.0, begun + self.sent / RATE - time.perf_counter()))
        await asyncio.gather(*asked)

    async def _ask(self) -> None:
        begun = time.perf_counter()
        try:
            async with asyncio.timeout(30):
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
                writer.write(b"GET /passwd HTTP/1.1\r\nhost: deploys.localhost\r\nconnection: close\r\n\r\n")
                answer = await reader.read()
                writer.close()
        except (OSError, TimeoutError):
            answer = b""
        self.failed += not answer.startswith(b"HTTP/1.1 200")
        self.slowest_ms = max(self.slowest_ms, (time.perf_counter() - begun) * 1000)

    def to_wire(self) -> dict[str, Any]:
        return {"sent": self.sent, "failed": self.failed, "slowest_ms": round(self.slowest_ms, 1)}


async def measure(platform: Platform, *, rounds: int) -> dict[str, Any]:
    folder = platform.directory / "deploys"
    folder.mkdir()
    await platform.client.apps.create(APP)
    try:
        _write(folder, "0", _GOOD)
        await _deploy(platform, folder)
        series: dict[str, Series] = {}
        requests: dict[str, Load] = {}
        for name, flags in (("rolling", ()), ("bluegreen", ("--strategy", "bluegreen"))):
            series[name], requests[name] = Series(name), Load(platform.edge_port)
            async with _under(requests[name]):
                for number in range(rounds):
                    _write(folder, f"{name}{number}", _GOOD)
                    series[name].times_ms.append(await _deploy(platform, folder, *flags))
        series["rollback"], requests["rollback"] = Series("rollback"), Load(platform.edge_port)
        async with _under(requests["rollback"]):
            for _ in range(rounds):
                series["rollback"].times_ms.append(await _rollback(platform))
        requests["crash"] = Load(platform.edge_port)
        async with _under(requests["crash"]):
            crash_ms = await _crash(platform, folder)
        by_hand = raw_runc(platform.directory / "raw-deploys")[RAW]
        series[_BY_HAND] = Series(_BY_HAND)
        for _ in range(rounds):
            series[_BY_HAND].times_ms.append(sum([await by_hand() for _ in range(_COUNT)]))
        return {
            "series": {name: one.to_wire() for name, one in series.items()},
            "ratios": ratios(series, of="rolling"),
            "requests": {name: load.to_wire() for name, load in requests.items()},
            "crash": {"told_and_put_back_ms": round(crash_ms, 1)},
        }
    finally:
        await platform.client.apps.delete(APP)


async def _rollback(platform: Platform) -> float:
    begun = time.perf_counter()
    await platform.caddis("rollback", "-a", APP)
    return (time.perf_counter() - begun) * 1000


async def _crash(platform: Platform, folder: Path) -> float:
    """Milliseconds until a version that crashes at boot is told and put back."""
    _write(folder, "crash", _CRASHES)
    begun = time.perf_counter()
    try:
        await _deploy(platform, folder)
    except FailedPrecondition as told:
        took_ms, why = (time.perf_counter() - begun) * 1000, told.why
    else:
        raise FailedPrecondition("a version that crashes was deployed", why="the deploy ended with 0")
    if "exit code 3" not in why or "Everything is as it was before" not in why:
        raise FailedPrecondition("a version that crashes was not put back", why=why)
    return took_ms


class _under:
    """Load while the block runs."""

    def __init__(self, load: Load) -> None:
        self._load, self._over = load, asyncio.Event()

    async def __aenter__(self) -> None:
        self._task = asyncio.create_task(self._load.run(self._over))

    async def __aexit__(self, *_: object) -> None:
        self._over.set()
        await self._task


def _write(folder: Path, version: str, command: str) -> None:
    (folder / "fly.toml").write_text(_FLY_TOML.format(version=version, command=command))


async def _deploy(platform: Platform, folder: Path, *flags: str) -> float:
    """Milliseconds of the whole command, the start of Python included."""
    begun = time.perf_counter()
    config = str(folder / "fly.toml")
    words = (sys.executable, "-m", "caddisfly", "deploy", "-c", config, "--image", IMAGE, *flags)
    await run(*words, environment=platform.environment)
    return (time.perf_counter() - begun) * 1000
