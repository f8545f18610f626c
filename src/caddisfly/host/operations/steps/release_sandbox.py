"""Take down everything an incarnation had on this host: processes, groups, root, network."""

from __future__ import annotations

from caddisfly.host.operations.work import Work, attachment_of


async def run(work: Work) -> None:
    if not work.machine.run_id:
        return
    await work.parts.driver.destroy(work.machine.run_id)
    await work.parts.images.roots.unmount(work.machine.run_id)
    await work.parts.links.detach(attachment_of(work.machine))
    work.image, work.root, work.netns = None, None, None
