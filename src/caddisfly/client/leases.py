"""Leases: for a while, only who knows the nonce may change a Machine. The blocking and the asynchronous form.

They end on their own, so a holder that dies blocks nobody for long, and one that works for long must refresh. Metadata,
`wait`, `exec` and everything that only reads need none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caddisfly.client import calls
from caddisfly.client.calls import Json

if TYPE_CHECKING:
    from caddisfly.client.asynchronous import AsyncClient
    from caddisfly.client.synchronous import Client


class Leases:
    """`machines.lease` holds one for a block."""

    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, app: str, id: str, *, nonce: str = "") -> Json:
        """`owner`, `expires_at` in seconds since the epoch, `description`, `version`. Raises `NotFoundError`."""
        return dict(self._client.send(calls.lease(app, id, nonce)))

    def acquire(self, app: str, id: str, *, ttl_s: int = 0, description: str = "") -> Json:
        """The Lease with its `nonce`. Raises `LeaseHeldError`.

        When the answer is lost it may have been given all the same, and ends on its own after `ttl_s` seconds.
        """
        call = calls.take_lease(app, id, ttl_s=ttl_s, description=description, nonce="")
        return dict(self._client.send(call))

    def refresh(self, app: str, id: str, nonce: str, *, ttl_s: int = 0) -> Json:
        """The same Lease, ending `ttl_s` seconds from now. Raises `ConflictError` when it has ended already."""
        return dict(self._client.send(calls.take_lease(app, id, ttl_s=ttl_s, description="", nonce=nonce)))

    def release(self, app: str, id: str, nonce: str) -> None:
        self._client.send(calls.release_lease(app, id, nonce))


class AsyncLeases:
    """`machines.lease` holds one for a block."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def get(self, app: str, id: str, *, nonce: str = "") -> Json:
        """`owner`, `expires_at` in seconds since the epoch, `description`, `version`. Raises `NotFoundError`."""
        return dict(await self._client.send(calls.lease(app, id, nonce)))

    async def acquire(self, app: str, id: str, *, ttl_s: int = 0, description: str = "") -> Json:
        """The Lease with its `nonce`. Raises `LeaseHeldError`.

        When the answer is lost it may have been given all the same, and ends on its own after `ttl_s` seconds.
        """
        call = calls.take_lease(app, id, ttl_s=ttl_s, description=description, nonce="")
        return dict(await self._client.send(call))

    async def refresh(self, app: str, id: str, nonce: str, *, ttl_s: int = 0) -> Json:
        """The same Lease, ending `ttl_s` seconds from now. Raises `ConflictError` when it has ended already."""
        return dict(await self._client.send(calls.take_lease(app, id, ttl_s=ttl_s, description="", nonce=nonce)))

    async def release(self, app: str, id: str, nonce: str) -> None:
        await self._client.send(calls.release_lease(app, id, nonce))
