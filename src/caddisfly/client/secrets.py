"""Secrets of an app: set and removed, listed by digest. Machines get them when they are created or updated.

Values go one way. Only a token of the whole organization may have them shown.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from caddisfly.client import calls
from caddisfly.client.calls import Json

if TYPE_CHECKING:
    from caddisfly.client.asynchronous import AsyncClient
    from caddisfly.client.synchronous import Client


class Secrets:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, app: str, *, show_values: bool = False) -> list[Json]:
        """`name`, `digest`, `created_at`, `updated_at`, and `value` where it was asked for."""
        return list(self._client.send(calls.secrets(app, show_values)))

    def change(self, app: str, values: Mapping[str, str | None]) -> int:
        """Set many at once; None removes. Returns the version of the set, for `min_secrets_version`.

        Without any it is the version as it is.
        """
        return int(self._client.send(calls.change_secrets(app, values)))


class AsyncSecrets:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, app: str, *, show_values: bool = False) -> list[Json]:
        """`name`, `digest`, `created_at`, `updated_at`, and `value` where it was asked for."""
        return list(await self._client.send(calls.secrets(app, show_values)))

    async def change(self, app: str, values: Mapping[str, str | None]) -> int:
        """Set many at once; None removes. Returns the version of the set, for `min_secrets_version`.

        Without any it is the version as it is.
        """
        return int(await self._client.send(calls.change_secrets(app, values)))
