"""The sandbox by which a host finds out whether it can run microVMs: a program that does nothing, in its own image."""

from __future__ import annotations

from pathlib import Path

from caddisfly.host.drivers.driver import Drives, Limits, Sandbox


def sandbox(id: str, directory: Path, image: Path) -> Sandbox:
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
