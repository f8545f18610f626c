"""From a registry to a root that can be started on, beside what one would use instead; and what a warm start pays.

The image is a Debian with Python, 150 MB, made once by mmdebstrap and kept. The registry is a file server on loopback:
it costs both sides the same, and next to nothing.
"""

from __future__ import annotations

import asyncio
import http.server
import json
import os
import shutil
import tempfile
import threading
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from caddisfly.bench.platform import run
from caddisfly.bench.series import Series
from caddisfly.host.images.build import write_oci_layout
from caddisfly.host.images.kernel import mounts_below, unmount
from caddisfly.host.images.manifest import OCI_MANIFEST
from caddisfly.host.images.settings import ImageSettings
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import FailedPrecondition

COLD, PEER, WARM = "cold: pull and unpack", "skopeo copy + umoci unpack", "warm: resolve, check and mount"
DOCKER = "docker pull"
_COLD_ROUNDS, _ROOT_MB = 5, 1024
_CACHE = Path("/var/tmp/caddis-bench")
_EXCLUDED = ("man", "doc", "locale")
_MIB = 1 << 20
_DOCKER_UP_S, _LOOK_EVERY_S = 20.0, 0.1


async def measure(*, rounds: int) -> dict[str, Any]:
    """Cold a few times, ours and theirs in turns; warm as often as asked."""
    tar = await _userland()
    cold, peer, docker, warm = Series(COLD), Series(PEER), Series(DOCKER), Series(WARM)
    with tempfile.TemporaryDirectory(dir="/var/tmp") as scratch:
        directory = Path(scratch)
        layout = directory / "layout"
        digest = await asyncio.to_thread(write_oci_layout, layout, layers=[tar])
        server, host = _serve(layout, digest)
        try:
            store = ImageStore(directory / "store", settings=ImageSettings(local_registries=True, store_size_gb=8))
            await store.open()
            try:
                for _ in range(_COLD_ROUNDS):
                    cold.times_ms.append(await _cold(store, f"{host}/bench:1"))
                    if shutil.which("umoci"):
                        # On the same file system, which is a good one.
                        peer.times_ms.append(await _peer(store.filesystem.path / "peer", f"{host}/bench:1"))
                async with dockerd(store.filesystem.path / "dockerd") as socket:
                    if socket:
                        docker.times_ms += [await _docker(socket, f"{host}/bench:1") for _ in range(_COLD_ROUNDS)]
                await store.fetch(await store.resolve(f"{host}/bench:1"))
                reference = f"{host}/bench:1@{digest}"
                for number in range(rounds):
                    warm.times_ms.append(await _warm(store, reference, f"bench-{number}"))
                    await store.roots.unmount(f"bench-{number}")
            finally:
                await store.close(unmount=True)
        finally:
            server.shutdown()
    ours = cold.to_wire()["p50_ms"]
    ratios = {one.name: round(ours / one.to_wire()["p50_ms"], 2) for one in (peer, docker) if one.times_ms}
    measured = [series for series in (cold, peer, docker, warm) if series.times_ms]
    return {
        "series": {series.name: series.to_wire() for series in measured},
        "ratios": ratios,
        "image_mb": tar.stat().st_size // _MIB,
    }


async def _cold(store: ImageStore, name: str) -> float:
    for line in store.list():
        await store.remove(line.name)
    began = time.perf_counter()
    await store.fetch(await store.resolve(name))
    return (time.perf_counter() - began) * 1000


async def _warm(store: ImageStore, reference: str, key: str) -> float:
    began = time.perf_counter()
    image = await store.fetch(await store.resolve(reference))
    await store.roots.mount(key, image.layer_dirs, size_mb=_ROOT_MB)
    return (time.perf_counter() - began) * 1000


