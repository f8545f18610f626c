"""A real host whose runtime can suspend: gVisor."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.conftest import NatsServer, eventually
from tests.host.conftest import RunningAgent, busybox, running_agent, shared_nats, watcher
from tests.leaks import traces

__all__ = ["busybox", "shared_nats", "watcher"]


@pytest.fixture(scope="package")
def shared_agent(shared_nats: NatsServer, busybox: Path) -> Iterator[RunningAgent]:
    before = traces()
    with running_agent(shared_nats, busybox, runtime="runsc", suspend_drain_s=6) as agent:
        yield agent
    left = traces() - before
    assert not left, "\n".join(sorted(left))


@pytest.fixture
async def agent(shared_agent: RunningAgent) -> AsyncIterator[RunningAgent]:
    """Put back to an undisturbed one, without a Machine and without a snapshot."""
    before = traces()
    yield shared_agent
    assert shared_agent.process is not None
    if shared_agent.process.poll() is not None:
        await shared_agent.restarted()
    await shared_agent.clear()
    try:
        await eventually(lambda: not traces() - before, timeout_s=5)
    except AssertionError:
        raise AssertionError("\n".join(sorted(traces() - before))) from None
    snapshots = shared_agent.settings.data_dir / "snapshots"
    assert not snapshots.exists() or not list(snapshots.iterdir())
