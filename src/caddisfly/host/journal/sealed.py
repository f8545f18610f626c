"""Apps' secrets in the journal: sealed sets, each once for an app and a version, for as long as a Machine needs it.

A Machine's record only has the number of its set. So what is published has no secret in it, sealed or not, and a start
needs nobody but this host.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping

SCHEMA = """
CREATE TABLE secrets (
    app_id TEXT NOT NULL, version INTEGER NOT NULL, sealed TEXT NOT NULL, PRIMARY KEY (app_id, version)
) WITHOUT ROWID;
"""


def keep(connection: sqlite3.Connection, app_id: str, version: int, sealed: Mapping[str, str]) -> None:
    connection.execute(
        "INSERT OR IGNORE INTO secrets VALUES (?, ?, ?)", (app_id, version, json.dumps(dict(sealed), sort_keys=True))
    )


def read(connection: sqlite3.Connection, app_id: str, version: int) -> dict[str, str] | None:
    """None for a set that is not here."""
    row = connection.execute(
        "SELECT sealed FROM secrets WHERE app_id = ? AND version = ?", (app_id, version)
    ).fetchone()
    return None if row is None else dict(json.loads(row[0]))


def forget_others(connection: sqlite3.Connection, needed: frozenset[tuple[str, int]]) -> int:
    """Drop the sets that are not named. Returns how many that were."""
    there = connection.execute("SELECT app_id, version FROM secrets").fetchall()
    unneeded = [(app_id, version) for app_id, version in there if (app_id, version) not in needed]
    connection.executemany("DELETE FROM secrets WHERE app_id = ? AND version = ?", unneeded)
    return len(unneeded)
