"""How many Machines each process group of an app should have, and where: what somebody once said and nobody took back.

The Machines alone do not tell: none of a group is a new group to a deploy, or one that was scaled to nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from caddisfly.control.records.apps import hold
from caddisfly.control.records.database import Database
from caddisfly.control.records.tables import ScaleRow
from caddisfly.model.errors import InvalidArgument
from caddisfly.model.machine import wall_ms

MOST_GROUPS = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """No regions mean wherever the app is; no `max_per_region` means any number."""

    count: int
    regions: tuple[str, ...] = ()
    max_per_region: int | None = None


class Scales:
    """Every method raises `Unavailable` when the database is away."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def of(self, app_id: str) -> dict[str, Scale]:
        """By process group."""
        async with self._database.reading() as session:
            return await _read(session, app_id)

    async def change(self, app_id: str, changes: Mapping[str, Scale | None]) -> dict[str, Scale]:
        """Set and, with None, forget; the other groups stay. Raises `InvalidArgument` for too many."""
        now = wall_ms()
        async with self._database.writing() as session:
            await hold(session, app_id)
            for group, scale in changes.items():
                await session.execute(
                    delete(ScaleRow).where(ScaleRow.app_id == app_id, ScaleRow.process_group == group)
                )
                if scale is not None:
                    session.add(
                        ScaleRow(
                            app_id=app_id,
                            process_group=group,
                            count=scale.count,
                            regions=",".join(scale.regions),
                            max_per_region=scale.max_per_region,
                            updated_ms=now,
                        )
                    )
            await session.flush()
            after = await _read(session, app_id)
            if len(after) > MOST_GROUPS:
                raise InvalidArgument(f"too many process groups, an app has at most {MOST_GROUPS}")
        return after


async def _read(session: AsyncSession, app_id: str) -> dict[str, Scale]:
    rows = await session.scalars(select(ScaleRow).where(ScaleRow.app_id == app_id).order_by(ScaleRow.process_group))
    return {
        row.process_group: Scale(
            row.count, tuple(region for region in row.regions.split(",") if region), row.max_per_region
        )
        for row in rows
    }
