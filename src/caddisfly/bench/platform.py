"""A platform to measure: started for the run, in directories and on ports of its own, and gone afterwards."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from caddisfly.bench.computer import refuse_if_taken
from caddisfly.bench.serving import free_port
from caddisfly.client import AsyncClient
from caddisfly.host.images.build import write_busybox_image
from caddisfly.model.errors import FailedPrecondition

IMAGE = "bench/busybox:latest"
APP = "bench"
_START_TIMEOUT_S = 120


@dataclass(frozen=True, slots=True)
class Platform:
    """Where to reach it. `layout` is the busybox image, for those it is compared with."""

    client: AsyncClient
    edge_port: int
    registry: str
    """`host:port`."""
    token: str = field(repr=False)
    directory: Path
    layout: Path
    environment: dict[str, str]

    async def caddis(self, *arguments: str) -> str:
        """Run a command of the operator's on it. Raises `FailedPrecondition` with what it printed."""
        return await run(sys.executable, "-m", "caddisfly", *arguments, environment=self.environment)


@asynccontextmanager
async def platform(*, isolation: str = "") -> AsyncIterator[Platform]:
    """Start one, with its own choice of isolation if none is named.

    Raises `FailedPrecondition` when this computer runs one already, or is not root's.
    """
    if os.geteuid() != 0:
        raise FailedPrecondition("measuring Machines needs root", next="sudo caddis bench")
    refuse_if_taken()
    # A short path that any uid may traverse: roots of Machines and Unix sockets live below it.
    directory = Path(tempfile.mkdtemp(prefix="caddis-bench-"))
    directory.chmod(0o755)
    bus, control, registry, edge = free_port(), free_port(), free_port(), free_port()
    config = directory / "caddisfly.toml"
    config.write_text(
        f'[platform]\ndata_dir = "{directory}/data"\nrun_dir = "{directory}/run"\n'
        f"[registry]\nport = {registry}\n"
        f'[bus]\nport = {bus}\n[control]\nlisten_port = {control}\n[edge]\nhttp_listen = ["127.0.0.1:{edge}"]\n'
        '[images]\nstore_size_gb = 8\n[host]\nipv4_pool = "10.212.0.0/16"\n'
        "memory_overcommit = 4\ncpu_overcommit = 16\n"  # for the two hundred that idle
        + (f'isolation = "{isolation}"\n' if isolation else "")
    )
    # Settings and tokens of the caller's environment belong to another platform.
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("CADDIS_", "FLY_"))}
    environment |= {"CADDIS_CONFIG": str(config), "HOME": str(directory)}
    layout = directory / "layout"
    write_busybox_image(layout)
    caddis = (sys.executable, "-m", "caddisfly")
    try:
        await run(*caddis, "up", "--detach", environment=environment)
        token = (await run(*caddis, "auth", "token", environment=environment)).strip()
        await run(*caddis, "image", "import", str(layout), IMAGE, environment=environment)
        async with AsyncClient(f"http://127.0.0.1:{control}", token=token) as client:
            await client.apps.create(APP)
            yield Platform(client, edge, f"127.0.0.1:{registry}", token, directory, layout, environment)
            await client.apps.delete(APP)
    finally:
        await run(*caddis, "down", environment=environment)
        for part in ("images", "builds"):
            store = directory / "data" / "host" / part / "fs"
            if store.is_mount():
                await run("umount", store)
        shutil.rmtree(directory, ignore_errors=True)


async def run(*command: str | Path, environment: dict[str, str] | None = None, output: bool = True) -> str:
    """A command's output. Raises `FailedPrecondition` with what it said when it fails.

    Without `output` it gets no pipes, for a command that leaves something behind which would hold them open.
    """
    pipe = subprocess.PIPE if output else subprocess.DEVNULL
    process = await asyncio.create_subprocess_exec(
        *map(str, command), stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, env=environment
    )
    async with asyncio.timeout(_START_TIMEOUT_S):
        out, err = await process.communicate()
    if process.returncode:
        said = ((err or b"").strip() or (out or b"").strip()).decode(errors="replace")
        why = said[-800:] or f"exit code {process.returncode}"
        raise FailedPrecondition(f"{' '.join(map(str, command[-3:]))} failed", why=why)
    return (out or b"").decode(errors="replace")
