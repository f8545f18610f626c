"""`caddis doctor`: finds out, by trying, what this computer can do for Machines."""

from __future__ import annotations

import os
import platform
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path

from caddisfly.up import (
    doctor_builds,
    doctor_isolation,
    doctor_kernel,
    doctor_kvm,
    doctor_runtime,
    ports,
    presence,
    start,
)
from caddisfly.up.examination import Bench, Check, bench
from caddisfly.up.settings import Settings, load

Examine = Callable[[Bench, Settings], list[Check]]
_GIB = 1024**3


def examine(config: Path | None, *, progress: Callable[[str], None] | None = None) -> list[Check]:
    """Every check, in order. Takes some seconds. Raises `InvalidArgument` for a wrong settings file."""
    settings = load(config)
    found: list[Check] = []
    with bench() as place:
        looks = [*CHECKS, lambda *_: [doctor_isolation.verdict(found, settings)]]
        for look in looks:
            began = time.monotonic()
            made = look(place, settings)
            took_ms = int((time.monotonic() - began) * 1000)
            found += [check.took(took_ms) for check in made]
            if progress is not None:
                for check in made:
                    progress(f"{check.result:<4} {check.name}")
    return found


def _root(_: Bench, __: Settings) -> list[Check]:
    if os.geteuid() == 0:
        return [Check(name="root", result="ok", found="yes")]
    return [Check(name="root", result="fail", found=f"user id {os.geteuid()}", next="sudo caddis doctor")]


def _versions(_: Bench, __: Settings) -> list[Check]:
    release = platform.release()
    major, minor = (int("".join(filter(str.isdigit, part)) or 0) for part in release.split(".")[:2])
    new = (major, minor) >= (5, 10)
    return [
        Check(
            name="kernel",
            result="ok" if new else "fail",
            found=release,
            next="" if new else "5.10 is the oldest that this is built for",
        ),
        Check(name="python", result="ok", found=f"{platform.python_version()} in {sys.prefix}"),
    ]


def _room(_: Bench, settings: Settings) -> list[Check]:
    place = settings.platform.data_dir
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    facts = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    available_mb = int(facts["MemAvailable"].split()[0]) // 1024
    wanted_mb = settings.host.memory_reserve_mb + 256
    return [
        Check(
            name="disk",
            result="ok" if free >= 5 * _GIB else "warn" if free >= _GIB else "fail",
            found=f"{free / _GIB:.1f} GiB free at {place}",
            next="" if free >= 5 * _GIB else "make room, or set [platform] data_dir",
        ),
        Check(
            name="memory",
            result="ok" if available_mb >= wanted_mb else "warn",
            found=f"{available_mb} MiB available",
            next="" if available_mb >= wanted_mb else f"{wanted_mb} MiB hold the platform and one small Machine",
        ),
    ]


def _ports(_: Bench, settings: Settings) -> list[Check]:
    if presence.held(settings.platform.run_dir):
        return [Check(name="ports", result="ok", found="the platform is running and has them")]
    found = []
    for need in start.needs(settings):
        reason = ports.refusal(need)
        holder = ports.holder_of(need.port) if reason else ""
        found.append(
            Check(
                name=f"port {need.port}",
                result="fail" if reason else "ok",
                found=f"{holder} listens on {need.host}" if holder else reason or f"free on {need.host}",
                next=f"stop that, or change {need.setting}" if reason else "",
            )
        )
    return found


CHECKS: tuple[Examine, ...] = (
    _root,
    _versions,
    _room,
    _ports,
    doctor_kernel.control_groups,
    doctor_kernel.memory_limit,
    doctor_kernel.overlay,
    doctor_kernel.reflink,
    doctor_kernel.network,
    doctor_kernel.firewall,
    doctor_kernel.forwarding,
    doctor_kernel.seccomp,
    doctor_runtime.conmon,
    doctor_runtime.runtimes,
    doctor_builds.tools,
    doctor_builds.directories,
    doctor_kvm.kvm,
)