async def _peer(directory: Path, name: str) -> float:
    directory.mkdir()
    try:
        began = time.perf_counter()
        copy = ("skopeo", "--insecure-policy", "copy", "--quiet", "--src-tls-verify=false")
        await run(*copy, f"docker://{name}", f"oci:{directory}/layout:1")
        await run("umoci", "unpack", "--image", f"{directory}/layout:1", directory / "bundle")
        return (time.perf_counter() - began) * 1000
    finally:
        await asyncio.to_thread(shutil.rmtree, directory)


async def _docker(socket: str, name: str) -> float:
    began = time.perf_counter()
    await run("docker", "--host", socket, "pull", "--quiet", name)
    took = (time.perf_counter() - began) * 1000
    await run("docker", "--host", socket, "rmi", "--force", name)
    return took


@asynccontextmanager
async def dockerd(directory: Path) -> AsyncIterator[str]:
    """A daemon that only pulls: it has no network of its own, and leaves the firewall alone. Empty: none runs here."""
    program = shutil.which("dockerd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
    if program is None or shutil.which("docker") is None:
        yield ""
        return
    directory.mkdir()
    socket = f"unix://{directory}/sock"
    words = ("--bridge=none", "--iptables=false", "--ip-forward=false", "--ip-masq=false")
    places = (f"--data-root={directory}/data", f"--exec-root={directory}/exec", f"--pidfile={directory}/pid")
    with (directory / "log").open("wb") as log:
        process = await asyncio.create_subprocess_exec(
            program, *places, f"--host={socket}", *words, stdout=log, stderr=log
        )
    try:
        yield socket if await _answers(process, socket) else ""
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()
        for mount in reversed(mounts_below(directory)):
            unmount(mount[0])


async def _answers(process: asyncio.subprocess.Process, socket: str) -> bool:
    """Whether it comes up at all."""
    until = time.monotonic() + _DOCKER_UP_S
    while process.returncode is None and time.monotonic() < until:
        try:
            await run("docker", "--host", socket, "version", "--format", "{{.Server.Version}}")
        except FailedPrecondition:
            await asyncio.sleep(_LOOK_EVERY_S)
            continue
        return True
    return False


async def _userland() -> Path:
    """The tar, from the cache when it is there."""
    target = _CACHE / "debian-python.tar"
    if not target.exists():
        if shutil.which("mmdebstrap") is None:
            raise FailedPrecondition("mmdebstrap is not there", next="apt-get install mmdebstrap")
        _CACHE.mkdir(mode=0o700, exist_ok=True)
        draft = target.with_suffix(f".{os.getpid()}")
        options = [f"--dpkgopt=path-exclude=/usr/share/{name}/*" for name in _EXCLUDED]
        chosen = ("--variant=apt", "--include=python3", "--mode=root", "--format=tar")
        await run("mmdebstrap", *chosen, *options, "bookworm", draft)
        draft.replace(target)
    return target


def _serve(layout: Path, digest: str) -> tuple[http.server.ThreadingHTTPServer, str]:
    """The layout as a registry that can be pulled from."""
    manifest = (layout / "blobs/sha256" / digest[7:]).read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            kind, _, target = self.path.rpartition("/")
            if kind.endswith("/manifests"):
                self._begin(len(manifest), {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": digest})
                self.wfile.write(manifest if self.command == "GET" else b"")
            elif kind.endswith("/blobs"):
                with (layout / "blobs/sha256" / target.removeprefix("sha256:")).open("rb") as file:
                    self._begin(os.fstat(file.fileno()).st_size, {})
                    self.wfile.flush()
                    self.connection.sendfile(file)
            else:
                self._begin(2, {"Content-Type": "application/json"})
                self.wfile.write(json.dumps({}).encode())

        do_HEAD = do_GET

        def _begin(self, length: int, headers: dict[str, str]) -> None:
            self.send_response(200)
            for name, value in {"Content-Length": str(length), **headers}.items():
                self.send_header(name, value)
            self.end_headers()

        def log_message(self, *_: Any) -> None: ...

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, f"127.0.0.1:{server.server_address[1]}"
