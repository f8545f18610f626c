"""Give the incarnation its root: the image's layers under a writable layer of limited size. Each container has one."""

from __future__ import annotations

from caddisfly.host.drivers.driver import behind
from caddisfly.host.operations import root
from caddisfly.host.operations.steps import fetch_image
from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    if not work.images:
        await fetch_image.run(work)
    work.parts.check_room(work.machine)
    behind(work.parts.driver, work.machine.run_id).expect()
    layers = {container: image.layer_dirs for container, image in work.images.items()}
    work.roots = await root.mount(work.parts, work.machine, layers, again=bool(work.machine.root_of))
