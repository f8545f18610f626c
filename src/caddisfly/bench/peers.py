"""What a user would run instead: the runtime by hand, and podman."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from caddisfly.bench.platform import run
from caddisfly.host.drivers.driver import Bind, Limits, Sandbox
from caddisfly.host.drivers.oci.bundle import specification
from caddisfly.host.drivers.oci.init import INIT, INIT_BINARY
from caddisfly.host.images.build import busybox_layer
from caddisfly.model.errors import FailedPrecondition

Start = Callable[[], Awaitable[float]]
"""Starts one container and returns the milliseconds it took; clean-up is not counted."""

_RLIMITS_STRIPPED = """#!/bin/sh
for word in "$@"; do
  case "$before" in --bundle|-b) bundle=$word;; esac
  case "$word" in --bundle=*) bundle=${{word#--bundle=}};; esac
  before=$word
done
[ -z "$bundle" ] || sed -i -e 's/,"rlimits":\\[[^]]*\\]//' -e 's/"rlimits":\\[[^]]*\\],//' "$bundle/config.json"
exec {runc} "$@"
"""
"""Podman raises limits of open files beyond what a container of a container may. Its time is within the noise."""


RAW, RAW_DETACHED = "runc run … true", "runc run -d … sleep"


def raw_runc(directory: Path) -> dict[str, Start]:
    """The runtime by hand, on the very bundle that a Machine gets: namespaces, seccomp, limits.

    `RAW` is what others are compared with: from the call to the end of a program that ends at once. `RAW_DETACHED` ends
    when the program was started, and leaves out what watches a Machine; it is there to see how much that is.
    """
    root = _userland(directory)
    bundle = directory / "bundle"
    count = iter(range(1_000_000))

    async def to_its_end() -> float:
        id = _prepared(bundle, root, next(count), "/bin/true")
        began = time.perf_counter()
        await run("runc", "run", "--bundle", bundle, id)
        return (time.perf_counter() - began) * 1000

    async def detached() -> float:
        id = _prepared(bundle, root, next(count), "/bin/sleep", "1000")
        took = await _detached(bundle, id)
        await run("runc", "delete", "--force", id)
        return took

    return {RAW: to_its_end, RAW_DETACHED: detached}


async def raw_crowd(directory: Path, count: int) -> list[float]:
    """The milliseconds of each of so many `RAW_DETACHED` that begin in one moment."""
    root = _userland(directory)
    bundles = [directory / f"bundle-{number}" for number in range(count)]
    ids = [_prepared(bundle, root, number, "/bin/sleep", "1000") for number, bundle in enumerate(bundles)]
    try:
        return list(await asyncio.gather(*map(_detached, bundles, ids)))
    finally:
        for id in ids:
            await run("runc", "delete", "--force", id)


def _userland(directory: Path) -> Path:
    root = directory / "root"
    root.mkdir(parents=True)
    subprocess.run(["tar", "-x", "-C", root], input=busybox_layer(), check=True)
    return root


def _prepared(bundle: Path, root: Path, number: int, *argv: str) -> str:
    """A bundle to run. Returns the id that it may be run under."""
    id = f"bench-{os.getpid()}-{number}"
    sandbox = Sandbox(
        id=id,
        root=root,
        argv=argv,
        env=("PATH=/bin",),
        cwd="/",
        uid=0,
        gid=0,
        gids=(),
        hostname="bench",
        netns=None,
        binds=(Bind(source=INIT_BINARY, target=INIT),),
        limits=Limits(cores=1.0, weight=6, memory_mb=256, pids=4096),
        log=bundle / "log",
    )
    bundle.mkdir(exist_ok=True)
    (bundle / "config.json").write_text(json.dumps(specification(sandbox, cgroups_path=f"/bench/{id}")))
    return id


async def _detached(bundle: Path, id: str) -> float:
    began = time.perf_counter()
    await run("runc", "run", "--detach", "--bundle", bundle, id, output=False)
    return (time.perf_counter() - began) * 1000


@asynccontextmanager
async def docker(directory: Path) -> AsyncIterator[dict[str, Start]]:
    """`docker run -d` of the same files, where a dockerd answers. One is not started for it: it would take over the
    computer's firewall.
    """
    if shutil.which("docker") is None:
        yield {}
        return
    try:
        await run("docker", "version", "--format", "{{.Server.Version}}")
    except FailedPrecondition:
        yield {}
        return
    userland = directory / "busybox.tar"
    userland.write_bytes(busybox_layer())
    image = (await run("docker", "import", userland)).strip()

    async def start() -> float:
        began = time.perf_counter()
        id = await run("docker", "run", "--detach", "--memory", "256m", image, "/bin/sleep", "1000")
        took = (time.perf_counter() - began) * 1000
        await run("docker", "rm", "--force", id.strip())
        return took

    try:
        yield {"docker run -d": start}
    finally:
        await run("docker", "rmi", "--force", image)


@asynccontextmanager
async def podman(directory: Path, layout: Path) -> AsyncIterator[dict[str, Start]]:
    """`podman run -d` of the same image, without a network and with its default one where that works."""
    if shutil.which("podman") is None:
        yield {}
        return
    wrapper = directory / "runc-without-rlimits"
    wrapper.write_text(_RLIMITS_STRIPPED.format(runc=shutil.which("runc")))
    wrapper.chmod(0o755)
    base = (
        *("podman", "--root", str(directory / "podman"), "--runroot", str(directory / "podman-run")),
        *("--runtime", str(wrapper), "--cgroup-manager", "cgroupfs", "--log-level", "error"),
    )
    image = (await run(*base, "pull", "--quiet", f"oci:{layout}")).strip().splitlines()[-1]

    def starter(*network: str) -> Start:
        async def start() -> float:
            began = time.perf_counter()
            id = await run(*base, "run", "--detach", *network, "--memory", "256m", image, "sleep", "1000")
            took = (time.perf_counter() - began) * 1000
            await run(*base, "rm", "--force", "--time", "0", id.strip())
            return took

        return start

    async with AsyncExitStack() as stack:
        stack.push_async_callback(run, *base, "rm", "--force", "--time", "0", "--all")
        yield {"podman run -d, no network": starter("--network", "none"), "podman run -d": starter()}
