"""Creates of Machines that carry an idempotency key: one key makes one Machine, whatever breaks on the way.

The id of the Machine, and the host that is asked to take it, are durable before that host is asked. A client that
repeats the call therefore reaches the same host with the same id, and hosts make one Machine of that. The create
moves on to another host only once the one before has said no.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from sqlalchemy import CursorResult, update
from sqlalchemy.exc import IntegrityError

from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import CreationRow
from caddisfly.model import ids
from caddisfly.model.errors import Aborted, Unprocessable
from caddisfly.model.machine import wall_ms


@dataclass(frozen=True, slots=True)
class Creation:
    """`host_id` is empty until a host was asked."""

    app_id: str
    key: str
    machine_id: str
    host_id: str


def fingerprint(body: Any) -> str:
    """What tells one request from another under the same key."""
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


class Creations:
    def __init__(self, database: Database) -> None:
        self._database = database

    async def claim(self, app_id: str, key: str, *, fingerprint: str) -> Creation:
        """The creation that this key stands for. Raises `Unprocessable` if it stood for another request."""
        row = CreationRow(
            app_id=app_id,
            key=key,
            fingerprint=fingerprint,
            machine_id=ids.machine_id(),
            host_id="",
            created_ms=wall_ms(),
        )
        try:
            async with self._database.writing() as session:
                session.add(row)
        except IntegrityError:
            async with self._database.reading() as session:
                first = await session.get(CreationRow, (app_id, key))
            if first is None:
                raise Aborted("the app is being deleted") from None
            if first.fingerprint != fingerprint:
                raise Unprocessable(
                    "Idempotency-Key was already used for another request", next="use a new key"
                ) from None
            row = first
        return Creation(row.app_id, row.key, row.machine_id, row.host_id)

    async def assign(self, creation: Creation, host_id: str) -> Creation:
        """Give it to a host, before asking that host. Raises `Aborted` if somebody else did so meanwhile."""
        async with self._database.writing() as session:
            result = await session.execute(
                update(CreationRow)
                .where(
                    CreationRow.app_id == creation.app_id,
                    CreationRow.key == creation.key,
                    CreationRow.host_id == creation.host_id,
                )
                .values(host_id=host_id)
            )
            if not isinstance(result, CursorResult) or result.rowcount != 1:
                raise Aborted("another request with this Idempotency-Key is under way", next="try again")
        return Creation(creation.app_id, creation.key, creation.machine_id, host_id)
