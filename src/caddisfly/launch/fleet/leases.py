"""Holding the Leases of many Machines at once, for as long as it takes.

A Lease is short and refreshed, so that who dies while holding some blocks nobody for long. One that could not be
refreshed ends: what is sent under it afterwards works if nobody else took it, and is refused if somebody did.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from caddisfly.client import ApiError, AsyncClient, ConflictError, NotFoundError
from caddisfly.launch.fleet.turns import each

_TTL_S = 30
_AT_ONCE = 20


@asynccontextmanager
async def held(client: AsyncClient, app: str, ids: Iterable[str], *, why: str) -> AsyncIterator[dict[str, str]]:
    """The nonces, by id. Who destroys a Machine takes its out. Raises `LeaseHeldError`, with none held."""
    nonces: dict[str, str] = {}

    async def take(id: str) -> None:
        taken = await client.machines.leases.acquire(app, id, ttl_s=_TTL_S, description=why)
        nonces[id] = str(taken["nonce"])

    async def give_back(id: str) -> None:
        try:
            await client.machines.leases.release(app, id, nonces[id])
        except (NotFoundError, ConflictError):
            return  # it ran out, or went with the Machine: there is nothing to give back

    async def end() -> None:
        refreshing.cancel()
        await asyncio.gather(refreshing, return_exceptions=True)
        await each(list(nonces), give_back, at_once=_AT_ONCE)

    refreshing = asyncio.create_task(_refresh(client, app, nonces), name="leases-refresh")
    try:
        await each(ids, take, at_once=_AT_ONCE)
        yield nonces
    except BaseException as error:
        try:
            await end()
        except ApiError as late:
            error.add_note(f"a Lease could not be released and stays until it ends: {late.text}")
        raise
    await end()


async def _refresh(client: AsyncClient, app: str, nonces: dict[str, str]) -> None:
    async def again(id: str) -> None:
        nonce = nonces.get(id)
        if nonce is None:
            return  # destroyed meanwhile
        try:
            await client.machines.leases.refresh(app, id, nonce, ttl_s=_TTL_S)
        except ApiError:
            return  # the next round tries again, and the write that needs it says what is wrong

    while True:
        await asyncio.sleep(_TTL_S / 3)
        await each(list(nonces), again, at_once=_AT_ONCE)
