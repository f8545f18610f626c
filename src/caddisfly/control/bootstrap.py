"""The first run: a user, an organization and a token, so that one box needs no setup.

Doing it again changes nothing. The secret of the token exists only in the moment it is made.
"""

from __future__ import annotations

from sqlalchemy import select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from caddisfly.control.auth import token
from caddisfly.control.records import schema
from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import MembershipRow, OrganizationRow, TokenRow, UserRow
from caddisfly.control.settings import ControlSettings
from caddisfly.model import ids
from caddisfly.model.errors import NotFound
from caddisfly.model.machine import wall_ms

EMAIL = "admin@localhost"
ORGANIZATION = "personal"
TOKEN_NAME = "admin"


async def first_run(settings: ControlSettings) -> str | None:
    """Migrate, and make what is missing. Returns the admin token's secret if it was made now, else None.

    A token that was revoked is not made again by a restart: that would undo a decision. Raises `Unavailable`,
    `FailedPrecondition`.
    """
    url = settings.database()
    await schema.upgrade(url, timeout_s=settings.database_timeout_s)
    database = Database(url, timeout_s=settings.database_timeout_s, pool_size=1)
    try:
        return await _make(database)
    except IntegrityError:
        return None  # another process did it in this very moment, and has the secret
    finally:
        await database.close()


async def replace_token(settings: ControlSettings) -> str:
    """A new admin token in place of one that was lost: the old one stops working. Raises `NotFound`, `Unavailable`."""
    database = Database(settings.database(), timeout_s=settings.database_timeout_s, pool_size=1)
    try:
        async with database.writing() as session:
            user = await session.scalar(select(UserRow).where(UserRow.email == EMAIL))
            if user is None:
                raise NotFound("there is no admin yet", why="the platform has not run here", next="caddis up")
            mine = TokenRow.user_id == user.id, TokenRow.name == TOKEN_NAME, TokenRow.revoked_ms.is_(None)
            await session.execute(update(TokenRow).where(*mine).values(revoked_ms=wall_ms()))
            return _add_token(session, user.id)
    finally:
        await database.close()


async def _make(database: Database) -> str | None:
    # One transaction: half of this would leave a box that nobody can log into, and that is never set up again.
    async with database.writing() as session:
        user = await session.scalar(select(UserRow).where(UserRow.email == EMAIL))
        if user is None:
            user = UserRow(id=ids.ulid(), email=EMAIL, name="Admin", created_ms=wall_ms())
            session.add(user)
            await session.flush()
        organization = await session.scalar(select(OrganizationRow).where(OrganizationRow.slug == ORGANIZATION))
        if organization is None:
            organization = OrganizationRow(
                id=ids.organization_id(), slug=ORGANIZATION, name="Personal", created_ms=wall_ms()
            )
            session.add(organization)
            await session.flush()
            session.add(MembershipRow(user_id=user.id, org_id=organization.id, role="admin"))
        made = await session.scalar(select(TokenRow.id).where(TokenRow.user_id == user.id, TokenRow.name == TOKEN_NAME))
        if made is not None:
            return None
        return _add_token(session, user.id)


def _add_token(session: AsyncSession, user_id: str) -> str:
    secret = token.generate()
    session.add(
        TokenRow(
            id=ids.ulid(),
            name=TOKEN_NAME,
            hash=token.digest(secret),
            prefix=token.shown(secret),
            user_id=user_id,
            created_ms=wall_ms(),
        )
    )
    return secret
