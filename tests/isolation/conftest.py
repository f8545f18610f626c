"""Hosts with hostile tenants on them: each test runs under every OCI runtime that a host may choose by itself."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.host.images.build import busybox_layer, write_oci_layout
from tests.conftest import NatsServer
from tests.host.conftest import RunningAgent, agent, busybox, running_agent, shared_nats, watcher
from tests.isolation.outside import Outside
from tests.leaks import traces

__all__ = ["agent", "busybox", "shared_nats", "watcher"]

CANARY = Path("/etc/caddis-canary")
"""A file of the host that no Machine may read or change."""

PIDS = 96
"""Processes in one Machine: few, so that a fork bomb is at its end before a computer with two cores feels it."""


@pytest.fixture(scope="package", params=["crun", "runc"])
def shared_agent(request: pytest.FixtureRequest, shared_nats: NatsServer, busybox: Path) -> Iterator[RunningAgent]:
    before = traces()
    with running_agent(shared_nats, busybox, runtime=request.param, pids_limit=PIDS, log_size_mb=1) as running:
        yield running
    left = traces() - before
    assert not left, "\n".join(sorted(left))


@pytest.fixture
def outside() -> Iterator[Outside]:
    """The world beyond the host."""
    world = Outside()
    try:
        world.open()
        yield world
    finally:
        world.close()


@pytest.fixture
def canary() -> Iterator[Path]:
    # It reads like an account file, for images whose /etc/passwd leads to it.
    CANARY.write_text("spy:x:4242:4242:untouched:/:/bin/sh\n")
    before = CANARY.stat()
    try:
        yield CANARY
        after = CANARY.stat()
        assert CANARY.read_text() == "spy:x:4242:4242:untouched:/:/bin/sh\n"
        assert (after.st_ino, after.st_mode, after.st_uid) == (before.st_ino, before.st_mode, before.st_uid)
    finally:
        CANARY.unlink()


@pytest.fixture
def image(agent: RunningAgent, tmp_path: Path) -> Callable[..., Any]:
    """`await image("name:tag", layer, User="7")` puts an image of busybox and one more layer into the host's store."""

    async def make(name: str, *layers: bytes, **config: Any) -> str:
        layout = tmp_path / name.replace(":", "-")
        write_oci_layout(layout, layers=[busybox_layer(), *layers], config={"Cmd": ["/bin/sh"], **config})
        await agent.ask(contract.IMPORT_IMAGE, contract.ImportImage(path=str(layout), name=name))
        return name

    return make
