"""Releases of apps: what was deployed when, by whom, from which definition, and what became of it.

Of an app one release at a time is under way, and that is what keeps two deploys from working on the same Machines. Who
makes one gets its nonce and must be heard of again before it expires. A holder that has gone silent is in nobody's way:
the next release takes its place, and until then it may come back and go on. A release that has ended stays as it is.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, Select, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession
from sqlalchemy.orm import defer

from caddisfly.control.records.apps import hold
from caddisfly.control.records.creations import fingerprint
from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import ReleaseRow, UserRow
from caddisfly.model import ids
from caddisfly.model.errors import Aborted, InvalidArgument, NotFound, Unprocessable
from caddisfly.model.machine import rfc3339, wall_ms

PENDING, RUNNING, COMPLETE, FAILED, INTERRUPTED = "pending", "running", "complete", "failed", "interrupted"
STATUSES = (PENDING, RUNNING, COMPLETE, FAILED, INTERRUPTED)
UNDER_WAY = (PENDING, RUNNING)
CURRENT, LATEST = "current", "latest"
TTL_DEFAULT_S, TTL_MAX_S = 60, 3600
DEFINITION_MAX_BYTES = 2 * 1024 * 1024
"""The contents of `files` are in it, which may be large."""
PROGRESS_MAX_BYTES = 256 * 1024
KEPT = 100
"""Of each app, the newest, and the current one however old it is."""
_DEEPEST = 50

_Found = Row[ReleaseRow, UserRow]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A release as it is asked for."""

    image_ref: str = ""
    strategy: str = "ROLLING"
    definition: Mapping[str, Any] = field(default_factory=dict)
    progress: Mapping[str, Any] = field(default_factory=dict)
    description: str = ""
    reason: str = ""
    ttl_s: int = TTL_DEFAULT_S


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What its holder says of a release. None leaves things as they are; being heard of is what keeps it alive."""

    status: str | None = None
    error: str | None = None
    progress: Mapping[str, Any] | None = None
    ttl_s: int | None = None


@dataclass(frozen=True, slots=True)
class User:
    id: str
    email: str
    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Release:
    """Times are ms since the epoch. `definition` and `progress` are None where they were not asked for."""

    id: str
    version: int
    status: str
    strategy: str
    image_ref: str
    description: str
    reason: str
    error: str
    user: User | None
    nonce: str = field(repr=False)
    created_ms: int
    updated_ms: int
    expires_ms: int
    definition: Mapping[str, Any] | None = None
    progress: Mapping[str, Any] | None = None

    @property
    def in_progress(self) -> bool:
        return self.status in UNDER_WAY


class Releases:
    """Every method raises `Unavailable` when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def begin(self, app_id: str, draft: Draft, *, user_id: str, key: str = "") -> Release:
        """The next release of the app, pending. The same `key` gives the same release.

        Raises `Aborted` while another is under way, `Unprocessable` for a key that stood for something else.
        """
        definition = _json(draft.definition, "definition", DEFINITION_MAX_BYTES)
        progress = _json(draft.progress, "progress", PROGRESS_MAX_BYTES)
        mark = fingerprint([draft.image_ref, draft.strategy, definition, draft.description, draft.reason])
        async with self._database.writing() as session:
            await hold(session, app_id)
            first = await _of_key(session, app_id, key) if key else None
            if first is not None:
                if first[0].fingerprint != mark:
                    raise Unprocessable("Idempotency-Key was already used for another release", next="use a new key")
                return _release(first)
            now = wall_ms()
            await _take_over(session, app_id, now)
            newest = await session.scalar(select(func.max(ReleaseRow.version)).where(ReleaseRow.app_id == app_id))
            row = ReleaseRow(
                id=ids.ulid(),
                app_id=app_id,
                version=(newest or 0) + 1,
                status=PENDING,
                strategy=draft.strategy,
                image_ref=draft.image_ref,
                description=draft.description,
                reason=draft.reason,
                error="",
                definition=definition,
                progress=progress,
                user_id=user_id,
                nonce=secrets.token_hex(12),
                ttl_s=draft.ttl_s,
                idempotency_key=key or None,
                fingerprint=mark,
                created_ms=now,
                updated_ms=now,
                expires_ms=now + draft.ttl_s * 1000,
            )
            session.add(row)
            await session.flush()
            await _forget(session, app_id, row.version - KEPT)
            return _release(await _one(session, app_id, row.version))

    async def of(self, app_id: str, *, limit: int) -> list[Release]:
        """Newest first, without definition and progress."""
        query = _releases(app_id).options(defer(ReleaseRow.definition), defer(ReleaseRow.progress))
        async with self._database.reading() as session:
            found = await session.execute(query.order_by(ReleaseRow.version.desc()).limit(limit))
            return [_release(one, whole=False) for one in found]

    async def find(self, app_id: str, version: str) -> Release:
        """By number; `current` is the newest that is complete, `latest` the newest. Raises `NotFound`."""
        query = _releases(app_id).order_by(ReleaseRow.version.desc()).limit(1)
        if version == CURRENT:
            query = query.where(ReleaseRow.status == COMPLETE)
        elif version != LATEST:
            query = query.where(ReleaseRow.version == _number(version))
        async with self._database.reading() as session:
            found = (await session.execute(query)).one_or_none()
        if found is None:
            raise _not_found(version)
        return _release(found)

    async def change(self, app_id: str, version: int, change: Change, *, nonce: str) -> Release:
        """Also moves on when it expires. Raises `Aborted` with another nonce, and for one that has ended."""
        progress = None if change.progress is None else _json(change.progress, "progress", PROGRESS_MAX_BYTES)
        async with self._database.writing() as session:
            await hold(session, app_id)
            row = (await _one(session, app_id, version))[0]
            if not nonce or not secrets.compare_digest(row.nonce.encode(), nonce.encode()):
                raise Aborted(f"release v{version} is not yours to change", why="the nonce is not that of the release")
            if row.status not in UNDER_WAY:
                if change.status == row.status and change.error in (None, row.error):
                    return _release(await _one(session, app_id, version))  # said twice, as after a lost answer
                raise Aborted(
                    f"release v{version} has ended and does not change any more",
                    why=f"it is {row.status}",
                    status="release_ended",
                )
            now = wall_ms()
            row.status = change.status or row.status
            row.error = row.error if change.error is None else change.error
            row.progress = row.progress if progress is None else progress
            row.ttl_s = change.ttl_s or row.ttl_s
            row.updated_ms, row.expires_ms = now, now + row.ttl_s * 1000
            await session.flush()
            return _release(await _one(session, app_id, version))


