"""`[[vm]]`: the size of the Machines of a group (reference fly-launch, 1.11).

An entry that names the group beats one that names none, which is for every group; of equals the first counts. A
preset comes first and single keys change it. When CPUs are changed but memory is not, Fly keeps the preset's 256 MB,
which its platform then refuses; the strict reading takes the least memory that the new shape may have, the lenient
one is Fly's.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from caddisfly.launch.config.findings import Findings, nearest
from caddisfly.launch.config.node import Node
from caddisfly.launch.config.processes import Groups
from caddisfly.launch.config.section import Section
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.guest import DEFAULT_PRESET, GPU_KINDS, KINDS, PRESET_NAMES, Guest

PERSIST = ("never", "restart", "always")
_GPUS = {"a100-40gb": "a100-pcie-40gb", "a100-80gb": "a100-sxm4-80gb", "l40s": "l40s", "a10": "a10"}
_GPU_PRESET = "performance-8x"
_GPU_PRESET_MB = 16384
_FAMILIES = ("shared", "performance")


@dataclass(frozen=True, slots=True, kw_only=True)
class Vm:
    """`guest` is the Machine config's, complete but for the app's own `host_dedication_id`."""

    guest: Mapping[str, Any]
    size: str = ""
    processes: tuple[str, ...] = ()

    def to_wire(self, host_dedication_id: str = "") -> dict[str, Any]:
        wire = dict(self.guest)
        if host_dedication_id:
            wire.setdefault("host_dedication_id", host_dedication_id)
        return wire


def chosen(entries: Iterable[Vm], group: str) -> Vm | None:
    """What counts for a group, if anything does."""
    candidates = [one for one in entries if not one.processes or group in one.processes]
    return min(candidates, key=lambda one: not one.processes, default=None)


def read(node: Node, findings: Findings, groups: Groups | None = None) -> Vm:
    """Without groups, as for `release_command_vm`, there is no `processes`."""
    with Section(node, findings) as section:
        size = section.text("size")
        gpu_kind = section.choice("gpu_kind", GPU_KINDS, complain=True)
        base = _preset(section, size, gpu_kind)
        memory, memory_mb = section.megabytes("memory"), section.whole("memory_mb", 0)
        if memory == 0:
            findings.error(section.place_of("memory"), "memory cannot be zero")
        changes = {
            "cpus": section.whole("cpus", 0),
            "cpu_kind": section.choice("cpu_kind", tuple(KINDS), complain=True),
            "memory_mb": memory_mb or memory,
            "gpus": section.whole("gpus", 0),
            "gpu_kind": gpu_kind,
            "max_memory_mb": section.whole("max_memory_mb", 0),
            "kernel_args": list(section.texts("kernel_args")),
            "host_dedication_id": section.text("host_dedication_id"),
            "persist_rootfs": _persist(section),
        }
        guest = {**base, **{name: value for name, value in changes.items() if value}}
        if findings.strict:
            _fit(section, guest, grew=bool(changes["cpus"] or changes["cpu_kind"]) and not changes["memory_mb"])
        return Vm(guest=guest, size=size, processes=groups.read(section) if groups else ())


def _preset(section: Section, size: str, gpu_kind: str) -> dict[str, Any]:
    if size and size not in PRESET_NAMES:
        _unknown_size(section, size)
        size = ""
    if not size and gpu_kind:
        return {**Guest.of_preset(_GPU_PRESET).to_wire(), "memory_mb": _GPU_PRESET_MB}
    base = Guest.of_preset(size or DEFAULT_PRESET).to_wire()
    return {**base, "gpus": 1, "gpu_kind": _GPUS[size]} if size in _GPUS else base


def _unknown_size(section: Section, size: str) -> None:
    family = next((name for name in _FAMILIES if size.startswith(name)), "")
    same = sorted(name for name in PRESET_NAMES if family and name.startswith(family))
    message = (
        f"'{size}' is an invalid machine size, choose one of: [{' '.join(same)}]"
        if family
        else f"invalid machine preset requested, '{size}', expected to start with 'shared' or 'performance'"
    )
    section.findings.error(section.place_of("size"), message, hint=nearest(size, PRESET_NAMES))


def _persist(section: Section) -> str:
    said = section.text("persist_rootfs")
    if said not in ("", *PERSIST):
        section.findings.error(
            section.place_of("persist_rootfs"),
            f'invalid persist_rootfs string value "{said}"',
            allowed=", ".join(PERSIST),
            hint=nearest(said, PERSIST),
        )
        return ""
    return said


def _fit(section: Section, guest: dict[str, Any], *, grew: bool) -> None:
    """Fly's tools leave it to the platform to refuse a shape that does not exist."""
    kind = KINDS[guest["cpu_kind"]]
    least = kind.min_mb * guest["cpus"]
    if grew and guest["memory_mb"] < least and guest["cpus"] in kind.counts:
        guest["memory_mb"] = least
    try:
        Guest.from_wire(guest)
    except InvalidArgument as error:
        where = (
            section.place_of("memory_mb", "memory") if "memory" in error.what else section.place_of("cpus", "cpu_kind")
        )
        section.findings.error(where, error.what.replace("config.guest.", ""))
