"""The guest's first root: busybox, the modules that find its drives, and our init. 3 MB, the same for all guests.

It is not compressed: without KVM, unpacking costs more than reading.
"""

from __future__ import annotations

import subprocess
from importlib.resources import files
from pathlib import Path

from caddisfly.host.drivers.microvm import instructions, modules
from caddisfly.host.drivers.microvm.cpio import Archive
from caddisfly.host.drivers.microvm.kernel import Kernel
from caddisfly.model.errors import FailedPrecondition

BUSYBOX = Path("/bin/busybox")
_DIRECTORIES = (
    *("bin", "dev", "etc", "finders", "lower", "modules", "newroot", "proc", "root"),
    *("run", "scratch", "sys", "tools", "vsock"),
)
_TOOLS = ("lib", "lib64", "usr")
"""Where the programs of the tools drive look for their libraries."""
_PASSWD = "root:x:0:0:root:/root:/bin/sh\nsshd:x:100:65534::/run/sshd:/bin/false\n"


def build(kernel: Kernel, *, busybox: Path = BUSYBOX) -> bytes:
    """Raises `FailedPrecondition` without a static busybox, or when the kernel lacks a module."""
    archive = Archive()
    for name in _DIRECTORIES:
        archive.directory(name)
    for name in _TOOLS:
        archive.link(name, f"tools/{name}")
    archive.character_device("dev/console", 5, 1)
    archive.file("etc/passwd", _PASSWD.encode())
    archive.file("etc/group", b"root:x:0:\n")
    content, applets = _busybox(busybox)
    archive.file("bin/busybox", content, 0o755)
    for applet in applets:
        archive.link(f"bin/{applet}", "busybox")
    loaded = modules.in_order(kernel.modules)
    finders = modules.beside(kernel.modules, loaded, modules.FINDERS)
    vsock = modules.beside(kernel.modules, [*loaded, *finders], modules.VSOCK)
    for directory, found in (("modules", loaded), ("finders", finders), ("vsock", vsock)):
        for number, (name, module) in enumerate(found):
            archive.file(f"{directory}/{number:02}-{name}", module)
    for name, program in programs().items():
        archive.file(name, program, 0o755)
    return archive.packed()


def programs() -> dict[str, bytes]:
    """Our own part of the guest."""
    guest = files(__package__) / "guest"
    scripts = {name: (guest / name).read_bytes() for name in ("init", "enter", "order", "answer")}
    return scripts | {f"bin/{name}": program for name, program in instructions.programs().items()}


def _busybox(path: Path) -> tuple[bytes, list[str]]:
    try:
        content = path.read_bytes()
        listed = subprocess.run([path, "--list"], capture_output=True, check=True, text=True, timeout=10).stdout
    except (OSError, subprocess.SubprocessError) as error:
        raise FailedPrecondition(
            "busybox does not work", why=str(error), next="apt-get install busybox-static"
        ) from error
    if b"/ld-linux" in content:
        raise FailedPrecondition(
            f"{path} needs libraries, which a guest does not have", next="apt-get install busybox-static"
        )
    return content, [name for name in listed.split() if name != "busybox"]
