"""Brings the schema up to date at start. Migrations are part of the package.

Alembic is imported only when there is something to do: it costs 11 MB of memory that would never be used again.
A database written by a newer version is refused, not guessed at.
"""

from __future__ import annotations

import asyncio
import fcntl
from contextlib import ExitStack
from pathlib import Path

from sqlalchemy import Connection, exc, inspect, make_url, text

from caddisfly.control.records.database import blocking_engine, unavailable
from caddisfly.model.errors import FailedPrecondition

HEAD = "0004"
"""The newest migration. Tests hold it against the files."""

MIGRATIONS = Path(__file__).with_name("migrations")
_LOCK = 4_280_001
"""Number of PostgreSQL's advisory lock: of several controls that start at once, one migrates."""


async def upgrade(url: str, *, timeout_s: float) -> None:
    """Migrate to `HEAD`. Raises `Unavailable`, and `FailedPrecondition` if the database is from the future."""
    await asyncio.to_thread(_upgrade, url, timeout_s)


def _upgrade(url: str, timeout_s: float) -> None:
    with ExitStack() as stack:
        parsed = make_url(url)
        if parsed.get_backend_name() == "sqlite" and parsed.database:
            path = Path(parsed.database)
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            path.touch(mode=0o600)
            # Turning a new file to WAL fails at once, without waiting, while another process does the same.
            lock = stack.enter_context(path.with_name(f"{path.name}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        _upgrade_alone(url, timeout_s)


def _upgrade_alone(url: str, timeout_s: float) -> None:
    engine = blocking_engine(url, timeout_s=timeout_s)
    try:
        with engine.connect() as connection, connection.begin():
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
            if _version(connection) != HEAD:
                migrate(connection, HEAD)
    except (exc.DBAPIError, exc.TimeoutError, OSError) as error:
        raise unavailable(error) from error
    finally:
        engine.dispose()


def _version(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    version: str | None = connection.execute(text("SELECT version_num FROM alembic_version")).scalar()
    return version


def migrate(connection: Connection, version: str) -> None:
    """Bring the schema to this version, in the transaction that is open. Raises `FailedPrecondition`."""
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory
    from alembic.util import CommandError

    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes["connection"] = connection
    present = _version(connection)
    if present is not None:
        try:
            ScriptDirectory.from_config(config).get_revision(present)
        except CommandError as error:
            raise FailedPrecondition(
                "the database was written by a newer version",
                why=f"its schema is {present}, this version knows up to {HEAD}",
                next="upgrade caddisfly, or restore the backup that was made before the upgrade",
            ) from error
    command.upgrade(config, version)
