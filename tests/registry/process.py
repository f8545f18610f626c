"""A registry as a process of its own, to be killed: `python -m tests.registry.process STORE PORT`."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from caddisfly.host.registry.settings import RegistrySettings
from tests.registry.conftest import MadeUpControl, serving


async def _run() -> None:
    settings = RegistrySettings(store=Path(sys.argv[1]), port=int(sys.argv[2]), min_free_mb=0)
    async with serving(settings, MadeUpControl()):
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(_run())
