"""The size of Machines: which one a new one gets, what flags make of one, and how people call it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config import vm
from caddisfly.launch.config.app_config import AppConfig
from caddisfly.model.guest import DEFAULT_PRESET, Guest, resized

Guests = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """What flags say. Empty and 0 are unsaid."""

    size: str = ""
    memory_mb: int = 0
    cpus: int = 0
    cpu_kind: str = ""

    def onto(self, guest: Guests) -> dict[str, Any]:
        return resized(guest, size=self.size, memory_mb=self.memory_mb, cpus=self.cpus, cpu_kind=self.cpu_kind)


def said(config: AppConfig | None, group: str) -> Guests | None:
    """What `[[vm]]` says for the group, if anything."""
    chosen = vm.chosen(config.vms, group) if config else None
    return chosen.to_wire(config.host_dedication_id) if chosen and config else None


def of_new(config: AppConfig | None, group: str, *, like: Guests | None, flags: Size) -> dict[str, Any]:
    """Flags change what `[[vm]]` says; without it, what the others have; without others, the least there is."""
    return flags.onto(said(config, group) or like or Guest.of_preset(DEFAULT_PRESET).to_wire())


def named(guest: Guests) -> str:
    """`shared-cpu-2x`, with the memory when that is not the preset's: `shared-cpu-2x:1024MB`."""
    shape = Guest(
        cpu_kind=guest.get("cpu_kind") or "shared", cpus=guest.get("cpus") or 1, memory_mb=guest.get("memory_mb") or 256
    )
    preset = shape.preset
    if not preset:
        return f"{shape.cpu_kind}, {shape.cpus} CPUs, {shape.memory_mb} MB"
    return preset if Guest.of_preset(preset).memory_mb == shape.memory_mb else f"{preset}:{shape.memory_mb}MB"
