"""Leases, metadata, and the other calls of the SDK that write or read what is known of a Machine."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest

from caddisfly.client import (
    AsyncClient,
    Client,
    ConflictError,
    ConnectionFailed,
    FinalError,
    LeaseHeldError,
    NotFoundError,
    PreconditionError,
    RetryableError,
)
from tests.client.conftest import Api, Ask

MACHINE = "/v1/apps/x/machines/1"
HELD = "machine ID 1 lease currently held by a@b, expires at 2026-11-23T00:00:00Z"
NONCE = "fly-machine-lease-nonce"


def envelope(**more: Any) -> dict[str, Any]:
    data = {"nonce": "5c35f65c9f95", "expires_at": 1708569778, "owner": "a@b", "description": "", "version": "01H"}
    return {"status": "success", "data": {**data, **more}}


def leasable(api: Api) -> None:
    api.on("POST", f"{MACHINE}/lease", (201, envelope()))
    api.on("DELETE", f"{MACHINE}/lease", (200, {"status": "success", "data": {"ok": True}}))


async def test_a_lease_from_first_to_last(api: Api, ask: Ask) -> None:
    leasable(api)
    api.on("GET", f"{MACHINE}/lease", (200, envelope(nonce="")))
    taken = await ask("machines.leases.acquire", "x", "1", ttl_s=60, description="move")
    assert taken["nonce"] == "5c35f65c9f95"
    assert (await ask("machines.leases.get", "x", "1"))["owner"] == "a@b"
    await ask("machines.leases.refresh", "x", "1", taken["nonce"], ttl_s=90)
    assert await ask("machines.leases.release", "x", "1", taken["nonce"]) is None
    acquire, get, refresh, release = api.seen
    assert (acquire.body, acquire.headers.get(NONCE)) == ({"ttl": 60, "description": "move"}, None)
    assert NONCE not in get.headers
    assert (refresh.method, refresh.body, refresh.headers[NONCE]) == ("POST", {"ttl": 90}, "5c35f65c9f95")
    assert (release.method, release.headers[NONCE]) == ("DELETE", "5c35f65c9f95")


@pytest.mark.parametrize("body", [{"status": "error", "message": HELD}, {"error": f"aborted: {HELD}"}])
async def test_a_lease_of_another_has_its_own_class(api: Api, ask: Ask, body: dict[str, Any]) -> None:
    api.on("POST", f"{MACHINE}/lease", (409, body))
    with pytest.raises(LeaseHeldError, match="held by a@b") as caught:
        await ask("machines.leases.acquire", "x", "1")
    assert isinstance(caught.value, ConflictError)
    assert not isinstance(caught.value, RetryableError)
    assert caught.value.next
    assert len(api.seen) == 1


async def test_another_conflict_is_no_lease(api: Api, ask: Ask) -> None:
    api.on("POST", f"{MACHINE}/start", (409, {"error": "aborted: no capacity"}))
    with pytest.raises(ConflictError) as caught:
        await ask("machines.start", "x", "1")
    assert type(caught.value) is ConflictError


@pytest.mark.parametrize("method", ["acquire", "release"])
async def test_what_may_have_acted_is_not_repeated(api: Api, ask: Ask, method: str) -> None:
    leasable(api)
    api.on("POST", f"{MACHINE}/lease", "drop")
    api.on("DELETE", f"{MACHINE}/lease", (503, {"error": "unavailable"}))
    words = ["nonce"] if method == "release" else []
    with pytest.raises(RetryableError):
        await ask(f"machines.leases.{method}", "x", "1", *words)
    assert len(api.seen) == 1


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("start", []),
        ("stop", []),
        ("restart", []),
        ("suspend", []),
        ("cordon", []),
        ("uncordon", []),
        ("delete", []),
        ("update", [{"image": "nginx"}]),
    ],
)
async def test_a_change_shows_its_nonce(api: Api, ask: Ask, name: str, words: list[Any]) -> None:
    path = MACHINE if name in ("delete", "update") else f"{MACHINE}/{name}"
    api.on("DELETE" if name == "delete" else "POST", path, (200, {"ok": True}))
    await ask(f"machines.{name}", "x", "1", *words, nonce="5c35f65c9f95")
    await ask(f"machines.{name}", "x", "1", *words)
    assert [sent.headers.get(NONCE) for sent in api.asked(path)] == ["5c35f65c9f95", None]


async def test_create_and_update_may_lease_and_stay_out_of_traffic(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/machines", (200, {"id": "1", "nonce": "5c35f65c9f95"}))
    api.on("POST", MACHINE, (200, {"id": "1"}))
    made = await ask("machines.create", "x", {}, lease_ttl_s=30, skip_service_registration=True)
    assert made["nonce"] == "5c35f65c9f95"
    await ask("machines.update", "x", "1", {}, lease_ttl_s=30, skip_service_registration=True, current_version="01H")
    create, update = api.seen
    assert create.body == {"config": {}, "lease_ttl": 30, "skip_service_registration": True}
    assert update.body == {**create.body, "current_version": "01H"}


Hold = Any


@pytest.fixture(params=["blocking", "asynchronous"])
async def hold(request: pytest.FixtureRequest, api: Api) -> AsyncIterator[Hold]:
    """`async with hold() as nonce`, over the context manager of either client."""
    with Client(api.url) as blocking:
        async with AsyncClient(api.url) as asynchronous:

            @asynccontextmanager
            async def held() -> AsyncIterator[str]:
                with blocking.machines.lease("x", "1", ttl_s=60) as nonce:
                    yield nonce

            def either() -> AbstractAsyncContextManager[str]:
                return held() if request.param == "blocking" else asynchronous.machines.lease("x", "1", ttl_s=60)

            yield either


async def test_a_held_lease_is_given_back(api: Api, hold: Hold) -> None:
    leasable(api)
    async with hold() as nonce:
        assert nonce == "5c35f65c9f95"
        assert [sent.method for sent in api.seen] == ["POST"]
    assert [sent.method for sent in api.seen] == ["POST", "DELETE"]
    assert api.seen[0].body == {"ttl": 60}
    assert api.seen[1].headers[NONCE] == "5c35f65c9f95"


async def test_a_held_lease_is_given_back_after_an_error_too(api: Api, hold: Hold) -> None:
    leasable(api)
    with pytest.raises(ZeroDivisionError):
        async with hold():
            raise ZeroDivisionError
    assert api.seen[-1].method == "DELETE"


async def test_the_first_error_is_the_one_that_is_told(api: Api, hold: Hold) -> None:
    leasable(api)
    api.on("DELETE", f"{MACHINE}/lease", (500, {"error": "unknown: broken"}))
    with pytest.raises(ZeroDivisionError) as caught:
        async with hold():
            raise ZeroDivisionError
    assert "unknown: broken" in caught.value.__notes__[0]


async def test_a_lease_that_cannot_be_released_is_told(api: Api, hold: Hold) -> None:
    leasable(api)
    api.on("DELETE", f"{MACHINE}/lease", (500, {"error": "unknown: broken"}))
    with pytest.raises(RetryableError, match="broken"):
        async with hold():
            pass


@pytest.mark.parametrize("answer", [(404, {"error": "not_found: lease not found"}), (409, {"message": HELD})])
async def test_a_lease_that_ran_out_needs_no_release(api: Api, hold: Hold, answer: Any) -> None:
    leasable(api)
    api.on("DELETE", f"{MACHINE}/lease", answer)
    async with hold():
        pass
    assert api.seen[-1].method == "DELETE"


async def test_what_somebody_else_holds_is_not_entered_and_not_released(api: Api, hold: Hold) -> None:
    api.on("POST", f"{MACHINE}/lease", (409, {"status": "error", "message": HELD}))
    with pytest.raises(LeaseHeldError):
        async with hold():
            pytest.fail("entered")
    assert [sent.method for sent in api.seen] == ["POST"]


async def test_metadata(api: Api, ask: Ask) -> None:
    api.on("GET", f"{MACHINE}/metadata", (200, {"role": "web"}))
    api.on("PATCH", f"{MACHINE}/metadata", (204, None))
    api.on("POST", f"{MACHINE}/metadata/a%2Fb", (204, None))
    api.on("DELETE", f"{MACHINE}/metadata/a%2Fb", (204, None))
    assert await ask("machines.metadata.get", "x", "1") == {"role": "web"}
    await ask("machines.metadata.merge", "x", "1", {"role": "db", "old": None}, machine_version="01H")
    await ask("machines.metadata.set", "x", "1", "a/b", "1")
    await ask("machines.metadata.delete", "x", "1", "a/b")
    _, merge, one, delete = api.seen
    assert merge.body == {"metadata": {"role": "db", "old": None}, "machine_version": "01H"}
    assert one.body == {"value": "1"}
    assert delete.method == "DELETE"


async def test_metadata_of_another_version_is_refused(api: Api, ask: Ask) -> None:
    api.on("PATCH", f"{MACHINE}/metadata", (412, {"error": "failed_precondition: machine_version is stale"}))
    with pytest.raises(PreconditionError, match="stale"):
        await ask("machines.metadata.merge", "x", "1", {"a": "b"}, machine_version="01H")


async def test_versions_ps_and_leases_in_lists(api: Api, ask: Ask) -> None:
    api.on("GET", f"{MACHINE}/versions", (200, [{"version": "01H", "user_config": {}}]))
    api.on("GET", f"{MACHINE}/ps", (200, [{"pid": 1}]))
    api.on("GET", "/v1/apps/x/machines", (200, []))
    api.on("GET", MACHINE, (200, {"id": "1"}))
    assert (await ask("machines.versions", "x", "1"))[0]["version"] == "01H"
    assert await ask("machines.ps", "x", "1", sort_by="rss", order="desc") == [{"pid": 1}]
    await ask("machines.list", "x", include_leases=True)
    await ask("machines.get", "x", "1", include_leases=True)
    assert api.seen[1].query == {"sort_by": "rss", "order": "desc"}
    assert [sent.query for sent in api.seen[2:]] == [{"include_leases": "true"}] * 2


async def test_an_answer_without_its_envelope_is_told(api: Api, ask: Ask) -> None:
    api.on("GET", f"{MACHINE}/lease", (200, {"nonce": "x"}))
    with pytest.raises(FinalError, match="not what the API promises"):
        await ask("machines.leases.get", "x", "1")


async def every(api: Api, kind: str, **filters: Any) -> list[str]:
    if kind == "blocking":
        with Client(api.url) as client:
            return [machine["id"] for machine in client.organization_machines("acme", **filters)]
    async with AsyncClient(api.url) as client:
        return [machine["id"] async for machine in client.organization_machines("acme", **filters)]


def page(ids: str, cursor: str, *missing: str) -> tuple[int, dict[str, Any]]:
    return 200, {"machines": [{"id": id} for id in ids], "next_cursor": cursor, "error_regions": list(missing)}


@pytest.mark.parametrize("kind", ["blocking", "asynchronous"])
class TestOrganization:
    PATH = "/v1/orgs/acme/machines"

    async def test_page_after_page(self, api: Api, kind: str) -> None:
        api.on("GET", self.PATH, page("ab", "1-b"), page("", "1-c"), page("d", ""))
        assert await every(api, kind, state="started", page_size=2) == ["a", "b", "d"]
        assert [sent.query.get("cursor") for sent in api.seen] == [None, "1-b", "1-c"]
        assert all(sent.query["limit"] == "2" and sent.query["state"] == "started" for sent in api.seen)

    async def test_a_region_that_did_not_answer_is_told_after_the_others(self, api: Api, kind: str) -> None:
        api.on("GET", self.PATH, page("a", "1-a", "ams"), page("b", ""))
        with pytest.raises(RetryableError, match="ams"):
            await every(api, kind)
        assert len(api.seen) == 2

    async def test_an_unknown_organization(self, api: Api, kind: str) -> None:
        with pytest.raises(NotFoundError):
            await every(api, kind)


def test_a_page_is_asked_for_when_it_is_needed(api: Api) -> None:
    api.on("GET", "/v1/orgs/acme/machines", page("ab", "1-b"), page("c", ""))
    with Client(api.url) as client:
        found: Iterator[Any] = client.organization_machines("acme")
        assert not api.seen
        assert [next(found)["id"], next(found)["id"]] == ["a", "b"]
        assert len(api.seen) == 1
        assert next(found)["id"] == "c"


async def test_a_read_of_a_lease_is_tried_again(api: Api, ask: Ask) -> None:
    api.on("GET", f"{MACHINE}/lease", "drop", (200, envelope()))
    assert (await ask("machines.leases.get", "x", "1"))["owner"] == "a@b"


async def test_a_dropped_update_is_told_and_not_repeated(api: Api, ask: Ask) -> None:
    api.on("POST", MACHINE, "drop", (200, {"id": "1"}))
    with pytest.raises(ConnectionFailed):
        await ask("machines.update", "x", "1", {}, nonce="n")
    assert len(api.seen) == 1


async def test_deploy_tokens_of_an_app(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/deploy_token", (200, {"token": "FlyV1 fm2_abc"}))
    api.on("GET", "/v1/apps/x/deploy_tokens", (200, {"tokens": [{"id": "1"}]}))
    api.on("DELETE", "/v1/apps/x/deploy_tokens/1", (200, {"ok": True}))
    assert (await ask("apps.create_deploy_token", "x", label="CI", expiry="24h"))["token"] == "FlyV1 fm2_abc"
    assert api.seen[-1].body == {"name": "CI", "expiry": "24h"}
    assert await ask("apps.deploy_tokens", "x") == [{"id": "1"}]
    await ask("apps.revoke_deploy_token", "x", "1")
    assert api.seen[-1].method == "DELETE"


async def test_builds_of_an_app(api: Api, ask: Ask) -> None:
    api.on("GET", "/v1/apps/x/builds", (200, {"builds": [{"id": "b"}]}))
    api.on("POST", "/v1/apps/x/builds", (201, {"id": "b"}))
    api.on("GET", "/v1/apps/x/builds/b", (200, {"id": "b"}))
    api.on("POST", "/v1/apps/x/builds/b/cancel", (200, {"state": "cancelled"}))
    assert await ask("builds.list", "x") == [{"id": "b"}]
    assert (await ask("builds.start", "x", "sha256:0", args={"A": "1"}, idempotency_key="k"))["id"] == "b"
    assert api.seen[-1].body == {
        "context": "sha256:0",
        "tag": "latest",
        "dockerfile": "Dockerfile",
        "args": {"A": "1"},
    }
    assert api.seen[-1].headers["idempotency-key"] == "k"
    assert (await ask("builds.get", "x", "b"))["id"] == "b"
    assert (await ask("builds.cancel", "x", "b"))["state"] == "cancelled"


async def test_a_build_log_is_followed_page_by_page(api: Api) -> None:
    pages = [{"lines": [{"message": "one"}], "next_offset": 9, "ended": False}]
    pages += [{"lines": [], "next_offset": 9, "ended": True}]
    api.on("GET", "/v1/apps/x/builds/b/logs", *((200, page) for page in pages), *((200, page) for page in pages))
    with Client(api.url) as client:
        assert [line["message"] for line in client.builds.follow("x", "b")] == ["one"]
    assert api.seen[-1].query["offset"] == "9"
    async with AsyncClient(api.url) as client:
        assert [line["message"] async for line in client.builds.follow("x", "b")] == ["one"]


async def test_a_create_with_a_key_is_tried_again(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/machines", "drop", (200, {"id": "1"}))
    assert (await ask("machines.create", "x", {}, idempotency_key="k"))["id"] == "1"
    assert [sent.headers["idempotency-key"] for sent in api.seen] == ["k", "k"]


async def test_releases_of_an_app(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/releases", (201, {"version": 3, "nonce": "n"}))
    api.on("GET", "/v1/apps/x/releases", (200, {"releases": [{"version": 3}]}))
    api.on("GET", "/v1/apps/x/releases/current", (200, {"version": 2}))
    api.on("PATCH", "/v1/apps/x/releases/3", "drop", (200, {"status": "complete"}))
    made = await ask("releases.create", "x", image="nginx", definition={"app": "x"}, ttl_s=90, idempotency_key="k")
    assert made["nonce"] == "n"
    assert api.seen[-1].body == {"image": "nginx", "definition": {"app": "x"}, "ttl": 90}
    assert api.seen[-1].headers["idempotency-key"] == "k"
    assert await ask("releases.list", "x", limit=1) == [{"version": 3}]
    assert api.seen[-1].query == {"limit": "1"}
    assert (await ask("releases.get", "x"))["version"] == 2
    ended = await ask("releases.update", "x", 3, "n", status="complete", error="", progress={})
    assert ended["status"] == "complete", "the first answer was lost, and saying it again is safe"
    assert api.seen[-1].body == {"nonce": "n", "status": "complete", "error": "", "progress": {}}


async def test_a_release_of_another_is_waited_for_like_a_lease(api: Api, ask: Ask) -> None:
    api.on("POST", "/v1/apps/x/releases", (409, {"error": f"aborted: {HELD}", "next": "caddis releases"}))
    with pytest.raises(LeaseHeldError) as caught:
        await ask("releases.create", "x")
    assert caught.value.next == "caddis releases"


async def test_counts_of_process_groups(api: Api, ask: Ask) -> None:
    groups = {"web": {"count": 2, "regions": ["ams"], "max_per_region": None}}
    api.on("GET", "/v1/apps/x/scale", (200, {"groups": groups}))
    api.on("PUT", "/v1/apps/x/scale", (200, {"groups": {}}))
    assert await ask("scale.get", "x") == groups
    assert await ask("scale.change", "x", {"web": None}) == {}
    assert api.seen[-1].body == {"groups": {"web": None}}


async def test_an_image_is_resolved_for_an_app(api: Api, ask: Ask) -> None:
    api.on("GET", "/v1/apps/x/image", (200, {"reference": "nginx@sha256:1"}))
    assert (await ask("apps.resolve_image", "x", "nginx"))["reference"] == "nginx@sha256:1"
    assert api.seen[-1].query == {"ref": "nginx"}
