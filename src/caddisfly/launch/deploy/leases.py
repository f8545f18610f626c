"""Leases on all Machines that a deploy changes, taken before it begins and kept alive by one task.

Two deploys at once would leave a mix of both. The second finds the leases of the first, says whose they are, and has
touched nothing. A deploy that dies stops refreshing: its leases end on their own within seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from caddisfly.client import AsyncClient
from caddisfly.client.errors import ApiError, ConflictError, LeaseHeldError, NotFoundError, RetryableError
from caddisfly.model.errors import Aborted

log = logging.getLogger(__name__)

_AT_ONCE = 16


class Leases:
    """Machines by id, each with its nonce. Use `held`."""

    def __init__(self, client: AsyncClient, app: str, *, ttl_s: int, description: str) -> None:
        self._client, self._app, self._ttl_s, self._description = client, app, ttl_s, description
        self._nonces: dict[str, str] = {}
        self._room = asyncio.Semaphore(_AT_ONCE)
        self.lost: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done with the id of a Machine whose Lease ended under us."""

    def nonce(self, id: str) -> str:
        return self._nonces.get(id, "")

    def add(self, id: str, nonce: str) -> None:
        """One that came with a new Machine."""
        if nonce:
            self._nonces[id] = nonce

    def forget(self, id: str) -> None:
        """The Machine is gone."""
        self._nonces.pop(id, None)

    async def take(self, ids: Iterable[str]) -> None:
        """All or none. Raises `Aborted` that names the holder of one that is taken."""
        results = await asyncio.gather(*(self._take(id) for id in ids), return_exceptions=True)
        for failure in results:
            if isinstance(failure, BaseException):
                await self.release()
                raise failure

    async def _take(self, id: str) -> None:
        async with self._room:
            try:
                lease = await self._client.machines.leases.acquire(
                    self._app, id, ttl_s=self._ttl_s, description=self._description
                )
            except LeaseHeldError as held:
                raise Aborted(
                    held.text,
                    why=f"Machine {id} is being changed, by another deploy or a command; nothing was done",
                    next=f"wait until that has ended; caddis machine leases view {id} -a {self._app} shows it",
                ) from held
            except NotFoundError as error:
                raise Aborted(f"Machine {id} was destroyed meanwhile", next="deploy again") from error
        self._nonces[id] = str(lease["nonce"])

    async def keep(self) -> None:
        """Refresh them for ever, as often as flyctl does."""
        while True:
            await asyncio.sleep(max(1.0, (self._ttl_s - 1) / 3))
            await asyncio.gather(*(self._refresh(id) for id in list(self._nonces)))

    async def _refresh(self, id: str) -> None:
        nonce = self._nonces.get(id)
        if nonce is None:
            return
        async with self._room:
            try:
                await self._client.machines.leases.refresh(self._app, id, nonce, ttl_s=self._ttl_s)
            except NotFoundError:
                self.forget(id)
            except ConflictError:
                if self._nonces.get(id) == nonce and not self.lost.done():
                    self.lost.set_result(id)
            except RetryableError as error:
                log.debug("deploy.lease_refresh", extra={"machine": id, "reason": error.text})  # asked again soon

    async def release(self) -> None:
        held, self._nonces = self._nonces, {}
        await asyncio.gather(*(self._release(id, nonce) for id, nonce in held.items()))

    async def _release(self, id: str, nonce: str) -> None:
        async with self._room:
            try:
                await self._client.machines.leases.release(self._app, id, nonce)
            except ApiError as error:  # it ends on its own
                log.debug("deploy.lease_release", extra={"machine": id, "reason": error.text})


@asynccontextmanager
async def held(client: AsyncClient, app: str, ids: Iterable[str], *, ttl_s: int, by: str) -> AsyncIterator[Leases]:
    """Take them, refresh them while the block runs, release them whatever happened."""
    leases = Leases(client, app, ttl_s=ttl_s, description=by)
    await leases.take(ids)
    keeping = asyncio.create_task(leases.keep(), name="deploy-leases")
    try:
        yield leases
    finally:
        keeping.cancel()
        await asyncio.gather(keeping, return_exceptions=True)
        await asyncio.shield(leases.release())
