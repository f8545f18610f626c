"""What this host can still take. It alone decides, from what it has and what it has promised.

Promised is what running Machines may use; a stopped Machine costs disk only. An offer in the market and the check
before a start are the same arithmetic, so a bid that was true a moment ago may still be refused, which is the point.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.settings import HostSettings
from caddisfly.model import states
from caddisfly.model.errors import Aborted
from caddisfly.model.machine import Machine

_RUNNING = frozenset(
    (
        states.STARTING,
        states.STARTED,
        states.RESTARTING,
        states.REPLACING,
        states.STOPPING,
        states.SUSPENDING,
    )
)
_MIB = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """Free capacity: memory in MiB, cores, disk in MiB."""

    memory_mb: int
    cores: float
    disk_mb: int

    def refusal(self, *, memory_mb: int, cores: float, gpu_kind: str, disk_floor_mb: int) -> str:
        """Why a guest of this size does not fit, in the words that Fly's clients know; empty when it does."""
        wanted = "could not reserve resource for machine: "
        if gpu_kind:
            return f"{wanted}no {gpu_kind} GPU on the current host"
        if memory_mb > self.memory_mb:
            return f"{wanted}insufficient memory available to fulfill request on the current host"
        if cores > self.cores:
            return f"{wanted}insufficient CPUs available to fulfill request on the current host"
        if self.disk_mb < disk_floor_mb:
            return f"{wanted}insufficient disk space available to fulfill request on the current host"
        return ""


class Capacity:
    """Counts promises against what the host has."""

    def __init__(self, settings: HostSettings, *, cpus: int = 0, memory_mb: int = 0) -> None:
        """Without numbers, it is this computer that is counted."""
        self._settings = settings
        self.cpus = cpus or os.cpu_count() or 1
        self.memory_mb = memory_mb or os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // _MIB

    def room(self, machines: Iterable[Machine], *, apart_from: str = "") -> Room:
        """What is free, leaving one Machine out of the count."""
        guests = [
            machine.config.guest for machine in machines if machine.state in _RUNNING and machine.id != apart_from
        ]
        usable_mb = self.memory_mb - self._settings.memory_reserve_mb
        return Room(
            memory_mb=int(usable_mb * self._settings.memory_overcommit) - sum(guest.memory_mb for guest in guests),
            cores=self.cpus * self._settings.cpu_overcommit - sum(guest.promised_cores for guest in guests),
            disk_mb=free_disk_mb(self._settings.data_dir),
        )

    def check(self, machine: Machine, machines: Iterable[Machine]) -> None:
        """Raises `Aborted` when this Machine cannot run here now."""
        guest = machine.config.guest
        refusal = self.room(machines, apart_from=machine.id).refusal(
            memory_mb=guest.memory_mb,
            cores=guest.promised_cores,
            gpu_kind=guest.gpu_kind,
            disk_floor_mb=self._settings.disk_floor_mb,
        )
        if refusal:
            raise Aborted(refusal, next="stop a Machine, choose a smaller size, or add a host")

    def check_snapshot(self, machine: Machine, machines: Iterable[Machine]) -> None:
        """Raises `Aborted` when the disk cannot hold its memory beside that of others which is being written."""
        writing_mb = sum(
            other.config.guest.memory_mb
            for other in machines
            if other.state == states.SUSPENDING and other.id != machine.id
        )
        free_mb = free_disk_mb(self._settings.data_dir) - self._settings.disk_floor_mb - writing_mb
        if machine.config.guest.memory_mb > free_mb:
            raise Aborted(
                "unable to suspend machine: insufficient disk space available on the current host",
                why=f"its memory may take {machine.config.guest.memory_mb} MiB, and {max(0, free_mb)} are to spare",
                next="free disk space, or stop it instead",
            )


def free_disk_mb(directory: Path) -> int:
    while not directory.exists():
        directory = directory.parent
    return shutil.disk_usage(directory).free // _MIB
