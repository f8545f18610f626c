"""Write what the Machine finds inside, and start its main process."""

from __future__ import annotations

import asyncio

from caddisfly.host.operations.steps import attach_network, mount_root
from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    # After a crash the steps before this one are run again, because what they gave lived in the agent's memory.
    if work.root is None:
        await mount_root.run(work)
    if work.netns is None:
        await attach_network.run(work)
    assert work.image is not None
    assert work.root is not None
    assert work.netns is not None
    sandbox = await asyncio.to_thread(
        work.parts.compile,
        work.machine,
        image=work.image.resolved.config,
        secrets=await work.parts.open_secrets(work.machine),
        root=work.root,
        netns=work.netns,
        log=work.log,
        settings=work.parts.settings,
    )
    await work.parts.driver.start(sandbox)
