"""Take down what a suspended Machine does not need: its processes, and the mount of its root.

Its place in the network stays: who speaks to it meanwhile is not told that it is gone.
What is not mounted cannot be written to, and is the same after the host has lost power.
"""

from __future__ import annotations

from caddisfly.host.operations import root
from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    await work.parts.driver.destroy(work.machine.run_id)
    await root.unmount(work.parts, work.machine, for_good=False, again=True)
    work.roots, work.netns = {}, None
