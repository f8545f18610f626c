"""Users, organizations and tokens: reading and writing their rows."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

from sqlalchemy import or_, select, update
from sqlalchemy.exc import IntegrityError

from caddisfly.control.auth import token
from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import AppRow, MembershipRow, OrganizationRow, TokenRow, UserRow
from caddisfly.model import ids
from caddisfly.model.app import Organization
from caddisfly.model.errors import AlreadyExists, NotFound
from caddisfly.model.machine import wall_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """A token that is stored and not revoked: whose it is and how far it reaches. Times are ms since the epoch.

    With an `app_id` it reaches that app, and nothing else of its organization.
    """

    id: str
    user_id: str
    user_email: str
    organizations: tuple[Organization, ...]
    expires_ms: int | None
    last_used_ms: int | None
    app_id: str = ""
    app_name: str = ""

    def reaches(self, *, org_id: str, app_id: str) -> bool:
        return self.app_id in ("", app_id) and any(org_id == organization.id for organization in self.organizations)

    def expired(self, now_ms: int) -> bool:
        return self.expires_ms is not None and now_ms >= self.expires_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredToken:
    """A token as a person sees it in a list: all but what would let one use it."""

    id: str
    name: str
    prefix: str
    user_email: str
    created_ms: int
    expires_ms: int | None
    last_used_ms: int | None


class Accounts:
    """Who there is. Every method raises `Unavailable` when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def create_user(self, email: str, *, name: str = "") -> str:
        """The new user's id. Raises `AlreadyExists`."""
        row = UserRow(id=ids.ulid(), email=email.lower(), name=name or email, created_ms=wall_ms())
        try:
            async with self._database.writing() as session:
                session.add(row)
        except IntegrityError as error:
            raise AlreadyExists(f"there is already a user {email}") from error
        return row.id

    async def create_organization(self, slug: str, *, name: str, owner_id: str) -> Organization:
        """A new organization with its first member, who may do everything in it. Raises `AlreadyExists`."""
        row = OrganizationRow(id=ids.organization_id(), slug=slug, name=name, created_ms=wall_ms())
        try:
            async with self._database.writing() as session:
                session.add(row)
                await session.flush()
                session.add(MembershipRow(user_id=owner_id, org_id=row.id, role="admin"))
        except IntegrityError as error:
            raise AlreadyExists(f"there is already an organization {slug!r}") from error
        return organization_of(row)

    async def create_token(
        self,
        *,
        name: str,
        user_id: str,
        org_id: str | None = None,
        app_id: str | None = None,
        expires_ms: int | None = None,
    ) -> tuple[str, str]:
        """A new token: its id, and its secret, shown this once. Without `org_id` it reaches all of the user's."""
        secret = token.generate()
        row = TokenRow(
            id=ids.ulid(),
            name=name,
            hash=token.digest(secret),
            prefix=token.shown(secret),
            user_id=user_id,
            org_id=org_id,
            app_id=app_id,
            created_ms=wall_ms(),
            expires_ms=expires_ms,
        )
        async with self._database.writing() as session:
            session.add(row)
        return row.id, secret

    async def tokens_of_app(self, app_id: str) -> list[StoredToken]:
        """Those narrowed to this app that are not revoked, oldest first; also expired ones, for a person to see."""
        query = select(TokenRow, UserRow.email).join(UserRow, TokenRow.user_id == UserRow.id)
        query = query.where(TokenRow.app_id == app_id, TokenRow.revoked_ms.is_(None)).order_by(TokenRow.id)
        async with self._database.reading() as session:
            return [_stored(row, email) for row, email in await session.execute(query)]

    async def revoke_token(self, token_id: str, *, app_id: str | None = None) -> None:
        """Raises `NotFound`, also for one that is not narrowed to `app_id`. Revoking twice keeps the first time."""
        async with self._database.writing() as session:
            row = await session.get(TokenRow, token_id)
            if row is None or (app_id is not None and row.app_id != app_id):
                raise NotFound("token not found", next="caddis tokens list")
            row.revoked_ms = row.revoked_ms or wall_ms()

    async def find_token(self, hashed: str) -> TokenFacts | None:
        """The token with this digest, unless revoked. Expiry is for the caller, who may have kept the facts a while."""
        async with self._database.reading() as session:
            found = (
                await session.execute(
                    select(TokenRow, UserRow, AppRow.name)
                    .join(UserRow, TokenRow.user_id == UserRow.id)
                    .outerjoin(AppRow, TokenRow.app_id == AppRow.id)
                    .where(TokenRow.hash == hashed, TokenRow.revoked_ms.is_(None))
                )
            ).one_or_none()
            if found is None:
                return None
            row, user, app_name = found
            if not hmac.compare_digest(row.hash, hashed):
                return None
            # Whoever left an organization takes no right along, also not in a token made before.
            organizations = await session.scalars(
                select(OrganizationRow)
                .join(MembershipRow, MembershipRow.org_id == OrganizationRow.id)
                .where(
                    MembershipRow.user_id == user.id,
                    *(() if row.org_id is None else (OrganizationRow.id == row.org_id,)),
                )
                .order_by(OrganizationRow.number)
            )
            return TokenFacts(
                id=row.id,
                user_id=user.id,
                user_email=user.email,
                organizations=tuple(organization_of(organization) for organization in organizations),
                expires_ms=row.expires_ms,
                last_used_ms=row.last_used_ms,
                app_id=row.app_id or "",
                app_name=app_name or "",
            )

    async def touch_token(self, token_id: str, now_ms: int) -> None:
        """Note that the token was used. Coarse: callers do this once an hour."""
        async with self._database.writing() as session:
            older = or_(TokenRow.last_used_ms.is_(None), TokenRow.last_used_ms < now_ms)
            await session.execute(update(TokenRow).where(TokenRow.id == token_id, older).values(last_used_ms=now_ms))


def _stored(row: TokenRow, email: str) -> StoredToken:
    return StoredToken(
        id=row.id,
        name=row.name,
        prefix=row.prefix,
        user_email=email,
        created_ms=row.created_ms,
        expires_ms=row.expires_ms,
        last_used_ms=row.last_used_ms,
    )


def organization_of(row: OrganizationRow) -> Organization:
    return Organization(id=row.id, slug=row.slug, name=row.name, internal_numeric_id=row.number)
