"""The record of a deploy: its number, and what is needed to go on after it was killed.

It is kept by the platform, not on the laptop, so that the next deploy finds it wherever that runs. While it is under
way it is refreshed; one that is not any more was killed, and the next deploy reads from `progress` how far it came.
Where there are no such records, as on Fly, deploys number themselves by what the Machines carry and find what was left
half-done by their metadata alone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from caddisfly.client import AsyncClient
from caddisfly.client.errors import ApiError, ConflictError, LeaseHeldError, NotFoundError, RetryableError
from caddisfly.launch.config.running import managed, metadata
from caddisfly.launch.deploy.plan import RELEASE_VERSION_KEY
from caddisfly.model import ids
from caddisfly.model.errors import Aborted

log = logging.getLogger(__name__)

_TRIES = 3
COMPLETE, FAILED, INTERRUPTED, RUNNING = "complete", "failed", "interrupted", "running"

Wire = Mapping[str, Any]


@dataclass(slots=True)
class Release:
    """`nonce` is empty where the platform keeps no records."""

    client: AsyncClient
    app: str
    id: str
    version: int
    nonce: str = ""
    ttl_s: int = 0
    """After which it counts as interrupted, when it is not refreshed."""
    progress: dict[str, Any] = field(default_factory=dict)

    @property
    def kept(self) -> bool:
        return bool(self.nonce)

    async def note(self, **progress: Any) -> None:
        """Durable when it returns: before what it announces is done."""
        self.progress.update(progress)
        if self.kept:
            await self.client.releases.update(
                self.app, self.version, self.nonce, status=RUNNING, progress=self.progress, ttl_s=self.ttl_s
            )

    async def end(self, status: str, error: str = "") -> str:
        """Returns why it could not be written, if it could not: the Machines are what they are all the same."""
        if not self.kept:
            return ""
        for attempt in range(_TRIES):
            try:
                await self.client.releases.update(
                    self.app, self.version, self.nonce, status=status, error=error[:2000], progress=self.progress
                )
                return ""
            except ApiError as failure:
                text = failure.text
                if not isinstance(failure, RetryableError) or attempt == _TRIES - 1:
                    return text
            await asyncio.sleep(0.5)
        return ""

    async def _beat(self, lost: asyncio.Future[str]) -> None:
        while True:
            await asyncio.sleep(max(1.0, (self.ttl_s - 1) / 3))
            try:
                await self.client.releases.update(self.app, self.version, self.nonce, ttl_s=self.ttl_s)
            except RetryableError as error:
                log.debug("deploy.release_beat", extra={"reason": error.text})
            except ConflictError as error:
                if not lost.done():
                    lost.set_result(error.text)
                return


@dataclass(frozen=True, slots=True)
class Earlier:
    """The newest release there is. None of them: everything is empty."""

    version: int = 0
    status: str = ""
    image: str = ""
    definition: Wire = field(default_factory=dict)
    progress: Wire = field(default_factory=dict)

    @property
    def unfinished(self) -> bool:
        """It was killed, or could not be ended; what it made is not there on purpose."""
        return self.status in (INTERRUPTED, RUNNING, "pending", FAILED)


async def earlier(client: AsyncClient, app: str) -> Earlier:
    try:
        found = await client.releases.get(app, "latest")
    except NotFoundError:
        return Earlier()
    return Earlier(
        version=int(found["version"]),
        status=str(found["status"]),
        image=str(found.get("image_ref") or ""),
        definition=found.get("definition") or {},
        progress=found.get("progress") or {},
    )


@asynccontextmanager
async def begun(
    client: AsyncClient,
    app: str,
    machines: Sequence[Wire],
    *,
    image: str,
    strategy: str,
    definition: Wire,
    description: str,
    ttl_s: int,
    lost: asyncio.Future[str],
) -> AsyncIterator[Release]:
    """A new release, kept alive while the block runs; ending it is the block's. `lost` gets why it was taken away.

    Raises `Aborted` while another is under way.
    """
    id = ids.ulid()
    try:
        made = await client.releases.create(
            app,
            image=image,
            strategy=strategy.upper(),
            definition=dict(definition),
            description=description,
            ttl_s=ttl_s,
            idempotency_key=id,
        )
    except LeaseHeldError as held:
        raise Aborted(
            held.text,
            why="another deploy of this app is under way; nothing was done",
            next=f"wait until it has ended; caddis releases -a {app} shows it",
        ) from held
    except NotFoundError:
        yield Release(client, app, id, _next_version(machines))
        return
    release = Release(client, app, str(made["id"]), int(made["version"]), str(made["nonce"]), ttl_s)
    beating = asyncio.create_task(release._beat(lost), name="deploy-release")
    try:
        yield release
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)


def _next_version(machines: Sequence[Wire]) -> int:
    numbers = [metadata(machine).get(RELEASE_VERSION_KEY, "") for machine in managed(machines)]
    return max((int(number) for number in numbers if number.isdecimal()), default=0) + 1
