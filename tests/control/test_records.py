"""The records, on SQLite and on PostgreSQL alike."""

from __future__ import annotations

import asyncio
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import text

from caddisfly.control import bootstrap
from caddisfly.control.auth import token
from caddisfly.control.records import schema
from caddisfly.control.records.accounts import Accounts
from caddisfly.control.records.apps import Apps
from caddisfly.control.records.creations import Creations
from caddisfly.control.records.database import Database, blocking_engine
from caddisfly.control.records.tables import Base
from caddisfly.control.settings import ControlSettings
from caddisfly.model.app import Organization
from caddisfly.model.errors import Aborted, AlreadyExists, FailedPrecondition, NotFound, Unavailable, Unprocessable
from tests.control.postgres import Postgres


@pytest.fixture
async def organization(database: Database) -> Organization:
    accounts = Accounts(database)
    return await accounts.create_organization(
        "personal", name="Personal", owner_id=await accounts.create_user("ann@example.com")
    )


@pytest.fixture
def apps(database: Database) -> Apps:
    return Apps(database, cache_s=0)


async def test_names_of_people_and_organizations_are_unique(database: Database, organization: Organization) -> None:
    accounts = Accounts(database)
    with pytest.raises(AlreadyExists):
        await accounts.create_user("Ann@example.com")
    user = await accounts.create_user("bob@example.com")
    with pytest.raises(AlreadyExists):
        await accounts.create_organization("personal", name="x", owner_id=user)


async def test_an_app_comes_back_as_it_was_made(apps: Apps, organization: Organization) -> None:
    app = await apps.create("demo", organization=organization, network="lab", app_role="builder")
    assert (app.name, app.network, app.app_role, app.organization) == ("demo", "lab", "builder", organization)
    assert (await apps.find("demo")).app == app
    assert await apps.of_organization(organization.id) == [app]
    assert [record.app for record in await apps.all()] == [app]


async def test_one_of_many_gets_a_name(apps: Apps, organization: Organization) -> None:
    results = await asyncio.gather(
        *(apps.create("demo", organization=organization) for _ in range(12)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, BaseException)]
    assert len(refused) == 11
    assert all(isinstance(error, Unprocessable) and error.status == "name_taken" for error in refused)


async def test_one_key_makes_one_app(apps: Apps, organization: Organization) -> None:
    made = await asyncio.gather(*(apps.create("", organization=organization, idempotency_key="k") for _ in range(8)))
    assert len({app.id for app in made}) == 1


async def test_apps_of_a_network_share_its_number(apps: Apps, organization: Organization) -> None:
    made = await asyncio.gather(*(apps.create(f"a{n}", organization=organization) for n in range(8)))
    assert len({app.network_id for app in made}) == 1
    other = await apps.create("other", organization=organization, network="lab")
    assert other.network_id != made[0].network_id


async def test_numbers_are_never_used_twice(database: Database, apps: Apps, organization: Organization) -> None:
    first = await apps.create("demo", organization=organization)
    await apps.begin_delete(first)
    assert (await apps.find("demo")).deleting
    await apps.finish_delete(first)
    await apps.finish_delete(first)
    with pytest.raises(NotFound):
        await apps.find("demo")
    again = await apps.create("demo", organization=organization)
    assert again.id != first.id
    assert again.internal_numeric_id > first.internal_numeric_id
    assert again.network_id == first.network_id, "the network is the organization's, and stays"
    accounts = Accounts(database)
    rivals = await accounts.create_organization(
        "rivals", name="R", owner_id=await accounts.create_user("b@example.com")
    )
    assert (await apps.create("theirs", organization=rivals)).network_id != first.network_id


async def test_a_creation_moves_only_by_agreement(database: Database, apps: Apps, organization: Organization) -> None:
    app = await apps.create("demo", organization=organization)
    creations = Creations(database)
    first, second = await asyncio.gather(*(creations.claim(app.id, "k", fingerprint="f") for _ in range(2)))
    assert first == second
    taken = await creations.assign(first, "host-a")
    with pytest.raises(Aborted):
        await creations.assign(second, "host-b")
    assert (await creations.claim(app.id, "k", fingerprint="f")).host_id == "host-a"
    assert (await creations.assign(taken, "host-b")).host_id == "host-b"
    with pytest.raises(Unprocessable):
        await creations.claim(app.id, "k", fingerprint="another")


async def test_the_migrations_make_the_tables_that_the_code_has(database: Database, database_url: str) -> None:
    engine = blocking_engine(database_url, timeout_s=5)
    with engine.connect() as connection:
        assert compare_metadata(MigrationContext.configure(connection), Base.metadata) == []
    engine.dispose()
    heads = {path.name.split("_")[0] for path in (schema.MIGRATIONS / "versions").glob("*.py")}
    assert max(heads) == schema.HEAD


