"""Templates: guests that stand just before they look for their devices, so that others can go on from there.

Half of what a guest's start takes, without a KVM, is its kernel's own beginning, which is the same each time. The first
guest of a shape stands still once, is written to a file, and goes on; the next ones begin with that file. A shape is
what a state is bound to: VMM and kernel, memory, processors, which devices there are. What is behind the devices may
differ, because nobody has looked at it yet.

What guests of one template share is what the kernel chose at random by then: where it lies in memory, and how it
shuffles what it allocates. Who is root in one of them knows that of the others. So a template is its organization's own
(docs/decisions/0021). All keys for random numbers are drawn anew before anything uses them.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
from pathlib import Path

from caddisfly.host.drivers.microvm.vmm import Clones, Spec, Vmm
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)

KEPT = 8
"""Each is some 75 MB on the disk. Those that were not used for longest go."""
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Templates:
    """Those of one host, as long as it runs: after a loss of power nothing here would be sure to be whole."""

    def __init__(self, directory: Path, vmm: Vmm) -> None:
        self._vmm = vmm
        self._directory = directory / _BOOT_ID.read_text().strip()
        for old in directory.iterdir() if directory.exists() else ():
            if old != self._directory:
                shutil.rmtree(old)
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        for unfinished in self._directory.glob("*.new"):
            unfinished.unlink()

    def find(self, spec: Spec, organization: str) -> Path | None:
        """That of this shape, if there is one."""
        path = self._path(spec, organization)
        try:
            os.utime(path)
        except FileNotFoundError:
            return None
        return path

    def wanted(self, spec: Spec, organization: str) -> bool:
        """Whether a guest of this shape should stand still, so that it can be written down."""
        if not (isinstance(self._vmm, Clones) and self._vmm.clones and organization):
            return False
        return shutil.disk_usage(self._directory).free > 2 * spec.memory_mb << 20

    async def make(self, spec: Spec, organization: str) -> None:
        """Write down a guest that `halts`, and let it go on, also when it cannot be written."""
        assert isinstance(self._vmm, Clones)
        await self._vmm.halted(spec.directory)
        path = self._path(spec, organization)
        draft = path.with_name(f"{spec.id}.new")  # another one may be at it, too
        try:
            target = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                await self._vmm.save(spec.directory, target)
            finally:
                os.close(target)
            draft.rename(path)
        except (Problem, OSError) as problem:
            log.warning("microvm.no_template", extra={"sandbox": spec.id, "reason": str(problem)})
            draft.unlink(missing_ok=True)
        await self._vmm.resume(spec.directory)
        self._forget_oldest()

    def drop(self, template: Path) -> None:
        """One that nothing could be started from."""
        template.unlink(missing_ok=True)

    def _forget_oldest(self) -> None:
        kept = sorted(self._directory.glob("*.state"), key=lambda path: path.stat().st_mtime, reverse=True)
        for path in kept[KEPT:]:
            path.unlink()

    def _path(self, spec: Spec, organization: str) -> Path:
        devices = [(drive.role, drive.writable) for drive in spec.drives]
        links = (spec.tap is not None, spec.terminal)
        shape = (organization, self._vmm.build, str(spec.kernel), spec.memory_mb, spec.vcpus, devices, links)
        return self._directory / f"{hashlib.sha256(repr(shape).encode()).hexdigest()[:24]}.state"
