"""The size of a Machine: how many CPUs of which kind, how much memory (reference machines-api, 2.3 and 2.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from caddisfly.model.errors import InvalidArgument, Unprocessable


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuKind:
    """What one kind of CPU allows. Memory limits are MiB per CPU; a step is what memory is counted in."""

    name: str
    counts: tuple[int, ...]
    min_mb: int
    max_mb: int
    step_mb: int
    cpu_quota: float
    """The share of a physical core that each CPU is promised and, when the host is busy, limited to."""


KINDS = {
    kind.name: kind
    for kind in (
        CpuKind(name="shared", counts=(1, 2, 4, 6, 8), min_mb=256, max_mb=2048, step_mb=256, cpu_quota=0.0625),
        CpuKind(
            name="performance",
            counts=(1, 2, 4, 6, 8, 10, 12, 14, 16, 32, 64, 128),
            min_mb=2048,
            max_mb=8192,
            step_mb=1024,
            cpu_quota=1.0,
        ),
    )
}

GPU_KINDS = ("a100-pcie-40gb", "a100-sxm4-80gb", "l40s", "a10")

_PRESETS: dict[str, tuple[str, int, int]] = {
    **{f"shared-cpu-{n}x": ("shared", n, 256 * n) for n in (1, 2, 4, 6, 8)},
    **{f"performance-{n}x": ("performance", n, 2048 * n) for n in (1, 2, 4, 6, 8, 10, 12, 14, 16)},
    **dict.fromkeys(("a100-40gb", "a100-80gb", "l40s", "a10"), ("performance", 8, 32768)),
}
PRESET_NAMES = tuple(_PRESETS)
DEFAULT_PRESET = "shared-cpu-1x"


@dataclass(frozen=True, slots=True, kw_only=True)
class Guest:
    """What a Machine may use. `memory_mb` is MiB."""

    cpu_kind: str = "shared"
    cpus: int = 1
    memory_mb: int = 256
    gpu_kind: str = ""
    gpus: int = 0

    @classmethod
    def from_wire(cls, wire: Mapping[str, Any]) -> Guest:
        """Read and check `config.guest`. Raises with Fly's texts, which clients show to people."""
        kind = KINDS.get(wire.get("cpu_kind") or "shared")
        if kind is None:
            raise InvalidArgument(
                f"invalid config.guest.cpu_kind, {wire.get('cpu_kind')!r} is not one of {', '.join(KINDS)}"
            )
        cpus = _whole(wire, "cpus", 1)
        if cpus not in kind.counts:
            allowed = ", ".join(map(str, kind.counts))
            raise InvalidArgument(f"invalid config.guest.cpus, {kind.name} allows {allowed}, got {cpus}")
        memory = _whole(wire, "memory_mb", kind.min_mb * cpus)
        if memory < kind.min_mb * cpus:
            raise InvalidArgument(f"invalid config.guest.memory_mb, minimum required {kind.min_mb * cpus} MiB")
        if memory > kind.max_mb * cpus:
            raise InvalidArgument(f"invalid config.guest.memory_mb, cannot exceed {kind.max_mb * cpus} MiB")
        if memory % kind.step_mb:
            raise InvalidArgument(f"invalid config.guest.memory_mb, must be a multiple of {kind.step_mb} MiB")
        gpu = wire.get("gpu_kind") or ""
        if gpu and gpu not in GPU_KINDS:
            raise InvalidArgument(f"invalid config.guest.gpu_kind, {gpu!r} is not one of {', '.join(GPU_KINDS)}")
        return cls(cpu_kind=kind.name, cpus=cpus, memory_mb=memory, gpu_kind=gpu, gpus=_whole(wire, "gpus", 0))

    @classmethod
    def of_preset(cls, name: str) -> Guest:
        """Expand a preset such as `shared-cpu-2x`. Raises `Unprocessable` listing those that exist."""
        if name not in _PRESETS:
            raise Unprocessable(f"invalid config.size {name!r}", next=f"choose one of {', '.join(_PRESETS)}")
        cpu_kind, cpus, memory_mb = _PRESETS[name]
        return cls(cpu_kind=cpu_kind, cpus=cpus, memory_mb=memory_mb)

    def to_wire(self) -> dict[str, Any]:
        return {"cpu_kind": self.cpu_kind, "cpus": self.cpus, "memory_mb": self.memory_mb}

    @property
    def preset(self) -> str:
        """Name of the preset with these CPUs, whatever its memory; empty when there is none."""
        shapes = ((name, kind, cpus) for name, (kind, cpus, _) in _PRESETS.items())
        return next((name for name, kind, cpus in shapes if (kind, cpus) == (self.cpu_kind, self.cpus)), "")

    @property
    def promised_cores(self) -> float:
        """Physical cores that placement sets aside for it."""
        return KINDS[self.cpu_kind].cpu_quota * self.cpus


def resized(
    current: Mapping[str, Any], *, size: str = "", memory_mb: int = 0, cpus: int = 0, cpu_kind: str = ""
) -> dict[str, Any]:
    """`config.guest` changed as said: a preset first, single numbers after it. Raises as `Guest` does."""
    if not (size or memory_mb or cpus or cpu_kind):
        return dict(current)
    preset = Guest.of_preset(size).to_wire() if size else {}
    numbers = {"cpu_kind": cpu_kind, "cpus": cpus, "memory_mb": memory_mb}
    wire = {**current, **preset, **{name: value for name, value in numbers.items() if value}}
    return {**current, **Guest.from_wire(wire).to_wire()}


def _whole(wire: Mapping[str, Any], name: str, default: int) -> int:
    value = wire.get(name)
    if value is None:
        return default
    if isinstance(value, bool) or not isinstance(value, int | float) or value != int(value):
        raise InvalidArgument(f"invalid config.guest.{name}, must be a whole number, got {value!r}")
    return int(value)
