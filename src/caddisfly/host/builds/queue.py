"""Whose turn it is: fair between organizations, in order within an app.

The organization that has waited longest since its last turn goes next, so one that starts a hundred builds delays
another by one. Within an organization it is first come, first served, but for an app that has a build running: its
next one waits, for both would write the same cache and the same tag.

Pure: builds go in and out, and nobody is woken here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from caddisfly.host.builds.build import Build
from caddisfly.model.errors import Exhausted


class Queue:
    """`most` builds of one organization may wait."""

    def __init__(self, *, concurrency: int, most: int) -> None:
        self._concurrency, self._most = concurrency, most
        self._waiting: dict[str, Build] = {}
        self._running: dict[str, Build] = {}
        self._turns: dict[str, int] = {}
        self._turn = 0

    def add(self, build: Build) -> None:
        """Raises `Exhausted` when its organization has enough of them waiting."""
        waiting = Counter(other.org_id for other in self._waiting.values())[build.org_id]
        if waiting >= self._most:
            raise Exhausted(
                f"{waiting} builds of this organization are waiting already",
                why="the host takes no more before one of them has begun",
                next="wait for them, or cancel some",
                status="too_many_builds",
            )
        self._waiting[build.id] = build

    def next(self) -> Build | None:
        """The build that may begin now, counted as running from here on. None: nothing may."""
        if len(self._running) >= self._concurrency:
            return None
        ready = list(self._ready())
        if not ready:
            return None
        # `min` takes the first of equals, and builds are in the order in which they came.
        build = min(ready, key=lambda build: self._turns.get(build.org_id, 0))
        self._turn += 1
        self._turns[build.org_id] = self._turn
        del self._waiting[build.id]
        self._running[build.id] = build
        return build

    def remove(self, build_id: str) -> None:
        """It has ended, or is not wanted any more."""
        self._waiting.pop(build_id, None)
        self._running.pop(build_id, None)
        present = {build.org_id for build in (*self._waiting.values(), *self._running.values())}
        if not present:
            self._turns.clear()

    def place(self, build_id: str) -> int:
        """How many of those that wait came before. 0 for what does not wait."""
        return list(self._waiting).index(build_id) if build_id in self._waiting else 0

    def _ready(self) -> Iterator[Build]:
        busy = {build.app_id for build in self._running.values()}
        for build in self._waiting.values():
            if build.app_id not in busy:
                busy.add(build.app_id)  # only the first of an app
                yield build
