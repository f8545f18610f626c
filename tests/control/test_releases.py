"""Releases and desired counts in the records, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import text

from caddisfly.control.records.accounts import Accounts
from caddisfly.control.records.apps import Apps
from caddisfly.control.records.database import Database
from caddisfly.control.records.releases import Change, Draft, Release, Releases
from caddisfly.control.records.scales import Scale, Scales
from caddisfly.model.app import App
from caddisfly.model.errors import Aborted, InvalidArgument, NotFound, Unprocessable


@pytest.fixture
async def user(database: Database) -> str:
    return await Accounts(database).create_user("ann@example.com", name="Ann")


@pytest.fixture
async def app(database: Database, user: str) -> App:
    organization = await Accounts(database).create_organization("personal", name="Personal", owner_id=user)
    return await Apps(database, cache_s=0).create("demo", organization=organization)


@pytest.fixture
def releases(database: Database) -> Releases:
    return Releases(database)


async def go_silent(database: Database, release: Release) -> None:
    """As if its time had passed."""
    async with database.writing() as session:
        await session.execute(text("UPDATE releases SET expires_ms = 1 WHERE id = :id"), {"id": release.id})


async def test_one_of_many_begins_and_the_others_are_told_who_holds_it(releases: Releases, app: App, user: str) -> None:
    outcomes = await asyncio.gather(
        *(releases.begin(app.id, Draft(), user_id=user) for _ in range(6)), return_exceptions=True
    )
    refused = [outcome for outcome in outcomes if isinstance(outcome, Aborted)]
    assert len(refused) == 5
    assert all("lease currently held by ann@example.com, expires at 20" in problem.what for problem in refused)
    assert [release.version for release in await releases.of(app.id, limit=9)] == [1]


async def test_numbers_go_up_by_one_also_past_those_that_failed(releases: Releases, app: App, user: str) -> None:
    for status in ("complete", "failed", "interrupted"):
        made = await releases.begin(app.id, Draft(definition={"app": status}), user_id=user)
        await releases.change(
            app.id, made.version, Change(status=status, error="" if made.version == 1 else "no"), nonce=made.nonce
        )
    assert [(one.version, one.status) for one in await releases.of(app.id, limit=2)] == [
        (3, "interrupted"),
        (2, "failed"),
    ]
    current, latest = await releases.find(app.id, "current"), await releases.find(app.id, "latest")
    assert (current.version, current.definition, latest.version) == (1, {"app": "complete"}, 3)
    assert (await releases.find(app.id, "v2")).error == "no"
    with pytest.raises(NotFound):
        await releases.find(app.id, "4")


async def test_only_the_holder_changes_it_until_it_has_ended(releases: Releases, app: App, user: str) -> None:
    made = await releases.begin(app.id, Draft(progress={"done": []}, ttl_s=100), user_id=user)
    for nonce in ("", "wrong", "grün"):
        with pytest.raises(Aborted, match="not yours"):
            await releases.change(app.id, 1, Change(status="complete"), nonce=nonce)
    running = await releases.change(app.id, 1, Change(status="running", progress={"done": ["a"]}), nonce=made.nonce)
    assert (running.status, running.progress, running.in_progress) == ("running", {"done": ["a"]}, True)
    beat = await releases.change(app.id, 1, Change(ttl_s=200), nonce=made.nonce)
    assert beat.progress == {"done": ["a"]}
    assert beat.expires_ms - beat.updated_ms == 200_000
    ended = await releases.change(app.id, 1, Change(status="failed", error="no"), nonce=made.nonce)
    assert not ended.in_progress
    again = await releases.change(app.id, 1, Change(status="failed", error="no"), nonce=made.nonce)
    assert again == ended, "said twice, as after a lost answer"
    for change in (Change(status="complete"), Change(status="failed", error="other"), Change()):
        with pytest.raises(Aborted, match="has ended"):
            await releases.change(app.id, 1, change, nonce=made.nonce)


async def test_who_went_silent_is_in_nobodys_way(releases: Releases, database: Database, app: App, user: str) -> None:
    first = await releases.begin(app.id, Draft(), user_id=user)
    await go_silent(database, first)
    assert [one.status for one in await releases.of(app.id, limit=1)] == ["interrupted"]
    back = await releases.change(app.id, 1, Change(status="running"), nonce=first.nonce)
    assert back.in_progress, "nobody took its place, so it may go on"
    await go_silent(database, first)
    second = await releases.begin(app.id, Draft(), user_id=user)
    assert second.version == 2
    with pytest.raises(Aborted, match="has ended"):
        await releases.change(app.id, 1, Change(status="running"), nonce=first.nonce)


async def test_one_key_makes_one_release(releases: Releases, app: App, user: str) -> None:
    draft = Draft(image_ref="nginx", definition={"app": "demo"})
    made = await asyncio.gather(*(releases.begin(app.id, draft, user_id=user, key="k") for _ in range(4)))
    assert {(one.version, one.nonce) for one in made} == {(1, made[0].nonce)}
    with pytest.raises(Unprocessable):
        await releases.begin(app.id, Draft(image_ref="other"), user_id=user, key="k")


async def test_old_ones_are_forgotten_but_not_the_current_one(
    releases: Releases, app: App, user: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("caddisfly.control.records.releases.KEPT", 2)
    for status in ("failed", "complete", "failed", "failed", "failed"):
        made = await releases.begin(app.id, Draft(), user_id=user)
        await releases.change(app.id, made.version, Change(status=status), nonce=made.nonce)
    assert [one.version for one in await releases.of(app.id, limit=9)] == [5, 4, 2]
    assert (await releases.find(app.id, "current")).version == 2


async def test_what_is_too_large_or_too_deep_is_refused(releases: Releases, app: App, user: str) -> None:
    deep: dict[str, object] = {}
    for _ in range(60):
        deep = {"a": [deep]}
    for definition in ({"a": "x" * 2_200_000}, deep):
        with pytest.raises(InvalidArgument, match="definition"):
            await releases.begin(app.id, Draft(definition=definition), user_id=user)
    assert await releases.of(app.id, limit=1) == []


async def test_they_outlive_their_user_and_go_with_their_app(
    releases: Releases, database: Database, app: App, user: str
) -> None:
    other = await Accounts(database).create_user("bob@example.com")
    await releases.begin(app.id, Draft(), user_id=other)
    await Scales(database).change(app.id, {"web": Scale(0)})
    async with database.writing() as session:
        await session.execute(text("DELETE FROM users WHERE id = :id"), {"id": other})
    assert (await releases.find(app.id, "1")).user is None
    apps = Apps(database, cache_s=0)
    await apps.begin_delete(app)
    with pytest.raises(Aborted, match="being deleted"):
        await releases.begin(app.id, Draft(), user_id=user)
    await apps.finish_delete(app)
    assert await releases.of(app.id, limit=1) == []
    assert await Scales(database).of(app.id) == {}
    with pytest.raises(NotFound):
        await releases.begin(app.id, Draft(), user_id=user)


async def test_counts_are_merged_by_group(database: Database, app: App) -> None:
    scales = Scales(database)
    await scales.change(app.id, {"web": Scale(3, ("ams", "fra"), 2), "worker": Scale(1)})
    await asyncio.gather(*(scales.change(app.id, {"web": Scale(0)}) for _ in range(4)))
    assert await scales.of(app.id) == {"web": Scale(0), "worker": Scale(1)}
    assert await scales.change(app.id, {"worker": None, "nobody": None}) == {"web": Scale(0)}
    with pytest.raises(InvalidArgument, match="too many"):
        await scales.change(app.id, {f"g{number}": Scale(1) for number in range(100)})
    assert await scales.of(app.id) == {"web": Scale(0)}