async def _take_over(session: AsyncSession, app_id: str, now_ms: int) -> None:
    """Raises `Aborted` while another release is under way; one whose holder went silent is under way no more."""
    query = _releases(app_id).where(ReleaseRow.status.in_(UNDER_WAY), ReleaseRow.expires_ms > now_ms).limit(1)
    held = (await session.execute(query)).one_or_none()
    if held is not None:
        row, user = held
        owner = (user.email or user.name) if user is not None else "somebody"
        raise Aborted(
            f"lease currently held by {owner}, expires at {rfc3339(row.expires_ms)}",
            why=f"release v{row.version} is under way, and an app has one at a time",
            next="wait until it ends; `caddis releases` shows it",
            status="release_under_way",
        )
    await session.execute(
        update(ReleaseRow)
        .where(ReleaseRow.app_id == app_id, ReleaseRow.status.in_(UNDER_WAY))
        .values(status=INTERRUPTED, updated_ms=now_ms)
    )


async def _forget(session: AsyncSession, app_id: str, up_to: int) -> None:
    complete = select(func.max(ReleaseRow.version)).where(ReleaseRow.app_id == app_id, ReleaseRow.status == COMPLETE)
    current = await session.scalar(complete)
    await session.execute(
        delete(ReleaseRow).where(
            ReleaseRow.app_id == app_id, ReleaseRow.version <= up_to, ReleaseRow.version != (current or 0)
        )
    )


def _number(version: str) -> int:
    """Raises `InvalidArgument`."""
    digits = version.removeprefix("v")
    if not digits.isascii() or not digits.isdecimal() or len(digits) > 18:
        raise InvalidArgument(
            f"invalid version {version[:40]!r}, must be a number, {CURRENT} or {LATEST}", next="caddis releases"
        )
    return int(digits)


def _releases(app_id: str) -> Select[ReleaseRow, UserRow]:
    joined = select(ReleaseRow, UserRow).outerjoin(UserRow, ReleaseRow.user_id == UserRow.id)
    return joined.where(ReleaseRow.app_id == app_id)


async def _one(session: AsyncSession, app_id: str, version: int) -> _Found:
    found = (await session.execute(_releases(app_id).where(ReleaseRow.version == version))).one_or_none()
    if found is None:
        raise _not_found(str(version))
    return found


async def _of_key(session: AsyncSession, app_id: str, key: str) -> _Found | None:
    return (await session.execute(_releases(app_id).where(ReleaseRow.idempotency_key == key))).one_or_none()


def _release(found: _Found, *, whole: bool = True) -> Release:
    """One whose holder has gone silent reads as interrupted, whether or not somebody has taken its place."""
    row, user = found
    silent = row.status in UNDER_WAY and row.expires_ms <= wall_ms()
    return Release(
        id=row.id,
        version=row.version,
        status=INTERRUPTED if silent else row.status,
        strategy=row.strategy,
        image_ref=row.image_ref,
        description=row.description,
        reason=row.reason,
        error=row.error,
        user=None if user is None else User(user.id, user.email, user.name),
        nonce=row.nonce,
        created_ms=row.created_ms,
        updated_ms=row.updated_ms,
        expires_ms=row.expires_ms,
        definition=json.loads(row.definition) if whole else None,
        progress=json.loads(row.progress) if whole else None,
    )


def _json(value: Mapping[str, Any], name: str, most: int) -> str:
    if _deeper(value, _DEEPEST):
        raise InvalidArgument(f"the {name} is nested too deeply", why=f"at most {_DEEPEST} levels are kept")
    text = json.dumps(value, separators=(",", ":"))
    if len(text) > most:
        raise InvalidArgument(f"the {name} is too large", why=f"it takes {len(text)} bytes, at most {most} are kept")
    return text


def _deeper(value: Any, levels: int) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return levels == 0 or any(_deeper(one, levels - 1) for one in inner)


def _not_found(version: str) -> NotFound:
    if version == CURRENT:
        return NotFound("release not found", why="no release of this app is complete yet", next="caddis deploy")
    return NotFound("release not found", why=f"this app has no release {version}", next="caddis releases")
