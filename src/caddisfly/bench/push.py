"""A push of one large layer with skopeo: to the platform's registry, and to Debian's docker-registry.

Every round has a layer of its own, so that it is really sent, to both in turn. Random bytes, because compressing is the
client's part and would be most of the time. Ours asks control who pushes, theirs lets everybody in.
"""

from __future__ import annotations

import os
import shutil
import tarfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from caddisfly.bench.bars import PEER
from caddisfly.bench.machines import ratios
from caddisfly.bench.platform import APP, Platform, run
from caddisfly.bench.series import Series
from caddisfly.bench.serving import free_port, process
from caddisfly.host.images.build import write_oci_layout
from caddisfly.model.errors import FailedPrecondition

_LAYER_BYTES = 55_000_000
_ROUNDS_MOST = 10
_OURS = "the platform's registry"
_CONFIG = """\
version: 0.1
log: {{level: error}}
storage: {{filesystem: {{rootdirectory: {directory}}}}}
http: {{addr: 127.0.0.1:{port}}}
"""


async def measure(platform: Platform, *, rounds: int) -> dict[str, Any]:
    """Milliseconds of whole `skopeo copy` commands. Raises `FailedPrecondition` without the peer."""
    ours, theirs = Series(_OURS), Series(PEER)
    async with _peer(platform.directory / "peer") as peer:
        for number in range(min(rounds, _ROUNDS_MOST)):
            layout = platform.directory / f"push-{number}"
            write_oci_layout(layout, layers=[_layer()])
            try:
                for series, host, credentials in ((ours, platform.registry, f"x:{platform.token}"), (theirs, peer, "")):
                    series.times_ms.append(await _push(layout, f"{host}/{APP}:round-{number}", credentials))
            finally:
                shutil.rmtree(layout)
    measured = {one.name: one for one in (ours, theirs)}
    return {"series": {name: one.to_wire() for name, one in measured.items()}, "ratios": ratios(measured, of=_OURS)}


async def _push(layout: Path, target: str, credentials: str) -> float:
    who = [f"--dest-creds={credentials}"] if credentials else ["--dest-no-creds"]
    began = time.perf_counter()
    await run("skopeo", "copy", "--quiet", "--dest-tls-verify=false", *who, f"oci:{layout}", f"docker://{target}")
    return (time.perf_counter() - began) * 1000


def _layer() -> bytes:
    buffer = BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("random")
        entry.size = _LAYER_BYTES
        tar.addfile(entry, BytesIO(os.urandom(_LAYER_BYTES)))
    return buffer.getvalue()


@asynccontextmanager
async def _peer(directory: Path) -> AsyncIterator[str]:
    program = shutil.which("docker-registry")
    if program is None:
        raise FailedPrecondition("docker-registry is not installed", next="scripts/setup --bench")
    directory.mkdir()
    port = free_port()
    config = directory / "config.yml"
    config.write_text(_CONFIG.format(directory=directory / "data", port=port))
    async with process(program, "serve", config, port=port, log=directory / "log"):
        yield f"127.0.0.1:{port}"
