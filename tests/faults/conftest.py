"""One platform for all faults; each test finds all its parts ready and no Machine, and leaves it so."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator

import pytest

from tests.conftest import eventually
from tests.faults.platform import PARTS, Api, Platform, running
from tests.leaks import traces


@pytest.fixture(scope="package")
def shared_platform() -> Iterator[Platform]:
    with running() as platform:
        yield platform


@pytest.fixture
async def platform(shared_platform: Platform) -> AsyncIterator[Platform]:
    before = machine_traces()
    yield shared_platform
    if not shared_platform.pid("up"):
        shared_platform.up()
    for part in ("up", *PARTS):
        if shared_platform.pid(part):
            shared_platform.thaw(part)
        await shared_platform.back(part)
    async with shared_platform.api() as api:
        await api.clear()
    try:
        # The kernel takes links and namespaces apart a moment after their names are gone.
        await eventually(lambda: not machine_traces() - before, timeout_s=5)
    except AssertionError:
        raise AssertionError("\n".join(sorted(machine_traces() - before))) from None


def machine_traces() -> set[str]:
    """I4 for what Machines leave: processes of the platform itself come and go in these tests."""
    return {trace for trace in traces() if not trace.startswith("process ") or "conmon" in trace}


@pytest.fixture
async def api(platform: Platform) -> AsyncIterator[Api]:
    async with platform.api() as client:
        yield client
