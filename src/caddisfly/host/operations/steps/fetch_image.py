"""Bring the image here. Free when every layer is present; never asks a registry what is known by digest."""

from __future__ import annotations

from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    images = work.parts.images
    ref = work.machine.image
    tag = f":{ref.tag}" if ref.tag else ""
    resolved = await images.resolve(
        f"{ref.registry}/{ref.repository}{tag}@{ref.digest}", organization=work.machine.org_id
    )
    work.image = await images.fetch(resolved)