async def test_a_database_of_the_first_version_keeps_what_it_has(database_url: str) -> None:
    engine = blocking_engine(database_url, timeout_s=5)
    with engine.connect() as connection, connection.begin():
        schema.migrate(connection, "0001")
        connection.execute(text("INSERT INTO users VALUES ('u1', 'ann@example.com', 'Ann', 1)"))
        connection.execute(
            text(
                "INSERT INTO tokens (id, name, hash, prefix, user_id, created_ms) "
                "VALUES ('t1', 'old', 'cafe', 'fo1_x', 'u1', 1)"
            )
        )
    engine.dispose()
    await schema.upgrade(database_url, timeout_s=5)
    database = Database(database_url, timeout_s=5)
    facts = await Accounts(database).find_token("cafe")
    await database.close()
    assert facts is not None
    assert (facts.id, facts.user_email, facts.app_id) == ("t1", "ann@example.com", "")


async def test_several_controls_may_migrate_at_once(database_url: str) -> None:
    await asyncio.gather(*(schema.upgrade(database_url, timeout_s=10) for _ in range(4)))
    await schema.upgrade(database_url, timeout_s=5)


async def test_a_database_from_the_future_is_refused(database: Database, database_url: str) -> None:
    async with database.writing() as session:
        await session.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(FailedPrecondition, match="newer version"):
        await schema.upgrade(database_url, timeout_s=5)


async def test_the_first_run_is_done_once(database_url: str, tmp_path: Path) -> None:
    settings = ControlSettings(database_url=database_url, data_directory=tmp_path)
    secrets = await asyncio.gather(*(bootstrap.first_run(settings) for _ in range(3)))
    made = [secret for secret in secrets if secret]
    assert len(made) == 1
    assert await bootstrap.first_run(settings) is None
    database = Database(database_url, timeout_s=5)
    facts = await Accounts(database).find_token(token.digest(made[0]))
    await database.close()
    assert facts is not None
    assert [organization.slug for organization in facts.organizations] == ["personal"]
    assert facts.user_email == "admin@localhost"


async def test_sqlite_is_durable_and_its_file_private(tmp_path: Path) -> None:
    url = f"sqlite+aiosqlite:///{tmp_path / 'deep' / 'control.db'}"
    await schema.upgrade(url, timeout_s=5)
    database = Database(url, timeout_s=5)
    async with database.writing() as session:
        values = [
            (await session.execute(text(f"PRAGMA {name}"))).scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        ]
    await database.close()
    assert values == ["wal", 2, 1]
    assert (tmp_path / "deep" / "control.db").stat().st_mode & 0o777 == 0o600


async def test_a_locked_sqlite_still_reads_and_refuses_writes_in_time(tmp_path: Path) -> None:
    path = tmp_path / "control.db"
    url = f"sqlite+aiosqlite:///{path}"
    await schema.upgrade(url, timeout_s=5)
    database = Database(url, timeout_s=0.3)
    accounts = Accounts(database)
    user = await accounts.create_user("ann@example.com")
    _, secret = await accounts.create_token(name="t", user_id=user)
    lock = sqlite3.connect(path, isolation_level=None)
    try:
        lock.execute("BEGIN EXCLUSIVE")
        assert await accounts.find_token(token.digest(secret)) is not None
        with pytest.raises(Unavailable):
            await accounts.create_user("bob@example.com")
        lock.execute("ROLLBACK")
        await accounts.create_user("bob@example.com")
    finally:
        lock.close()
        await database.close()


async def test_a_pool_outlives_a_crash_of_postgresql(postgres: Postgres) -> None:
    url = postgres.new_database()
    await schema.upgrade(url, timeout_s=5)
    database = Database(url, timeout_s=2)
    accounts = Accounts(database)
    try:
        await accounts.create_user("ann@example.com")
        async with database.reading():
            postgres.crash()
            with pytest.raises(Unavailable):
                await accounts.create_user("bob@example.com")
        postgres.start()
        await accounts.create_user("bob@example.com")
        with pytest.raises(AlreadyExists):
            await accounts.create_user("ann@example.com")
    finally:
        await database.close()


async def test_a_lost_token_is_replaced_and_the_old_one_is_no_good(database_url: str, tmp_path: Path) -> None:
    settings = ControlSettings(data_directory=tmp_path, database_url=database_url)
    await schema.upgrade(database_url, timeout_s=5)
    with pytest.raises(NotFound, match="no admin yet"):
        await bootstrap.replace_token(settings)
    lost = await bootstrap.first_run(settings)
    assert lost is not None
    fresh = await bootstrap.replace_token(settings)
    database = Database(database_url, timeout_s=5)
    try:
        accounts = Accounts(database)
        assert await accounts.find_token(token.digest(lost)) is None
        found = await accounts.find_token(token.digest(fresh))
        assert found is not None
        assert [organization.slug for organization in found.organizations] == ["personal"]
    finally:
        await database.close()
    assert await bootstrap.first_run(settings) is None, "a restart makes no token beside the new one"
