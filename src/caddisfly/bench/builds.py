"""Builds: one in which nothing changed, beside buildah by hand; and one that takes all it can, beside an app.

By hand is the same buildah on the same files with the same base image, with a build's share of the CPU, and without
push, sandbox, queue, record or log. Ours is from the API's call to the answer that the image is in the registry.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import json
import os
import secrets
import tarfile
import time
from pathlib import Path
from typing import Any

import httpx
import zstandard

from caddisfly.bench.platform import APP, Platform, run
from caddisfly.bench.series import Series
from caddisfly.host.builds.sandbox import GROUPS
from caddisfly.host.drivers.driver import Limits
from caddisfly.host.drivers.oci.cgroups import ControlGroups, layout
from caddisfly.host.images import kernel
from caddisfly.host.images.build import busybox_layer, write_oci_layout
from caddisfly.model import context
from caddisfly.model.context import Context, Descriptor
from caddisfly.model.errors import FailedPrecondition

UNCHANGED, BY_HAND = "rebuild, nothing changed", "buildah bud, by hand"
ALONE, BESIDE = "app alone", "app beside a greedy build"
_BY_HAND = "by-hand"
_OCI = "application/vnd.oci.image.manifest.v1+json"
_FILES, _FILE_BYTES = 400, 4096
_BASE_MB = 40
_RATE_PER_S, _WHILE_S = 50, 20
_STEPS = """WORKDIR /app
COPY requirements.txt .
RUN sha256sum requirements.txt > /sum
COPY . .
RUN find . | wc -l
CMD ["true"]
"""
_GREEDY = """RUN for i in 1 2 3 4 5 6 7 8; do (while :; do :; done) & done; \\
    while :; do dd if=/dev/urandom bs=1M count=400 of=/file; head -c 1500m /dev/zero | tail -c 1400m > /dev/null; done
"""


async def measure(on: Platform, *, rounds: int) -> dict[str, Any]:
    """Both, and the bars' ratios."""
    home = on.directory / "builds"
    home.mkdir()
    base = home / "base"
    write_oci_layout(base, layers=[busybox_layer(), _ballast()], config={"Env": ["PATH=/bin"], "Cmd": ["/bin/sh"]})
    registry = _Registry(on)
    try:
        await registry.push_layout(base, "base")
        unchanged = await _unchanged(on, registry, home, base, rounds=rounds)
        serving = await _serving(on, registry)
    finally:
        await registry.close()
    series = {one.name: one.to_wire() for one in (*unchanged, *serving)}
    ours, by_hand, alone, beside = (*unchanged, *serving)
    return {
        "series": series,
        "rebuild_to_by_hand": round(ours.p50 / by_hand.p50, 2),
        "p99_beside_to_alone": round(beside.p99 / alone.p99, 2),
    }


async def _unchanged(
    on: Platform, registry: _Registry, home: Path, base: Path, *, rounds: int
) -> tuple[Series, Series]:
    files = {f"file-{number:03}.txt": secrets.token_bytes(_FILE_BYTES) for number in range(_FILES)}
    files["requirements.txt"] = b"nothing\n"
    digest = await registry.push_context(files, f"FROM registry.localhost/{APP}:base\n{_STEPS}")
    folder = home / "context"
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    (folder / "Dockerfile").write_text(f"FROM oci:{base}:latest\n{_STEPS}")
    ours, by_hand = Series(UNCHANGED), Series(BY_HAND)
    # vfs aside, this is how one would type it; runc, because crun refuses this host's control groups.
    roots: tuple[str | Path, ...] = ("--root", home / "storage", "--runroot", home / "run")
    groups = ControlGroups(layout(), parent=GROUPS)
    words: tuple[str | Path, ...] = (
        "bud",
        "--layers",
        "--runtime",
        "runc",
        "--network",
        "host",
        "-t",
        "result",
        folder,
    )
    typed: tuple[str | Path, ...] = (*_among_builds(groups), "buildah", *roots, *words)
    try:
        for round_ in range(rounds + 1):
            began = time.perf_counter()
            await _build(on, digest)
            took = (time.perf_counter() - began) * 1000
            began = time.perf_counter()
            await run(*typed)
            took_by_hand = (time.perf_counter() - began) * 1000
            if round_:  # the first one fills the caches
                ours.times_ms.append(took)
                by_hand.times_ms.append(took_by_hand)
    finally:
        for point, _ in reversed(kernel.mounts_below(home)):
            kernel.unmount(point)
        groups.remove(_BY_HAND)
    return ours, by_hand


def _among_builds(groups: ControlGroups) -> tuple[str, ...]:
    """What to put before a command to give it a build's weight. Else that is what one measures on a busy computer."""
    if groups.layout == "v2":
        return ()
    limits = Limits(cores=os.cpu_count() or 1, weight=100, memory_mb=2048, pids=1024)
    made = groups.make(_BY_HAND, limits)
    enter = "".join(f"echo $$ > {group}/cgroup.procs; " for group in made)
    return ("sh", "-c", f'{enter}exec "$@"', "sh")


