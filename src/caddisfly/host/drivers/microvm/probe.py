"""A guest that is booted to see whether guests boot here: nothing else proves that a KVM, or an emulator, works."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from caddisfly.host.drivers.driver import Driver, Drives, Limits, Sandbox
from caddisfly.host.images.rootfs import make_ext4
from caddisfly.model.machine import Exit, wall_ms


async def run(driver: Driver, image: Path, *, directory: Path, timeout_s: float) -> Exit:
    """How its program ended. Leaves nothing. Raises what `start` raises, and `TimeoutError`."""
    id = f"probe-{os.getpid():07d}-{wall_ms() % 1_000_000:06d}"
    with tempfile.TemporaryDirectory(prefix="probe-", dir=directory) as own:
        sandbox = _sandbox(id, Path(own), image)
        assert sandbox.drives is not None
        await asyncio.to_thread(make_ext4, sandbox.drives.scratch, size_mb=16)
        try:
            await driver.start(sandbox)
            return await asyncio.wait_for(driver.wait(id), timeout_s)
        finally:
            await driver.destroy(id)


def _sandbox(id: str, directory: Path, image: Path) -> Sandbox:
    return Sandbox(
        id=id,
        root=directory,
        argv=("/bin/busybox", "true"),
        env=("PATH=/bin",),
        cwd="/",
        uid=65534,
        gid=65534,
        gids=(),
        hostname="probe",
        netns=None,
        binds=(),
        limits=Limits(cores=1.0, weight=100, memory_mb=128, pids=64),
        log=directory / "log",
        drives=Drives(image=image, scratch=directory / "scratch.ext4"),
    )
