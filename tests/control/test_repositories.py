"""What control says to the registry: which tokens reach which repositories, and what is still needed."""

from __future__ import annotations

from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.bus.rpc import BusCaller
from caddisfly.control.auth.passes import Passes
from caddisfly.control.repositories import Repositories
from caddisfly.model.config import Config
from caddisfly.model.errors import InvalidArgument, Unauthenticated
from tests.conftest import NatsServer, eventually
from tests.control.api import Api


async def apps_of(api: Api, token: str, *names: str, slug: str) -> None:
    async with api.client(token) as client:
        for name in names:
            made = await client.post("/v1/apps", json={"app_name": name, "org_slug": slug})
            assert made.status_code == 201, made.text


async def reached(api: Api, token: str, *names: str, everything: bool = False) -> set[str]:
    request = contract.AskAccess(authorization=f"Bearer {token}", names=names, everything=everything)
    granted = await api.control.repositories.access(request)
    return {one.name for one in granted.repositories}


async def test_a_token_reaches_its_organizations_repositories_and_no_others(empty_api: Api) -> None:
    api = empty_api
    _, mine = await api.tenant("mine")
    _, theirs = await api.tenant("theirs")
    await apps_of(api, mine, "web", "worker", slug="mine")
    await apps_of(api, theirs, "rival", slug="theirs")
    assert await reached(api, mine, "web", "worker", "rival", "absent") == {"web", "worker"}
    assert await reached(api, mine, everything=True) == {"web", "worker"}
    assert await reached(api, theirs, "web", "rival") == {"rival"}
    for wrong in ("", "fo1_nothing", f"{mine}x"):
        with pytest.raises(Unauthenticated):
            await reached(api, wrong, "web")


async def test_a_deploy_token_reaches_the_repository_of_its_app(empty_api: Api) -> None:
    api = empty_api
    _, mine = await api.tenant("mine")
    await apps_of(api, mine, "web", "worker", slug="mine")
    async with api.client(mine) as client:
        made = await client.post("/v1/apps/web/deploy_token", json={})
        assert made.status_code in (200, 201), made.text
        narrow = made.json()["token"]
    assert await reached(api, narrow, "web", "worker") == {"web"}
    assert await reached(api, narrow, everything=True) == {"web"}


async def test_an_app_that_is_gone_or_another_needs_nothing(empty_api: Api) -> None:
    api = empty_api
    org, mine = await api.tenant("mine")
    await apps_of(api, mine, "web", slug="mine")
    app = (await api.control.apps.find("web")).app
    await eventually(api.control.projection.ready.is_set)

    async def alive(name: str, app_id: str, org_id: str) -> bool:
        ask = contract.AskNeeds(name=name, app_id=app_id, org_id=org_id)
        return (await api.control.repositories.needs(ask)).alive

    assert await alive("web", app.id, org.id)
    assert not await alive("web", "another", org.id)
    assert not await alive("web", app.id, "another")
    assert not await alive("absent", app.id, org.id)


@pytest.mark.parametrize("by", ["image", "file", "container", "file of a container"])
async def test_images_of_another_organization_are_not_there_however_they_are_named(empty_api: Api, by: str) -> None:
    api = empty_api
    mine, token = await api.tenant("mine")
    _, theirs = await api.tenant("theirs")
    await apps_of(api, token, "web", slug="mine")
    await apps_of(api, theirs, "rival", slug="theirs")

    def config(app: str) -> Config:
        image = f"registry.example.test/{app}:v1"
        files = [{"guest_path": "/x", "image_config": image}]
        members: dict[str, Any] = {
            "image": {"image": image},
            "file": {"image": "nginx", "files": files},
            "container": {"containers": [{"name": "a", "image": image}]},
            "file of a container": {"containers": [{"name": "a", "image": "nginx", "files": files}]},
        }[by]
        return Config.parse(members)

    parts = api.control
    passes = Passes("not a secret")
    domain = "example.test"
    repositories = Repositories(parts.bus, parts.verifier, parts.apps, parts.machines, passes=passes, domain=domain)
    check = repositories.check_images
    await check(config("web"), org_id=mine.id)
    said = []
    for app in ("rival", "absent"):
        with pytest.raises(InvalidArgument) as caught:
            await check(config(app), org_id=mine.id)
        said.append(caught.value.to_record())
        await check(config(app), org_id=mine.id, unless=config(app))  # it has it already
    assert str(said[0]).replace("rival", "it") == str(said[1]).replace("absent", "it")


async def test_it_answers_on_the_bus_and_shows_no_secret(empty_api: Api, nats: NatsServer) -> None:
    _, mine = await empty_api.tenant("mine")
    await apps_of(empty_api, mine, "web", slug="mine")
    bus = Bus(url=nats.url, token=nats.token, name="test")
    bus.open()
    try:
        await eventually(lambda: bus.connected)
        caller = BusCaller(bus, contract.CONTROL)
        request = contract.AskAccess(authorization=f"Bearer {mine}", names=("web",))
        granted = await caller.call(contract.ASK_ACCESS, request)
        assert [one.name for one in granted.repositories] == ["web"]
        malformed = b'{"deadline": 9999999999, "args": {"authorization": ["' + mine.encode() + b'"]}}'
        answer = await bus.request(f"{contract.CONTROL}.{contract.ASK_ACCESS.name}", malformed, timeout_s=5)
        assert mine.encode() not in answer
        assert InvalidArgument.code.encode() in answer
    finally:
        await bus.close()