async def _build(on: Platform, digest: str) -> None:
    build = await on.client.builds.start(APP, digest, tag="bench")
    async for _ in on.client.builds.follow(APP, build["id"]):
        pass
    ended = await on.client.builds.get(APP, build["id"])
    if ended["state"] != "done":
        raise FailedPrecondition("a build failed", why=str(ended["failure"]))


async def _serving(on: Platform, registry: _Registry) -> tuple[Series, Series]:
    machines = on.client.machines
    made = await machines.create(
        APP,
        {
            "image": "bench/busybox:latest",
            "init": {"exec": ["/bin/busybox", "httpd", "-f", "-p", "0.0.0.0:8080", "-h", "/etc"]},
            "services": [{"protocol": "tcp", "internal_port": 8080, "ports": [{"port": 80, "handlers": ["http"]}]}],
        },
    )
    await machines.wait(APP, made["id"], "started")
    await _load(on, Series("warm"), seconds=2)
    alone, beside = Series(ALONE), Series(BESIDE)
    await _load(on, alone, seconds=_WHILE_S)
    digest = await registry.push_context({"a": b"a"}, f"FROM registry.localhost/{APP}:base\n{_GREEDY}")
    build = await on.client.builds.start(APP, digest, tag="greedy", no_cache=True)
    async for line in on.client.builds.follow(APP, build["id"]):
        if "records out" in line["message"]:
            break  # it has all its processes, and its disk is busy
    await _load(on, beside, seconds=_WHILE_S)
    state = (await on.client.builds.get(APP, build["id"]))["state"]
    if state != "running":
        raise FailedPrecondition("the greedy build ended before the app was measured", why=state)
    await on.client.builds.cancel(APP, build["id"])
    await machines.delete(APP, made["id"], force=True)
    return alone, beside


async def _load(on: Platform, into: Series, *, seconds: float) -> None:
    """Requests at a fixed rate, whatever they take: who waits for answers does not see the slow times."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    tasks = []
    for number in range(int(seconds * _RATE_PER_S)):
        await asyncio.sleep(max(0.0, began + number / _RATE_PER_S - loop.time()))
        tasks.append(asyncio.create_task(_request(on.edge_port, began + number / _RATE_PER_S)))
    into.times_ms += await asyncio.gather(*tasks)


async def _request(port: int, due: float) -> float:
    """Milliseconds since it was due."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(f"GET /passwd HTTP/1.1\r\nHost: {APP}.localhost\r\nConnection: close\r\n\r\n".encode())
        answer = await reader.read()
    finally:
        writer.close()
    if b" 200 " not in answer[:20]:
        raise FailedPrecondition("the app did not answer", why=answer[:100].decode(errors="replace"))
    return (asyncio.get_running_loop().time() - due) * 1000


class _Registry:
    """The platform's registry, as far as a push needs it."""

    def __init__(self, on: Platform) -> None:
        self._client = httpx.AsyncClient(
            base_url=f"http://{on.registry}/v2/{APP}", auth=("bench", on.token), trust_env=False
        )

    async def close(self) -> None:
        await self._client.aclose()

    async def push_layout(self, layout: Path, tag: str) -> None:
        manifest = json.loads((layout / "index.json").read_text())["manifests"][0]["digest"]
        for blob in (layout / "blobs" / "sha256").iterdir():
            if blob.name not in manifest:
                await self._blob(blob.read_bytes())
        await self._manifest((layout / "blobs" / "sha256" / manifest.removeprefix("sha256:")).read_bytes(), tag)

    async def push_context(self, files: dict[str, bytes], dockerfile: str) -> str:
        """One pack is enough here."""
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        parts = {
            context.INDEX: zstandard.compress(json.dumps({"mtimes": {}}).encode()),
            context.DOCKERFILE: dockerfile.encode(),
            context.PACK: zstandard.compress(out.getvalue()),
        }
        for content in parts.values():
            await self._blob(content)
        index, text, pack = (Descriptor.of(kind, content) for kind, content in parts.items())
        manifest = Context(index, text, (pack,)).to_bytes()
        await self._manifest(manifest, context.TAG)
        return f"sha256:{hashlib.sha256(manifest).hexdigest()}"

    async def _blob(self, content: bytes) -> None:
        digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
        begun = await self._client.post("/blobs/uploads/")
        begun.raise_for_status()
        place = httpx.URL(begun.headers["location"])
        place = self._client.base_url.join(str(place)).copy_merge_params({"digest": digest})
        (await self._client.put(place, content=content)).raise_for_status()

    async def _manifest(self, content: bytes, tag: str) -> None:
        headers = {"content-type": _OCI}
        (await self._client.put(f"/manifests/{tag}", content=content, headers=headers)).raise_for_status()


def _ballast() -> bytes:
    """A layer of some size, as base images have them."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for number in range(_BASE_MB):
            info = tarfile.TarInfo(f"opt/ballast-{number}")
            info.size = 1 << 20
            tar.addfile(info, io.BytesIO(secrets.token_bytes(1 << 20)))
    return out.getvalue()
