"""What keeps a Machine apart from its neighbours: a kernel of its own, a kernel in user space, or the host's kernel."""

from __future__ import annotations

from typing import Final, Literal

Isolation = Literal["microvm", "gvisor", "container"]

MICROVM: Final = "microvm"
GVISOR: Final = "gvisor"
CONTAINER: Final = "container"
CLASSES: Final[tuple[Isolation, ...]] = (MICROVM, GVISOR, CONTAINER)
"""The strongest first."""
