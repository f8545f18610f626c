"""Plug the incarnation into its network."""

from __future__ import annotations

from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    work.netns = await work.parts.links.attach(work.attachment)
