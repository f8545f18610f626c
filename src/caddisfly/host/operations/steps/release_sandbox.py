"""Take down everything an incarnation had on this host: processes, groups, root, network. A root may be kept."""

from __future__ import annotations

from caddisfly.host.operations import plans, root
from caddisfly.host.operations.work import Work, attachment_of


async def run(work: Work) -> None:
    if work.machine.run_id:
        await work.parts.driver.destroy(work.machine.run_id)
        await work.parts.snapshots.remove(work.machine.run_id)
    for_good = work.operation.kind == plans.DESTROY
    await root.unmount(work.parts, work.machine, for_good=for_good, again=work.keeps_root)
    if work.machine.run_id:
        await work.parts.links.detach(attachment_of(work.machine))
    work.images, work.image_configs, work.roots, work.netns = {}, {}, {}, None
