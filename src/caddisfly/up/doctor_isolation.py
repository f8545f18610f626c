"""What new Machines on this computer will run in, from what the other checks have found: the agent's own rule."""

from __future__ import annotations

from collections.abc import Sequence

from caddisfly.host.isolation import wanted
from caddisfly.model.isolation import CONTAINER, GVISOR, MICROVM, Isolation
from caddisfly.up.examination import Check
from caddisfly.up.settings import Settings

_BY: dict[Isolation, tuple[str, ...]] = {MICROVM: ("KVM",), CONTAINER: ("crun", "runc"), GVISOR: ("runsc",)}
"""The checks of which one must be well, in the order in which the agent tries them."""


def verdict(found: Sequence[Check], settings: Settings) -> Check:
    """Which isolation is taken, which others can be asked for, and why not the rest."""
    checks = {check.name: check for check in found}
    able: dict[Isolation, str] = {}
    lacking = []
    for isolation in wanted(settings.host):
        names = _BY[isolation]
        if isolation == CONTAINER and settings.host.runtime != "auto":
            names = (settings.host.runtime,)
        looked = [checks[name] for name in names if name in checks]
        well = next((check for check in looked if check.result == "ok"), None)
        if well is not None:
            able[isolation] = well.name
        elif isolation == MICROVM == settings.host.isolation and settings.host.vmm != "firecracker":
            able[isolation] = "emulation, which is slow"
        else:
            lacking.append(f"no {isolation} (see {' and '.join(names)})")
    set_to = f"[host] isolation is {settings.host.isolation}"
    if not able:
        return Check(
            name="isolation", result="fail", found="; ".join([set_to, *lacking]), next="mend that, or set another one"
        )
    first, *others = able
    said = [f"{first} by {able[first]}"]
    said += [f"{isolation} by {able[isolation]} for organizations that must have it" for isolation in others]
    return Check(name="isolation", result="ok", found="; ".join([*said, *lacking, set_to]))
