"""Let it go on where it was: on the root as it was, in the network as it was.

That it may have begun to run is written down first. A snapshot is used once (`check_snapshot` has the rest).
"""

from __future__ import annotations

from dataclasses import replace

from caddisfly.host.drivers.driver import Suspendable
from caddisfly.host.operations import root
from caddisfly.host.operations.steps import fetch_image, start_sandbox
from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    parts, snapshot = work.parts, work.machine.snapshot
    assert snapshot is not None
    assert isinstance(parts.driver, Suspendable)
    parts.check_room(work.machine)
    parts.driver.expect()
    if not work.images:
        await fetch_image.run(work)
    if snapshot.resumed_in != parts.boot:
        claimed = replace(snapshot, resumed_in=parts.boot)
        await work.alter(lambda now: replace(now, snapshot=claimed))
    layers = {container: image.layer_dirs for container, image in work.images.items()}
    work.roots = await root.mount(parts, work.machine, layers, again=True)
    work.netns = await parts.links.reattach(work.attachment)
    sandbox = await start_sandbox.compiled(work, fresh=False)
    await parts.driver.resume(sandbox, parts.snapshots.path(sandbox.id))
