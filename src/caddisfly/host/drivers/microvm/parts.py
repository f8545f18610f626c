"""What all guests of a host share: kernel, initramfs, tools drive; and an image to try them with.

Made when first needed, made anew when the host's packages or our own part have changed, kept under a name that says of
what.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.drivers.microvm import initramfs, modules, tools
from caddisfly.host.drivers.microvm.kernel import GUEST, Kernel, startable
from caddisfly.host.images import erofs

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """The files. `key` changes with any of them."""

    key: str
    kernel: Path
    initramfs: Path
    tools: Path
    probe: Path
    """An image with nothing but busybox in it."""

    @classmethod
    def ready(cls, directory: Path, *, guest: Path = GUEST) -> Parts:
        """Those in `directory`, made if need be. Blocks for seconds then. Raises `FailedPrecondition`."""
        kernel = Kernel.find(guest)
        key = _key(kernel, guest)
        home = directory / key
        found = cls(key, home / "vmlinux", home / "initramfs", home / "tools.erofs", home / "probe.erofs")
        if not home.exists():
            draft = directory / f"{key}.new"
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True, mode=0o700)
            (draft / "vmlinux").write_bytes(startable(kernel.image.read_bytes()))
            (draft / "initramfs").write_bytes(initramfs.build(kernel))
            tools.build(draft / "tools.erofs", guest)
            (draft / "probe" / "bin").mkdir(parents=True)
            shutil.copy(initramfs.BUSYBOX, draft / "probe" / "bin" / "busybox")
            erofs.build(draft / "probe", draft / "probe.erofs")
            shutil.rmtree(draft / "probe")
            draft.rename(home)
            log.info("microvm.parts_made", extra={"key": key, "kernel": kernel.release})
        return found


def _key(kernel: Kernel, guest: Path) -> str:
    digest = hashlib.sha256()
    programs = tools.find(guest)
    read = [kernel.image, initramfs.BUSYBOX, *programs.values(), *tools.libraries(programs.values(), guest).values()]
    for path in read:
        found = path.stat()
        digest.update(f"{path} {found.st_size} {found.st_mtime_ns}\n".encode())
    for content in initramfs.programs().values():
        digest.update(content)
    digest.update(repr((modules.WANTED, modules.FINDERS, modules.VSOCK)).encode())
    return f"{kernel.release}-{digest.hexdigest()[:12]}"
