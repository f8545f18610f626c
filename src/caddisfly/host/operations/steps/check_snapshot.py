"""See that memory and root are what they were when it was suspended: old memory on a new disk is worse than none.

Raises `Unusable` with the reason when they are not. Then it starts anew.
"""

from __future__ import annotations

from caddisfly.host.drivers.driver import Suspendable, Unusable
from caddisfly.host.operations import root
from caddisfly.host.operations.work import Work
from caddisfly.model.errors import FailedPrecondition


async def run(work: Work) -> None:
    parts, machine, snapshot = work.parts, work.machine, work.machine.snapshot
    if snapshot is None:
        raise Unusable("its memory was never written")
    if snapshot.resumed_in not in ("", parts.boot):
        raise Unusable("it was resumed before", why="the host went down when it had just begun to run")
    if snapshot.instance_id != machine.instance_id:
        raise Unusable("its memory is that of another version", why=f"of {snapshot.instance_id}")
    driver = parts.driver
    try:
        build = driver.snapshot_build(machine.run_id) if isinstance(driver, Suspendable) else driver.name
    except FailedPrecondition as problem:
        raise Unusable("its host can no longer resume it", why=str(problem)) from problem
    if build != snapshot.build:
        raise Unusable("its memory was written by another program", why=f"by {snapshot.build}, and here is {build}")
    # Not of a try that was cut short: that has mounted the root, and nothing of it has run.
    if not snapshot.resumed_in and await root.marks(parts, machine) != snapshot.roots:
        raise Unusable("its root has changed since its memory was written")
    await parts.snapshots.check(machine.run_id, snapshot.sha256)
