"""Releases of an app, one at a time under way, and how many Machines its process groups should have.

Who creates a release holds the app: until it ends, or until nothing was heard of it for a while, nobody else can create
one. Caddisfly's own; Fly has them in other APIs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from caddisfly.client import calls
from caddisfly.client.calls import Json

if TYPE_CHECKING:
    from caddisfly.client.asynchronous import AsyncClient
    from caddisfly.client.synchronous import Client


class Releases:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, app: str, *, limit: int = 25) -> Any:
        """Newest first, without their `definition` and `progress`."""
        return self._client.send(calls.releases(app, limit))

    def get(self, app: str, version: int | str = "current") -> Any:
        """By number; `current` is the newest that is complete, `latest` the newest. Raises `NotFoundError`."""
        return self._client.send(calls.release(app, version))

    def create(
        self,
        app: str,
        *,
        image: str = "",
        strategy: str = "",
        definition: Json | None = None,
        progress: Json | None = None,
        description: str = "",
        reason: str = "",
        ttl_s: int = 0,
        idempotency_key: str = "",
    ) -> Any:
        """The next release, pending, and its `nonce`. Raises `LeaseHeldError` while another is under way.

        `update` it within `ttl_s` seconds, again and again, or it counts as interrupted. With the same
        `idempotency_key` it is the same release, so that this is tried again after a lost answer.
        """
        body = {
            "image": image,
            "strategy": strategy,
            "definition": definition,
            "progress": progress,
            "description": description,
            "reason": reason,
            "ttl": ttl_s,
        }
        return self._client.send(calls.create_release(app, body, idempotency_key))

    def update(
        self,
        app: str,
        version: int,
        nonce: str,
        *,
        status: str | None = None,
        error: str | None = None,
        progress: Json | None = None,
        ttl_s: int | None = None,
    ) -> Any:
        """Say how it goes on; without anything, that it does. Raises `ConflictError` once it has ended.

        `status` is pending, running, complete, failed or interrupted; `progress` replaces what was there.
        """
        body = {"nonce": nonce, "status": status, "error": error, "progress": progress, "ttl": ttl_s}
        return self._client.send(calls.change_release(app, version, body))


class Scale:
    """How many Machines each process group should have. Nothing here changes a Machine."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, app: str) -> Any:
        """`count`, `regions` and `max_per_region`, by process group; none for a group of which nobody said anything."""
        return self._client.send(calls.scale(app))

    def change(self, app: str, groups: Mapping[str, Json | None]) -> Any:
        """Remember for the groups that are named; None forgets one. Returns all."""
        return self._client.send(calls.change_scale(app, groups))


class AsyncReleases:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, app: str, *, limit: int = 25) -> Any:
        """Newest first, without their `definition` and `progress`."""
        return await self._client.send(calls.releases(app, limit))

    async def get(self, app: str, version: int | str = "current") -> Any:
        """By number; `current` is the newest that is complete, `latest` the newest. Raises `NotFoundError`."""
        return await self._client.send(calls.release(app, version))

    async def create(
        self,
        app: str,
        *,
        image: str = "",
        strategy: str = "",
        definition: Json | None = None,
        progress: Json | None = None,
        description: str = "",
        reason: str = "",
        ttl_s: int = 0,
        idempotency_key: str = "",
    ) -> Any:
        """The next release, pending, and its `nonce`. Raises `LeaseHeldError` while another is under way.

        `update` it within `ttl_s` seconds, again and again, or it counts as interrupted. With the same
        `idempotency_key` it is the same release, so that this is tried again after a lost answer.
        """
        body = {
            "image": image,
            "strategy": strategy,
            "definition": definition,
            "progress": progress,
            "description": description,
            "reason": reason,
            "ttl": ttl_s,
        }
        return await self._client.send(calls.create_release(app, body, idempotency_key))

    async def update(
        self,
        app: str,
        version: int,
        nonce: str,
        *,
        status: str | None = None,
        error: str | None = None,
        progress: Json | None = None,
        ttl_s: int | None = None,
    ) -> Any:
        """Say how it goes on; without anything, that it does. Raises `ConflictError` once it has ended.

        `status` is pending, running, complete, failed or interrupted; `progress` replaces what was there.
        """
        body = {"nonce": nonce, "status": status, "error": error, "progress": progress, "ttl": ttl_s}
        return await self._client.send(calls.change_release(app, version, body))


class AsyncScale:
    """How many Machines each process group should have. Nothing here changes a Machine."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def get(self, app: str) -> Any:
        """`count`, `regions` and `max_per_region`, by process group; none for a group of which nobody said anything."""
        return await self._client.send(calls.scale(app))

    async def change(self, app: str, groups: Mapping[str, Json | None]) -> Any:
        """Remember for the groups that are named; None forgets one. Returns all."""
        return await self._client.send(calls.change_scale(app, groups))
