"""Remove memory that was written: what runs has newer, and nothing of it may be taken for what is written next."""

from __future__ import annotations

from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    await work.parts.snapshots.remove(work.machine.run_id)
