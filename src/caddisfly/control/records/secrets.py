"""Secrets of apps: sealed rows, and a version for each app that grows with every change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import SecretRow, SecretVersionRow
from caddisfly.model.errors import Aborted, InvalidArgument, NotFound
from caddisfly.model.machine import wall_ms

MOST = 1000
MOST_BYTES = 256 * 1024
"""Of all sealed secrets of an app: they travel in one message, of which a bus takes a megabyte."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Secret:
    """One as it is kept. Times are ms since the epoch."""

    name: str
    sealed: str
    digest: str
    created_ms: int
    updated_ms: int


@dataclass(frozen=True, slots=True)
class SecretSet:
    """All secrets of an app at a version. Version 0 is that of an app that never had any."""

    version: int
    secrets: tuple[Secret, ...]

    def named(self, name: str) -> Secret:
        """Raises `NotFound`."""
        found = next((secret for secret in self.secrets if secret.name == name), None)
        if found is None:
            raise NotFound(f"secret {name!r} not found", next="caddis secrets list")
        return found


@dataclass(frozen=True, slots=True)
class Sealed:
    """A new value of a secret."""

    value: str
    digest: str


class Secrets:
    """Every method raises `Unavailable` when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, app_id: str) -> SecretSet:
        async with self._database.reading() as session:
            return await _read(session, app_id)

    async def change(self, app_id: str, changes: Mapping[str, Sealed | None]) -> SecretSet:
        """Set and, with None, remove, in one step that makes one new version. No change at all makes none.

        Removing what is not there is no change. Raises `InvalidArgument` for too many or too large ones, `Aborted` when
        somebody else changed them in this moment, `NotFound` for an app that is gone.
        """
        now = wall_ms()
        try:
            async with self._database.writing() as session:
                before = {secret.name for secret in (await _read(session, app_id)).secrets}
                effective = {name: sealed for name, sealed in changes.items() if sealed or name in before}
                if effective:
                    await _next_version(session, app_id)
                for name, sealed in effective.items():
                    await _put(session, app_id, name, sealed, known=name in before, now_ms=now)
                await session.flush()
                after = await _read(session, app_id)
                _check_size(after)
        except IntegrityError as error:
            async with self._database.reading() as session:
                if (await session.scalar(select(func.count()).where(SecretVersionRow.app_id == app_id))) == 0:
                    raise NotFound("app not found") from error
            raise Aborted("the secrets were changed by another request", next="try again") from error
        return after


async def _read(session: AsyncSession, app_id: str) -> SecretSet:
    rows = await session.scalars(select(SecretRow).where(SecretRow.app_id == app_id).order_by(SecretRow.name))
    version = await session.scalar(select(SecretVersionRow.version).where(SecretVersionRow.app_id == app_id))
    return SecretSet(
        version or 0,
        tuple(
            Secret(
                name=row.name,
                sealed=row.sealed,
                digest=row.digest,
                created_ms=row.created_ms,
                updated_ms=row.updated_ms,
            )
            for row in rows
        ),
    )


async def _next_version(session: AsyncSession, app_id: str) -> None:
    """Takes the app's row, so that of two changes at once one waits for the other."""
    touched = await session.execute(
        update(SecretVersionRow)
        .where(SecretVersionRow.app_id == app_id)
        .values(version=SecretVersionRow.version + 1)
        .returning(SecretVersionRow.version)
    )
    if touched.scalar() is None:
        session.add(SecretVersionRow(app_id=app_id, version=1))
        await session.flush()


async def _put(
    session: AsyncSession, app_id: str, name: str, sealed: Sealed | None, *, known: bool, now_ms: int
) -> None:
    this = SecretRow.app_id == app_id, SecretRow.name == name
    if sealed is None:
        await session.execute(delete(SecretRow).where(*this))
        return
    values = {"sealed": sealed.value, "digest": sealed.digest, "updated_ms": now_ms}
    if known:
        await session.execute(update(SecretRow).where(*this).values(**values))
    else:
        session.add(SecretRow(app_id=app_id, name=name, created_ms=now_ms, **values))


def _check_size(after: SecretSet) -> None:
    if len(after.secrets) > MOST:
        raise InvalidArgument(f"too many secrets, an app has at most {MOST}")
    if (size := sum(len(secret.name) + len(secret.sealed) for secret in after.secrets)) > MOST_BYTES:
        raise InvalidArgument(
            "the secrets are too large",
            why=f"all of an app take at most {MOST_BYTES} bytes as they are kept, these take {size}",
            next="put large files into the image or a volume, and their key into a secret",
        )
