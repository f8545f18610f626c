"""The operator's calls about images, over the Unix socket as the commands make them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.bus.rpc import Dispatcher, LocalCaller
from caddisfly.host.images.store import ImageStore
from caddisfly.host.shelf import Shelf
from caddisfly.model.errors import FailedPrecondition, NotFound
from caddisfly.model.machine import Machine
from tests.images.registry_server import FakeRegistry
from tests.images.test_keeping import parts
from tests.journal.test_journal import a_machine

Asked = tuple[LocalCaller, list[Machine]]


@pytest.fixture
async def agent(store: ImageStore, tmp_path: Path) -> AsyncIterator[Asked]:
    machines: list[Machine] = []
    dispatcher = Dispatcher()
    Shelf(store, machines=lambda: machines, set_aside=frozenset()).register(dispatcher)
    server = await dispatcher.serve_unix(tmp_path / "agent.sock")
    yield LocalCaller(tmp_path / "agent.sock"), machines
    server.close()
    await dispatcher.close()


async def test_an_image_is_pulled_with_a_login_shown_and_removed(agent: Asked, registry: FakeRegistry) -> None:
    caller, machines = agent
    registry.user = ("ann", "s3cret")
    image = parts("a")
    name = registry.push("acme/web:1", image)
    login = contract.RegistryLogin(username="ann", password="s3cret")
    assert "s3cret" not in repr(contract.PullImage(name=name, login=login))
    reply = await caller.call(contract.PULL_IMAGE, contract.PullImage(name=name, login=login))
    assert reply.digest == image.digest
    (layer,) = (await caller.call(contract.WATCH_IMAGE, contract.ImageName(name=name))).layers
    assert (layer.state, layer.done) == ("ready", layer.size)
    stopped = a_machine()
    machines.append(replace(stopped, state="stopped", image=replace(stopped.image, digest=image.digest)))
    record = (await caller.call(contract.SHOW_IMAGE, contract.ImageName(name=name))).record
    assert record["machines"] == [stopped.id]
    (listed,) = (await caller.call(contract.LIST_IMAGES, contract.Nothing())).images
    assert (listed["name"], listed["in_use"]) == (name, True)
    with pytest.raises(FailedPrecondition, match="used by 1 Machine") as caught:
        await caller.call(contract.REMOVE_IMAGE, contract.RemoveImage(name=name))
    assert stopped.id in caught.value.why
    await caller.call(contract.REMOVE_IMAGE, contract.RemoveImage(name=name, force=True))
    assert (await caller.call(contract.COLLECT_IMAGES, contract.CollectImages(all_unused=True))).layers == 0
    machines.clear()
    assert (await caller.call(contract.COLLECT_IMAGES, contract.CollectImages())).layers == 1
    with pytest.raises(NotFound):
        await caller.call(contract.SHOW_IMAGE, contract.ImageName(name=name))
    assert (await caller.call(contract.VERIFY_IMAGES, contract.VerifyImages())).layers == 0
