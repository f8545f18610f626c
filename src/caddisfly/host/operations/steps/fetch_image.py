"""Bring its images here, and the configs of those that it is only told about.

Free when every layer is present; never asks a registry what is known by digest.
"""

from __future__ import annotations

from caddisfly.host.operations.work import Work


async def run(work: Work) -> None:
    images = work.parts.images
    organization = work.machine.org_id
    work.images = {
        container: await images.fetch(await images.resolve(reference, organization=organization))
        for container, reference in work.machine.references.items()
    }
    work.image_configs = {
        name: await images.config_of(await images.resolve(reference, organization=organization))
        for name, reference in work.machine.file_images.items()
    }
