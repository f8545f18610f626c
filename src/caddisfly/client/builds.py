"""Builds of an app, on the platform's hosts. Caddisfly's own: Fly's API has none.

The context has to be in the app's repository already; `caddis build` puts it there. A log is read by offset, so that
following goes on where it was after a connection broke.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from caddisfly.client import calls
from caddisfly.client.calls import Json

if TYPE_CHECKING:
    from caddisfly.client.asynchronous import AsyncClient
    from caddisfly.client.synchronous import Client

_HOLD_S = 20


class Builds:
    def __init__(self, client: Client) -> None:
        self._client = client

    def list(self, app: str) -> Any:
        """Newest first."""
        return self._client.send(calls.builds(app))

    def get(self, app: str, id: str) -> Any:
        return self._client.send(calls.build(app, id))

    def start(
        self,
        app: str,
        context: str,
        *,
        tag: str = "latest",
        dockerfile: str = "Dockerfile",
        target: str = "",
        args: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        no_cache: bool = False,
        idempotency_key: str = "",
    ) -> Any:
        """Begin one, at its turn. With the same `idempotency_key` again it is the same build."""
        body = calls.build_body(
            context,
            tag=tag,
            dockerfile=dockerfile,
            target=target,
            args=args or {},
            labels=labels or {},
            secrets=secrets or {},
            no_cache=no_cache,
        )
        return self._client.send(calls.start_build(app, body, idempotency_key))

    def cancel(self, app: str, id: str) -> Any:
        """Returns when nothing of it runs any more."""
        return self._client.send(calls.cancel_build(app, id))

    def log(self, app: str, id: str, *, offset: int = 0, wait_s: int = 0) -> Any:
        """`lines` from an offset on, `next_offset`, and whether it has `ended`."""
        return self._client.send(calls.build_log(app, id, offset, wait_s))

    def follow(self, app: str, id: str, *, offset: int = 0) -> Iterator[Json]:
        """Lines as they come, until it has ended. Each has the `offset` of what follows it."""
        while True:
            page = self.log(app, id, offset=offset, wait_s=_HOLD_S)
            yield from page["lines"]
            offset = page["next_offset"]
            if page["ended"]:
                return


class AsyncBuilds:
    def __init__(self, client: AsyncClient) -> None:
        self._client = client

    async def list(self, app: str) -> Any:
        """Newest first."""
        return await self._client.send(calls.builds(app))

    async def get(self, app: str, id: str) -> Any:
        return await self._client.send(calls.build(app, id))

    async def start(
        self,
        app: str,
        context: str,
        *,
        tag: str = "latest",
        dockerfile: str = "Dockerfile",
        target: str = "",
        args: Mapping[str, str] | None = None,
        labels: Mapping[str, str] | None = None,
        secrets: Mapping[str, str] | None = None,
        no_cache: bool = False,
        idempotency_key: str = "",
    ) -> Any:
        """Begin one, at its turn. With the same `idempotency_key` again it is the same build."""
        body = calls.build_body(
            context,
            tag=tag,
            dockerfile=dockerfile,
            target=target,
            args=args or {},
            labels=labels or {},
            secrets=secrets or {},
            no_cache=no_cache,
        )
        return await self._client.send(calls.start_build(app, body, idempotency_key))

    async def cancel(self, app: str, id: str) -> Any:
        """Returns when nothing of it runs any more."""
        return await self._client.send(calls.cancel_build(app, id))

    async def log(self, app: str, id: str, *, offset: int = 0, wait_s: int = 0) -> Any:
        """`lines` from an offset on, `next_offset`, and whether it has `ended`."""
        return await self._client.send(calls.build_log(app, id, offset, wait_s))

    async def follow(self, app: str, id: str, *, offset: int = 0) -> AsyncIterator[Json]:
        """Lines as they come, until it has ended. Each has the `offset` of what follows it."""
        while True:
            page = await self.log(app, id, offset=offset, wait_s=_HOLD_S)
            for line in page["lines"]:
                yield line
            offset = page["next_offset"]
            if page["ended"]:
                return
