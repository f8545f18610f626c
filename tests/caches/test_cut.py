"""An app's cache is cut to its limit, on an agent with settings of its own: a computer has one at a time."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.builds.conftest import BuildingAgent, building_agent, registry
from tests.builds.registry import PushRegistry
from tests.conftest import NatsServer
from tests.host.conftest import shared_nats

__all__ = ["registry", "shared_nats"]


@pytest.fixture
def roomy_agent(shared_nats: NatsServer, registry: PushRegistry) -> Iterator[BuildingAgent]:
    """One whose builds may write more than it keeps of them."""
    with building_agent(shared_nats, registry, disk_gb=5, cache_gb=1) as agent:
        yield agent


async def test_an_apps_cache_is_cut_to_its_limit_before_the_next_build(roomy_agent: BuildingAgent) -> None:
    agent = roomy_agent
    dockerfile = "FROM busybox\nARG NUMBER\nRUN echo $NUMBER > /number; head -c 700m /dev/zero > /big\n"
    cache = agent.settings.data_dir / "builds" / "fs" / "caches" / agent.app.org_id / f"{agent.app.id}.ext4"

    def used_mb() -> int:
        return cache.stat().st_blocks * 512 >> 20

    await agent.built(dockerfile, args={"NUMBER": "1"})
    await agent.built(dockerfile, args={"NUMBER": "2"})
    assert used_mb() > 1400  # it is cut before a build, not after
    await agent.built("FROM busybox\nRUN echo small\n")
    assert used_mb() < 1100
    await agent.built(dockerfile, args={"NUMBER": "2"})  # whether cut away or not
