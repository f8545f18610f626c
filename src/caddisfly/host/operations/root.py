"""Which writable root a Machine has, and what becomes of it (reference machines-api, 2.3).

A root has the name of the incarnation that writes to it, and goes with it. One that persists outlives incarnations and
has a name of its own:

    <machine>-kept               persist is "always": kept over stops, restarts and updates
    <machine>-kept-<version>     persist is "restart": an update begins a new one

No record says what is kept: the disk does. So no crash can make the two differ, and whoever finds a root knows by its
name alone whether it may go. One that the present version does not use goes when the Machine next starts, and all go
when it is destroyed.
"""

from __future__ import annotations

from pathlib import Path

from caddisfly.host.operations.work import Parts, Roots
from caddisfly.model.machine import Machine

_KEPT = "kept"


def key(machine: Machine) -> str:
    """The name of the root that this version of it writes to."""
    persist = machine.config.persist
    if persist == "always":
        return f"{machine.id}-{_KEPT}"
    return f"{machine.id}-{_KEPT}-{machine.instance_id}" if persist == "restart" else machine.run_id


def kept_for(key: str) -> str:
    """The id of the Machine that a root is kept for; empty when it goes with its incarnation."""
    machine_id, _, rest = key.partition("-")
    return machine_id if rest.partition("-")[0] == _KEPT else ""


async def mount(parts: Parts, machine: Machine, layers: tuple[Path, ...]) -> Path:
    """Its root, over the layers of its image. What an earlier version kept, and this one does not use, goes."""
    roots, wanted = parts.images.roots, key(machine)
    for other in _of(machine, roots):
        if other != wanted and kept_for(other):
            await roots.unmount(other)
    size_mb = machine.config.root_size_mb or parts.settings.root_size_mb
    return await roots.mount(wanted, layers, size_mb=size_mb, keep=bool(kept_for(wanted)))


async def unmount(parts: Parts, machine: Machine, *, for_good: bool) -> None:
    """Take down what it has mounted. What is kept stays on the disk, unless it is `for_good`."""
    roots = parts.images.roots
    for name in _of(machine, roots):
        await roots.unmount(name, keep=bool(kept_for(name)) and not for_good)


def _of(machine: Machine, roots: Roots) -> list[str]:
    return sorted(name for name in roots.known() if name.partition("-")[0] == machine.id)
