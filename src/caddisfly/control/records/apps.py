"""Apps and their networks: reading and writing their rows."""

from __future__ import annotations

import time
from dataclasses import dataclass

from sqlalchemy import Row, Select, delete, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from caddisfly.control.records.accounts import organization_of
from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import AppRow, NetworkRow, OrganizationRow
from caddisfly.model import ids, registry
from caddisfly.model.app import App, Organization, check_app_name, check_network_name
from caddisfly.model.errors import Aborted, NotFound, Problem, Unprocessable
from caddisfly.model.machine import wall_ms

_Found = Row[AppRow, NetworkRow, OrganizationRow]


@dataclass(frozen=True, slots=True)
class AppRecord:
    """An app, and whether its deletion has begun."""

    app: App
    deleting: bool = False


class Apps:
    """Which apps there are. Every method raises `Unavailable` when the database is away."""

    def __init__(self, database: Database, *, cache_s: float) -> None:
        self._database, self._cache_s = database, cache_s
        self._known: dict[str, tuple[float, AppRecord]] = {}

    async def create(
        self, name: str, *, organization: Organization, network: str = "", app_role: str = "", idempotency_key: str = ""
    ) -> App:
        """Raises `Unprocessable` with Fly's texts for a bad name and for one that is taken."""
        if name == registry.APP:  # its host name is the platform's
            raise name_taken(name)
        key = idempotency_key or None
        if key is not None and (first := await self._of_key(organization.id, key)) is not None:
            if name and name != first.name:
                raise Unprocessable(
                    "idempotency_key was already used", why=f"it made the app {first.name!r}", next="use a new key"
                )
            return first
        wanted = check_app_name(name or ids.generated_name())
        check_network_name(network or "default")
        row = AppRow(
            id=ids.app_id(),
            name=wanted,
            org_id=organization.id,
            app_role=app_role,
            idempotency_key=key,
            created_ms=wall_ms(),
        )
        # The network first and by itself: it stays when the app's name turns out to be taken.
        row.network_id = await self._network_id(organization.id, network or "default")
        try:
            async with self._database.writing() as session:
                session.add(row)
        except IntegrityError as error:
            if key is not None and (first := await self._of_key(organization.id, key)) is not None:
                return first  # the same request, twice at the same moment
            raise name_taken(wanted) from error
        return (await self.find(wanted)).app

    async def find(self, name: str) -> AppRecord:
        """The app of this name, as it was at most `cache_s` ago. Raises `NotFound`."""
        known = self._known.get(name)
        if known is not None and time.monotonic() < known[0]:
            return known[1]
        try:
            check_app_name(name)
        except Unprocessable as error:
            raise app_not_found(name) from error
        asked = time.monotonic()
        async with self._database.reading() as session:
            found = (await session.execute(_apps().where(AppRow.name == name))).one_or_none()
        if found is None:
            self._known.pop(name, None)
            raise app_not_found(name)
        record = _record_of(found)
        if self._cache_s:
            if len(self._known) > 10_000:
                self._known.clear()
            self._known[name] = (asked + self._cache_s, record)
        return record

    async def of_organization(self, org_id: str, *, app_role: str | None = None) -> list[App]:
        query = _apps().where(AppRow.org_id == org_id).order_by(AppRow.name)
        if app_role is not None:
            query = query.where(AppRow.app_role == app_role)
        async with self._database.reading() as session:
            return [_record_of(found).app for found in await session.execute(query)]

    async def all(self) -> list[AppRecord]:
        """Every app of every organization, for the catalog."""
        async with self._database.reading() as session:
            return [_record_of(found) for found in await session.execute(_apps())]

    async def begin_delete(self, app: App) -> None:
        """Note durably that the app is to go. From now on it takes no new Machine."""
        async with self._database.writing() as session:
            await session.execute(
                update(AppRow).where(AppRow.id == app.id, AppRow.deleting_ms.is_(None)).values(deleting_ms=wall_ms())
            )
        self._known.pop(app.name, None)

    async def finish_delete(self, app: App) -> None:
        """Remove the record: its name is free again. Doing it twice is harmless."""
        async with self._database.writing() as session:
            await session.execute(delete(AppRow).where(AppRow.id == app.id))
        self._known.pop(app.name, None)

    async def _of_key(self, org_id: str, key: str) -> App | None:
        query = _apps().where(AppRow.org_id == org_id, AppRow.idempotency_key == key)
        async with self._database.reading() as session:
            found = (await session.execute(query)).one_or_none()
        return None if found is None else _record_of(found).app

    async def _network_id(self, org_id: str, name: str) -> int:
        async with self._database.reading() as session:
            if (number := await _network(session, org_id, name)) is not None:
                return number
        try:
            async with self._database.writing() as session:
                session.add(NetworkRow(org_id=org_id, name=name))
        except IntegrityError:
            pass  # somebody else made it in this moment: theirs is as good
        async with self._database.reading() as session:
            number = await _network(session, org_id, name)
        if number is None:
            raise NotFound("organization not found", why="it went away in this moment")
        return number


async def _network(session: AsyncSession, org_id: str, name: str) -> int | None:
    query = select(NetworkRow.network_id).where(NetworkRow.org_id == org_id, NetworkRow.name == name)
    return await session.scalar(query)


def _apps() -> Select[AppRow, NetworkRow, OrganizationRow]:
    return (
        select(AppRow, NetworkRow, OrganizationRow)
        .join(NetworkRow, AppRow.network_id == NetworkRow.network_id)
        .join(OrganizationRow, AppRow.org_id == OrganizationRow.id)
    )


def _record_of(found: _Found) -> AppRecord:
    row, network, organization = found
    app = App(
        id=row.id,
        name=row.name,
        organization=organization_of(organization),
        network=network.name,
        network_id=network.network_id,
        internal_numeric_id=row.number,
        created_ms=row.created_ms,
        app_role=row.app_role,
    )
    return AppRecord(app, row.deleting_ms is not None)


async def hold(session: AsyncSession, app_id: str) -> None:
    """Take the app's row until the transaction ends: of two that do so at once one waits for the other.

    Raises `NotFound`, and `Aborted` once its deletion has begun.
    """
    query = select(AppRow.deleting_ms).where(AppRow.id == app_id).with_for_update(key_share=True)
    found = (await session.execute(query)).one_or_none()
    if found is None:
        raise NotFound("app not found", why="it went away in this moment")
    if found[0] is not None:
        raise Aborted("the app is being deleted")


def app_not_found(name: str) -> NotFound:
    return NotFound("app not found", why=f"there is no app {name!r}", next="caddis apps list")


def name_taken(name: str) -> Problem:
    return Unprocessable(
        "Validation failed: Name has already been taken",
        why=f"there is already an app {name!r}",
        next="names of apps are global: choose another one",
        status="name_taken",
    )
