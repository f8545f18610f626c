"""Which writable root a Machine has, and what becomes of it (reference machines-api, 2.3).

A root has the name of the incarnation that writes to it, and goes with it. One that persists outlives incarnations and
has a name of its own:

    <machine>-kept               persist is "always": kept over stops, restarts and updates
    <machine>-kept-<version>     persist is "restart": an update begins a new one

Several containers have a root each, with their name after a dot. A Machine that was suspended and has lost its memory
goes on with the root of that earlier incarnation, which its record then names (`root_of`).

No record says what is kept: the disk does. So no crash can make the two differ, and whoever finds a root knows by its
name alone whether it may go. One that the present version does not use goes when the Machine next starts, and all go
when it is destroyed.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from caddisfly.host.drivers.driver import Drives, TakesDrives, behind
from caddisfly.host.operations.work import Parts, Root, Roots
from caddisfly.model.machine import Machine

_KEPT = "kept"


def keys(machine: Machine) -> dict[str, str]:
    """The names of the roots that this version of it writes to, by container."""
    persist, name = machine.config.persist, machine.root_of or machine.run_id
    if persist == "always":
        name = f"{machine.id}-{_KEPT}"
    elif persist == "restart":
        name = f"{machine.id}-{_KEPT}-{machine.instance_id}"
    return {container: f"{name}.{container}" if container else name for container in machine.references}


def kept_for(key: str) -> str:
    """The id of the Machine that a root is kept for; empty when it goes with its incarnation."""
    machine_id, _, rest = key.partition(".")[0].partition("-")
    return machine_id if rest.partition("-")[0] == _KEPT else ""


async def mount(
    parts: Parts, machine: Machine, layers: Mapping[str, tuple[Path, ...]], *, again: bool = False
) -> dict[str, Root]:
    """Its roots, over the layers of its images. What an earlier version kept, and this one does not use, goes.

    `again`: with what was written there before, whatever its config says of stops.
    """
    roots, wanted = parts.images.roots, keys(machine)
    for other in _of(machine, roots):
        if other not in wanted.values() and kept_for(other):
            await roots.unmount(other)
    size_mb = machine.config.root_size_mb or parts.settings.root_size_mb
    as_disks = isinstance(behind(parts.driver, machine.run_id), TakesDrives)
    made = {}
    for container, name in wanted.items():
        keep = again or bool(kept_for(name))
        if as_disks:
            laid = await roots.lay_out(name, layers[container], size_mb=size_mb, keep=keep)
            made[container] = Root(laid.view, Drives(image=laid.image, scratch=laid.scratch, kept=keep))
        else:
            made[container] = Root(await roots.mount(name, layers[container], size_mb=size_mb, keep=keep))
    return made


async def unmount(parts: Parts, machine: Machine, *, for_good: bool, again: bool = False) -> None:
    """Take down what it has mounted. What is kept stays on the disk, unless it is `for_good`, and so does what its
    present version uses when it is to be mounted `again`."""
    roots, wanted = parts.images.roots, keys(machine).values() if again else ()
    for name in _of(machine, roots):
        await roots.unmount(name, keep=name in wanted or (bool(kept_for(name)) and not for_good))


async def marks(parts: Parts, machine: Machine) -> dict[str, str]:
    """Make its roots durable, none of which is mounted. Returns what tells each from any later state of it."""
    return {name: await parts.images.roots.mark(name) for name in keys(machine).values()}


def _of(machine: Machine, roots: Roots) -> list[str]:
    return sorted(name for name in roots.known() if name.partition("-")[0] == machine.id)
