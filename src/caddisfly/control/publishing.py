"""Keeps the apps of the catalog what SQL says they are.

Several controls share the `app.` keys, so "it is not in my list" does not mean "it is not there": another control may
have made it a moment ago. A key that is not in this process's list is removed only when a reading of SQL that began
after the key was seen did not have it either. An app is committed before it is published, so such a reading cannot
have missed it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from caddisfly.bus.catalog import APP, CONTROL, AppEntry, Publication
from caddisfly.bus.connection import Bus
from caddisfly.control.records.apps import AppRecord, Apps
from caddisfly.model.app import App


class AppPublication:
    """`load` must have succeeded once before anything in the catalog is touched."""

    def __init__(self, bus: Bus, apps: Apps, *, every_s: float) -> None:
        self._apps = apps
        self._publication = Publication(bus, owner=CONTROL, owns=self._owns, every_s=every_s)
        self._started = False
        self._wanted: set[str] = set()
        self._since_load: set[str] = set()
        self._loads_begun = self._loaded = 0
        self._seen_unknown: dict[str, int] = {}

    async def load(self) -> list[AppRecord]:
        """Read all apps, and publish the difference. Raises `Unavailable`."""
        self._loads_begun += 1
        self._since_load.clear()
        records = await self._apps.all()
        fresh = {record.app.name: record.app for record in records}
        for name, app in fresh.items():
            self._seen_unknown.pop(f"{APP}.{name}", None)
            if name not in self._since_load:
                self._publication.want(*_entry(app))
        for name in self._wanted - fresh.keys() - self._since_load:
            await self._publication.remove(f"{APP}.{name}")
        # What was put or removed while SQL was read is newer than what was read.
        self._wanted = (fresh.keys() - self._since_load) | (self._wanted & self._since_load)
        self._loaded = self._loads_begun
        if not self._started:
            self._started = True
            self._publication.start()
        return records

    async def put(self, app: App) -> None:
        """Publish an app that was just committed."""
        self._wanted.add(app.name)
        self._since_load.add(app.name)
        await self._publication.put(*_entry(app))

    async def remove(self, app: App) -> None:
        self._wanted.discard(app.name)
        self._since_load.add(app.name)
        await self._publication.remove(f"{APP}.{app.name}")

    async def stop(self) -> None:
        await self._publication.stop()

    def _owns(self, key: str, value: Mapping[str, Any]) -> bool:
        if not key.startswith(f"{APP}."):
            return False
        seen_at = self._seen_unknown.setdefault(key, self._loads_begun)
        if seen_at >= self._loaded:
            return False
        del self._seen_unknown[key]
        return True


def _entry(app: App) -> tuple[str, dict[str, Any]]:
    entry = AppEntry(
        id=app.id,
        name=app.name,
        org_id=app.organization.id,
        org_slug=app.organization.slug,
        network=app.network,
        network_id=app.network_id,
    )
    return f"{APP}.{app.name}", entry.model_dump()
