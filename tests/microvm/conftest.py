"""A real host whose Machines are virtual machines. One agent for all tests: without KVM a boot takes seconds."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from caddisfly.model.machine import Machine
from tests.conftest import NatsServer, eventually
from tests.host.conftest import RunningAgent, Watcher, busybox, running_agent, shared_nats, watcher
from tests.leaks import traces

__all__ = ["busybox", "shared_nats", "watcher"]

BOOT_S = 60.0
API = "UNIX-CONNECT:/newroot/.fly/api"
"""As programs outside the Machine's root see it."""


@pytest.fixture(scope="package")
def shared_host(shared_nats: NatsServer, busybox: Path) -> Iterator[RunningAgent]:
    before = traces()
    with running_agent(shared_nats, busybox, isolation="microvm") as agent:
        yield agent
    left = traces() - before
    assert not left, "\n".join(sorted(left))


@pytest.fixture
async def host(shared_host: RunningAgent) -> AsyncIterator[RunningAgent]:
    before = traces()
    yield shared_host
    if shared_host.process is None or shared_host.process.poll() is not None:
        await shared_host.restarted()
    await shared_host.clear()
    await eventually(lambda: not traces() - before, timeout_s=10)


def vmm_of(host: RunningAgent, run_id: str) -> int:
    return int((host.settings.run_dir / "microvms" / run_id / "pid").read_text())


async def knock(host: RunningAgent, machine: Machine, method: str, rest: str = "", *, at: str = API) -> str:
    """What `/.fly/api` answers a program inside. The image has none that speaks to Unix sockets, but its guest has."""
    path = rest if rest.startswith("/v1") else f"/v1/apps/{machine.app_name}/machines/{machine.id}{rest}"
    request = f"{method} {path} HTTP/1.1\\r\\nHost: flaps\\r\\nContent-Length: 0\\r\\n\\r\\n"
    line = f"printf '{request}' | chroot /proc/1/root /tools/bin/socat -t 20 - {at}"
    return (await host.shell(machine, line, timeout_s=60)).stdout


Watch = Watcher
