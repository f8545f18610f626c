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
    pinned = work.machine.file_images  # of Machines from before there was such a record: by the name alone
    work.image_configs = {
        name: await images.config_of(await images.resolve(pinned.get(name, name), organization=organization))
        for name in work.machine.config.file_images
    }
