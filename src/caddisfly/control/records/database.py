"""The one door to SQL. It makes both databases behave alike and turns their outages into `Unavailable`.

SQLite: write-ahead log, every commit fsynced, and a write takes its lock when it begins. A transaction that reads first
and asks for the lock later can be refused without any waiting, since its snapshot may be stale by then. Within this
process writers queue on an asyncio lock, in order, where SQLite would let them poll.

A failure before the commit means that nothing happened: 503, try again. A failure of the commit itself means nobody
knows, and must not be answered with 503, which clients repeat blindly.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any

from sqlalchemy import Connection, Engine, NullPool, create_engine, event, exc, make_url
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from caddisfly.model.errors import Internal, Problem, Unavailable

log = logging.getLogger(__name__)

_OUTAGES = (exc.DBAPIError, exc.TimeoutError, OSError, TimeoutError)
_WRITING = "caddisfly_writing"


class Database:
    """A pool of connections. `url` carries the driver; `timeout_s` bounds every unit of work, lock waits included."""

    def __init__(self, url: str, *, timeout_s: float, pool_size: int = 4) -> None:
        self._timeout_s = timeout_s
        self._sqlite = make_url(url).get_backend_name() == "sqlite"
        self._engine = _engine(url, timeout_s=timeout_s, pool_size=pool_size)
        self._writer = self._engine.execution_options(**{_WRITING: True})
        self._turn = asyncio.Lock()

    async def close(self) -> None:
        await self._engine.dispose()

    @asynccontextmanager
    async def reading(self) -> AsyncIterator[AsyncSession]:
        """One consistent read. Raises `Unavailable`."""
        try:
            async with asyncio.timeout(self._timeout_s), AsyncSession(self._engine, expire_on_commit=False) as session:
                yield session
        except (exc.IntegrityError, Problem):
            raise
        except _OUTAGES as error:
            raise unavailable(error) from error

    @asynccontextmanager
    async def writing(self) -> AsyncIterator[AsyncSession]:
        """One transaction, committed at the end of the block. Raises `Unavailable`, `Internal` if the commit broke."""
        turn: AbstractAsyncContextManager[Any] = self._turn if self._sqlite else nullcontext()
        committing = False
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                turn,
                AsyncSession(self._writer, expire_on_commit=False) as session,
            ):
                yield session
                await session.flush()
                committing = True
                await session.commit()
        except (exc.IntegrityError, Problem):
            raise
        except _OUTAGES as error:
            if not committing or _refused_for_space(error):
                raise unavailable(error) from error
            log.error("records.commit_unknown", extra={"kind": type(error).__name__})
            raise Internal(
                "the database failed while it saved",
                why="whether the change was kept is not known",
                next="read it again before you repeat the call",
            ) from error


def _refused_for_space(error: BaseException) -> bool:
    """Whether SQLite found no room for a transaction, and so undid it, also in the commit."""
    number = getattr(getattr(error, "orig", None), "sqlite_errorcode", 0) or 0
    return number & 0xFF == sqlite3.SQLITE_FULL


def unavailable(error: BaseException) -> Unavailable:
    """What to tell people about a database that failed. Never the statement: it can hold what is nobody's business."""
    if _refused_for_space(error):
        log.error("records.disk_full")
        return Unavailable(
            "the platform's disk is full",
            why="nothing can be recorded; what is recorded can still be read, and Machines stopped and destroyed",
            next="free space where [control] keeps its records",
            status="disk_full",
        )
    reason = str(getattr(error, "orig", None) or error).strip().splitlines()
    log.warning("records.unavailable", extra={"reason": reason[:1], "kind": type(error).__name__})
    return Unavailable("the database does not answer", why=reason[0] if reason else "timed out", next="try again soon")


def _engine(url: str, *, timeout_s: float, pool_size: int) -> AsyncEngine:
    if make_url(url).get_backend_name() != "sqlite":
        return create_async_engine(
            url,
            pool_size=pool_size,
            max_overflow=0,
            pool_timeout=timeout_s,
            pool_pre_ping=True,
            connect_args={"connect_timeout": max(2, round(timeout_s)), "prepare_threshold": None},
        )
    engine = create_async_engine(
        url, pool_size=pool_size, max_overflow=0, pool_timeout=timeout_s, connect_args={"timeout": timeout_s}
    )
    tune(engine.sync_engine, timeout_s=timeout_s)
    return engine


def blocking_engine(url: str, *, timeout_s: float) -> Engine:
    """An engine for migrations, which run in a thread of their own."""
    parsed = make_url(url)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(parsed, poolclass=NullPool, connect_args={"connect_timeout": max(2, round(timeout_s))})
    engine = create_engine(parsed.set(drivername="sqlite"), poolclass=NullPool, connect_args={"timeout": timeout_s})
    tune(engine, timeout_s=timeout_s)
    return engine.execution_options(**{_WRITING: True})


def tune(engine: Engine, *, timeout_s: float) -> None:
    """Make SQLite durable and its transactions real ones."""

    @event.listens_for(engine, "connect")
    def on_connect(connection: Any, _: object) -> None:
        connection.isolation_level = None  # BEGIN is ours, below
        cursor = connection.cursor()
        for pragma in (
            f"busy_timeout={round(timeout_s * 1000)}",
            "journal_mode=WAL",
            "synchronous=FULL",
            "foreign_keys=ON",
        ):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    @event.listens_for(engine, "begin")
    def on_begin(connection: Connection) -> None:
        writing = connection.get_execution_options().get(_WRITING)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writing else "BEGIN")
