"""The catalog survives losing its connection, its server's memory and its very bucket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any

import pytest

from caddisfly.bus.catalog import BUCKET, Publication
from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import Projection
from tests.conftest import NatsServer, eventually

APP = {"id": "a1", "name": "hello", "org_id": "o1", "org_slug": "personal", "network": "default", "network_id": 7}


def ours(key: str, value: Mapping[str, Any]) -> bool:
    return key.startswith("app.")


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    connection = Bus(url=nats.url, token=nats.token, name="test")
    connection.open()
    await eventually(lambda: connection.connected)
    yield connection
    await connection.close()


@pytest.fixture
async def publication(bus: Bus) -> AsyncIterator[Publication]:
    owner = Publication(bus, owner="control", owns=ours, every_s=0.2)
    owner.start()
    yield owner
    await owner.stop()


@pytest.fixture
async def projection(bus: Bus) -> AsyncIterator[Projection]:
    copy = Projection(bus)
    copy.start()
    await eventually(copy.ready.is_set)
    yield copy
    await copy.stop()


async def test_a_reader_sees_a_write_once_it_waited_for_its_revision(
    publication: Publication, projection: Projection
) -> None:
    revision = await publication.put("app.hello", APP)
    assert revision > 0
    assert await projection.wait_for(revision, timeout_s=5)
    assert projection.apps["hello"].network_id == 7


async def test_a_removed_key_vanishes_from_every_copy(publication: Publication, projection: Projection) -> None:
    await publication.put("app.hello", APP)
    await eventually(lambda: "hello" in projection.apps)
    await publication.remove("app.hello")
    await eventually(lambda: "hello" not in projection.apps)


async def test_what_was_published_is_there_after_the_server_was_killed(
    nats: NatsServer, publication: Publication, projection: Projection
) -> None:
    await publication.put("app.hello", APP)
    await eventually(lambda: "hello" in projection.apps)
    nats.kill()
    assert projection.apps["hello"].id == "a1", "reads go on without the bus"
    assert await publication.put("app.other", {**APP, "name": "other"}) == 0, "a write says that it is not out yet"
    nats.start()
    await eventually(lambda: "other" in projection.apps)


async def test_a_deleted_bucket_is_filled_again_by_its_owner(
    bus: Bus, publication: Publication, projection: Projection
) -> None:
    await publication.put("app.hello", APP)
    await eventually(lambda: "hello" in projection.apps)
    await bus.jetstream.delete_key_value(BUCKET)
    await publication.put("app.later", {**APP, "name": "later"})
    await eventually(lambda: {"hello", "later"} <= projection.apps.keys(), timeout_s=20)


async def test_what_a_new_bucket_lacks_is_kept_until_its_owner_has_published_everything(
    bus: Bus, projection: Projection
) -> None:
    owner = Publication(bus, owner="control", owns=ours)
    await owner.put("app.hello", APP)
    await owner.put("app.gone", {**APP, "name": "gone"})
    await eventually(lambda: "gone" in projection.apps)
    await owner.remove("app.gone")
    await eventually(lambda: "gone" not in projection.apps)
    await owner.put("app.going", {**APP, "name": "going"})
    await eventually(lambda: "going" in projection.apps)

    await bus.jetstream.delete_key_value(BUCKET)
    stranger = Publication(bus, owner="stranger", owns=ours)
    await stranger.reconcile()
    await stranger.put("app.new", {**APP, "name": "new"})
    await eventually(lambda: "new" in projection.apps, timeout_s=20)
    assert projection.apps.keys() == {"hello", "going", "new"}, "control has published nothing yet"

    restarted = Publication(bus, owner="control", owns=lambda key, value: False)
    restarted.want("app.hello", APP)
    await restarted.reconcile()
    await eventually(lambda: projection.apps.keys() == {"hello", "new"})


async def test_a_key_that_its_owner_does_not_want_is_removed(bus: Bus, projection: Projection) -> None:
    first = Publication(bus, owner="control", owns=ours)
    await first.put("app.stale", {**APP, "name": "stale"})
    await eventually(lambda: "stale" in projection.apps)
    second = Publication(bus, owner="control", owns=ours)
    second.want("app.hello", APP)
    await second.reconcile()
    await eventually(lambda: projection.apps.keys() == {"hello"})


async def test_garbage_in_the_catalog_does_not_stall_a_copy(
    bus: Bus, publication: Publication, projection: Projection
) -> None:
    kv = await bus.jetstream.key_value(BUCKET)
    await kv.put("machine.00000000000000", b"\xff not json")
    await kv.put("app.bad", b"{}")
    await publication.put("app.hello", APP)
    await eventually(lambda: "hello" in projection.apps)
    assert not projection.machines
