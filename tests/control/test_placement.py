"""The market: who is asked, who wins, and what is said when nobody wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import httpx
import pytest

from caddisfly.bus import contract
from caddisfly.control.placement.isolation import IsolationSettings
from caddisfly.control.placement.market import nobody, rank
from caddisfly.control.settings import ControlSettings
from caddisfly.model.errors import Aborted, InvalidArgument, Unavailable, Unprocessable
from tests.conftest import NatsServer
from tests.control.api import Api
from tests.control.fake_host import FakeHost

MACHINES = "/v1/apps/demo/machines"
NGINX = {"config": {"image": "nginx"}}
NewHost = Callable[..., Awaitable[FakeHost]]


@pytest.fixture
async def new_host(nats: NatsServer) -> AsyncIterator[NewHost]:
    made: list[FakeHost] = []

    async def new(**options: Any) -> FakeHost:
        host = FakeHost(url=nats.url, token=nats.token, **options)
        made.append(host)
        await host.start()
        return host

    yield new
    for host in made:
        await host.stop()


@pytest.fixture
async def client(empty_api: Api) -> httpx.AsyncClient:
    _, token = await empty_api.tenant("personal")
    client = empty_api.client(token)
    assert (await client.post("/v1/apps", json={"name": "demo", "org_slug": "personal"})).status_code == 201
    return client


def bid(host_id: str, region: str, score: float = 1.0, refusal: str = "") -> contract.Bid:
    return contract.Bid(host_id=host_id, region=region, score=score, refusal=refusal)


def test_the_clients_order_of_regions_goes_before_the_score() -> None:
    offers = rank(
        [bid("a", "fra", 9), bid("b", "ams", 1), bid("c", "ams", 2), bid("d", "ams", 0, "full"), bid("e", "syd", 99)],
        ("ams", "fra"),
    )
    assert [offer.host_id for offer in offers.bids] == ["c", "b", "a"]
    assert offers.refusals == ("full",)


def test_what_is_said_when_nobody_wants() -> None:
    memory = nobody(["insufficient memory", "not enough memory"])
    assert isinstance(memory, Aborted)
    assert memory.text.startswith(
        "aborted: could not reserve resource for machine: insufficient memory available to fulfill request"
    )
    mixed = nobody(["insufficient memory", "draining"])
    assert isinstance(mixed, Unprocessable)
    assert (mixed.what, mixed.status) == ("could not find a candidate host", "insufficient_capacity")


async def test_no_host_at_all(client: httpx.AsyncClient) -> None:
    reply = await client.post(MACHINES, json=NGINX)
    assert (reply.status_code, reply.json()["status"]) == (422, "insufficient_capacity")


async def test_a_region_without_a_host_is_the_clients_mistake(
    empty_api: Api, client: httpx.AsyncClient, new_host: NewHost
) -> None:
    await new_host(region="ams")
    await empty_api.ready(hosts=1)
    reply = await client.post(MACHINES, json={**NGINX, "region": "syd"})
    assert reply.status_code == 400
    assert "no host in region 'syd'" in reply.json()["error"]
    assert "ams" in reply.json()["next"]


async def test_region_expressions(empty_api: Api, client: httpx.AsyncClient, new_host: NewHost) -> None:
    ams, fra, syd = [await new_host(region=region) for region in ("ams", "fra", "syd")]
    await empty_api.ready(hosts=3)
    for expression, region in (("", "ams"), ("fra", "fra"), ("syd,fra", "syd"), ("apac", "syd"), ("any", "ams")):
        reply = await client.post(MACHINES, json={**NGINX, "region": expression})
        assert reply.json()["region"] == region, expression
    assert [len(host.machines) for host in (ams, fra, syd)] == [2, 1, 2]


async def test_the_freest_host_wins_and_a_full_one_says_so(
    empty_api: Api, client: httpx.AsyncClient, new_host: NewHost
) -> None:
    small, large = await new_host(memory_mb=256), await new_host(memory_mb=512)
    await empty_api.ready(hosts=2)
    for _ in range(3):
        assert (await client.post(MACHINES, json=NGINX)).status_code == 200
    assert (len(small.machines), len(large.machines)) == (1, 2)
    reply = await client.post(MACHINES, json=NGINX)
    assert reply.status_code == 409
    assert reply.json()["error"] == (
        "aborted: could not reserve resource for machine: insufficient memory available to fulfill request "
        "on the current host"
    )


async def test_answers_from_elsewhere_do_not_close_the_market(
    empty_api: Api, client: httpx.AsyncClient, new_host: NewHost
) -> None:
    """Every host answers, those of other regions with a refusal, and often first."""
    for _ in range(4):
        await new_host(region="syd")
    late = await new_host(region="ams")
    await empty_api.ready(hosts=5)
    for _ in range(10):
        assert (await client.post(MACHINES, json={**NGINX, "region": "ams"})).status_code == 200
    assert len(late.machines) == 10


@pytest.mark.parametrize("refusal", [Aborted("insufficient memory"), Unavailable("draining")])
async def test_a_refused_reservation_goes_to_the_next(
    empty_api: Api, client: httpx.AsyncClient, new_host: NewHost, refusal: Aborted | Unavailable
) -> None:
    best, next_best = await new_host(memory_mb=9000), await new_host(memory_mb=8000)
    await empty_api.ready(hosts=2)
    best.failing["machine.create"] = refusal
    reply = await client.post(MACHINES, json=NGINX, headers={"Idempotency-Key": "k"})
    assert reply.status_code == 200
    assert (len(best.machines), len(next_best.machines)) == (0, 1)


@pytest.fixture
def policy(settings: ControlSettings) -> ControlSettings:
    """Two organizations that must have something, and one that may have anything."""
    organizations = {"careful": ["microvm", "gvisor"], "fast": "container"}
    return settings.model_copy(update={"isolation": IsolationSettings.model_validate({"organizations": organizations})})


async def test_an_organizations_machines_go_only_where_its_isolation_is(
    policy: ControlSettings, new_host: NewHost
) -> None:
    api = Api(policy)
    await api.start()
    try:
        old, container, microvm = [await new_host(isolation=name) for name in ("", "container", "microvm")]
        await api.ready(hosts=3)
        for slug, hosts in (("careful", {microvm.id}), ("fast", {container.id})):
            _, token = await api.tenant(slug)
            client = api.client(token)
            assert (await client.post("/v1/apps", json={"name": slug, "org_slug": slug})).status_code == 201
            for _ in range(3):
                assert (await client.post(f"/v1/apps/{slug}/machines", json=NGINX)).status_code == 200
            placed = {
                host.id for host in (old, container, microvm) for m in host.machines.values() if m.org_slug == slug
            }
            assert placed == hosts
        sent = [call.isolation for name, call in microvm.calls if name == "machine.create"]
        assert sent == [("microvm", "gvisor")] * 3
    finally:
        await api.stop()


async def test_nobody_who_offers_the_isolation_is_said_in_words(policy: ControlSettings, new_host: NewHost) -> None:
    api = Api(policy)
    await api.start()
    try:
        old, container = await new_host(isolation=""), await new_host(isolation="container")
        await api.ready(hosts=2)
        _, token = await api.tenant("careful")
        client = api.client(token)
        assert (await client.post("/v1/apps", json={"name": "demo", "org_slug": "careful"})).status_code == 201
        for call in (
            client.post(MACHINES, json=NGINX),
            client.post("/v1/platform/placements", json={"org_slug": "careful", "compute": {"memory_mb": 256}}),
        ):
            reply = (await call).json()
            assert reply["status"] == "insufficient_capacity"
            assert f"must have microvm or gvisor, and host {container.id} offers container" in reply["why"]
            assert f"host {old.id} offers something that it does not name" in reply["why"]
        assert not old.calls
        assert not container.calls
    finally:
        await api.stop()


async def test_a_bad_image_is_not_tried_elsewhere(empty_api: Api, client: httpx.AsyncClient, new_host: NewHost) -> None:
    best, next_best = await new_host(memory_mb=9000), await new_host(memory_mb=8000)
    await empty_api.ready(hosts=2)
    best.failing["machine.create"] = InvalidArgument("manifest unknown")
    reply = await client.post(MACHINES, json=NGINX)
    assert (reply.status_code, reply.json()["error"]) == (400, "invalid_argument: manifest unknown")
    assert next_best.calls == []


async def test_a_host_that_does_not_bid_costs_only_the_bid_timeout(
    empty_api: Api, client: httpx.AsyncClient, new_host: NewHost
) -> None:
    mute, other = await new_host(memory_mb=9000), await new_host(memory_mb=8000)
    mute.bids = False
    await empty_api.ready(hosts=2)
    reply = await client.post(MACHINES, json=NGINX)
    assert reply.status_code == 200
    assert len(other.machines) == 1


async def test_a_create_without_an_answer_is_never_503(
    empty_api: Api, client: httpx.AsyncClient, new_host: NewHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The host acted and its answer was lost: a blind repetition would make two. With a key it is safe."""
    first, second = await new_host(memory_mb=9000), await new_host(memory_mb=8000)
    await empty_api.ready(hosts=2)
    impatient = contract.CREATE_MACHINE.__class__("machine.create", contract.CreateMachine, contract.MachineReply, 0.3)
    monkeypatch.setattr(contract, "CREATE_MACHINE", impatient)
    first.answering.clear()
    headers = {"Idempotency-Key": "k"}
    reply = await client.post(MACHINES, json={**NGINX, "name": "once"}, headers=headers)
    assert reply.status_code == 408
    first.answering.set()
    replies = await asyncio.gather(
        *(client.post(MACHINES, json={**NGINX, "name": "once"}, headers=headers) for _ in range(4))
    )
    assert {reply.status_code for reply in replies} <= {200, 409}
    assert any(reply.status_code == 200 for reply in replies)
    assert (len(first.machines), len(second.machines)) == (1, 0)
