"""A Machine's metadata: names and values that change without a new version, a restart or a Lease.

The same as `metadata` of its config, so that an update which leaves them out removes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from caddisfly.client import calls

if TYPE_CHECKING:
    from caddisfly.client.asynchronous import AsyncClient
    from caddisfly.client.synchronous import Client


class Metadata:
    def __init__(self, client: Client) -> None:
        self._client = client

    def get(self, app: str, id: str) -> dict[str, str]:
        return dict(self._client.send(calls.metadata(app, id)))

    def set(self, app: str, id: str, key: str, value: str) -> None:
        self._client.send(calls.set_metadata(app, id, key, value))

    def merge(self, app: str, id: str, changes: Mapping[str, str | None], *, machine_version: str = "") -> None:
        """Set many at once; None removes; what is not named stays.

        Raises `PreconditionError` when `machine_version` is given and not current.
        """
        self._client.send(calls.merge_metadata(app, id, changes, machine_version))

    def delete(self, app: str, id: str, key: str) -> None:
        """Also when it is not there."""
        self._client.send(calls.delete_metadata(app, id, key))


class AsyncMetadata:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def get(self, app: str, id: str) -> dict[str, str]:
        return dict(await self._client.send(calls.metadata(app, id)))

    async def set(self, app: str, id: str, key: str, value: str) -> None:
        await self._client.send(calls.set_metadata(app, id, key, value))

    async def merge(self, app: str, id: str, changes: Mapping[str, str | None], *, machine_version: str = "") -> None:
        """Set many at once; None removes; what is not named stays.

        Raises `PreconditionError` when `machine_version` is given and not current.
        """
        await self._client.send(calls.merge_metadata(app, id, changes, machine_version))

    async def delete(self, app: str, id: str, key: str) -> None:
        """Also when it is not there."""
        await self._client.send(calls.delete_metadata(app, id, key))
