"""Give the incarnation its root: the image's layers under a writable layer of limited size."""

from __future__ import annotations

from caddisfly.host.operations import root
from caddisfly.host.operations.steps import fetch_image
from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    if work.image is None:
        await fetch_image.run(work)
    assert work.image is not None
    work.parts.check_room(work.machine)
    work.parts.driver.expect()
    work.root = await root.mount(work.parts, work.machine, work.image.layer_dirs)
