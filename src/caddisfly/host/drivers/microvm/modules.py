"""Which of the kernel's modules a guest loads, in an order in which each finds what it needs.

What a module needs stands in the module itself, so neither `depmod` nor `modinfo` has to be on the host.
"""

from __future__ import annotations

import re
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition

WANTED = ("virtio_blk", "virtio_net", "virtio_console", "virtio_balloon", "erofs", "overlay")
FINDERS = ("virtio_mmio",)
"""Those by which a guest finds its devices, and which it therefore loads last."""
VSOCK = ("vmw_vsock_virtio_transport",)
"""For a VMM that has no virtio-serial."""
_DEPENDS = re.compile(rb"\0depends=([^\0]*)\0")
_SIGNED = b"~Module signature appended~\n"
_SIGNATURE_SIZE_AT = -len(_SIGNED) - 4


def in_order(directory: Path, wanted: tuple[str, ...] = WANTED) -> list[tuple[str, bytes]]:
    """Names and contents. A module that is not there is taken as built in, but for those that are `wanted`."""
    files = {_name(path.name.removesuffix(".ko")): path for path in directory.rglob("*.ko")}
    builtin = _builtin(directory)
    found: dict[str, bytes] = {}
    for name in wanted:
        if name not in files and name not in builtin:
            raise FailedPrecondition(
                f"the kernel for microVMs lacks the module {name}", why=f"none below {directory}", next="scripts/setup"
            )
        _add(name, files, found)
    return list(found.items())


def beside(directory: Path, others: list[tuple[str, bytes]], wanted: tuple[str, ...]) -> list[tuple[str, bytes]]:
    """Those that are needed once the `others` are loaded."""
    loaded = {name for name, _ in others}
    return [module for module in in_order(directory, wanted) if module[0] not in loaded]


def _add(name: str, files: dict[str, Path], found: dict[str, bytes]) -> None:
    if name in found or name not in files:
        return
    content = files[name].read_bytes()
    match = _DEPENDS.search(content)
    for other in (match[1].decode() if match else "").split(","):
        _add(_name(other), files, found)
    found[name] = _without_signature(content)


def _builtin(directory: Path) -> set[str]:
    listed = directory / "modules.builtin"
    lines = listed.read_text().splitlines() if listed.exists() else []
    return {_name(Path(line).name.removesuffix(".ko")) for line in lines}


def _name(text: str) -> str:
    return text.replace("-", "_")


def _without_signature(content: bytes) -> bytes:
    """Our initramfs is what vouches for a module; checking its signature as well only makes a boot longer."""
    if not content.endswith(_SIGNED):
        return content
    size = int.from_bytes(content[_SIGNATURE_SIZE_AT:][:4], "big")
    # The signature, twelve bytes that describe it, the mark.
    return content[: -(size + 12 + len(_SIGNED))]
