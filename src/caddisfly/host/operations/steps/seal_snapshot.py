"""Make memory and root durable, and write down what they must be when it is resumed."""

from __future__ import annotations

from dataclasses import replace

from caddisfly.host.drivers.driver import Suspendable
from caddisfly.host.operations import root
from caddisfly.host.operations.work import Work
from caddisfly.model.snapshot import Snapshot


async def run(work: Work) -> None:
    machine, driver = work.machine, work.parts.driver
    assert isinstance(driver, Suspendable)
    sha256, size_bytes = await work.parts.snapshots.seal(machine.run_id)
    snapshot = Snapshot(
        instance_id=machine.instance_id,
        build=driver.snapshot_build(machine.run_id),
        sha256=sha256,
        size_bytes=size_bytes,
        roots=await root.marks(work.parts, machine),
    )
    await work.alter(lambda now: replace(now, snapshot=snapshot))
