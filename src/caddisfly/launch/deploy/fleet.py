"""The Machines of an app, as a deploy changes them. Every change goes through here and is noted before it is made.

The image may be given by a tag. It is looked up by the platform when the first Machine gets it, and from then on all
others get exactly that content, whatever becomes of the tag.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

from caddisfly.client import AsyncClient
from caddisfly.client.errors import ApiError, NotFoundError
from caddisfly.launch.config import containers
from caddisfly.launch.deploy.leases import Leases
from caddisfly.launch.deploy.options import Options
from caddisfly.launch.deploy.progress import Progress
from caddisfly.launch.events import newest

Wire = dict[str, Any]


@dataclass(slots=True)
class Pin:
    """An image, by digest as soon as it is known. Empty: each Machine keeps its own."""

    reference: str
    _lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def known(self) -> bool:
        return not self.reference or "@" in self.reference

    @asynccontextmanager
    async def use(self) -> AsyncIterator[str]:
        """The reference for one Machine. Until the digest is known, one after the other."""
        if self.known:
            yield self.reference
            return
        async with self._lock:
            yield self.reference

    def learn(self, machine: Mapping[str, Any]) -> None:
        """From a Machine that has it."""
        found = pinned(machine)
        if not self.known and "@" in found:
            self.reference = found


def pinned(machine: Mapping[str, Any]) -> str:
    """What a Machine runs, by digest where the API tells it."""
    ref = machine.get("image_ref") or {}
    if not ref.get("digest"):
        return str((machine.get("config") or {}).get("image", ""))
    tag = f":{ref['tag']}" if ref.get("tag") else ""
    return f"{ref['registry']}/{ref['repository']}{tag}@{ref['digest']}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Before:
    """What a Machine was."""

    id: str
    group: str
    version: str
    state: str
    cordoned: bool
    config: Mapping[str, Any]

    @classmethod
    def of(cls, machine: Mapping[str, Any], group: str) -> Before:
        config = {**machine["config"], "image": pinned(machine)}
        return cls(
            id=str(machine["id"]),
            group=group,
            version=str(machine.get("instance_id", "")),
            state=str(machine["state"]),
            cordoned=bool(machine.get("cordoned")),
            config=config,
        )


@dataclass(slots=True)
class Ledger:
    """What was touched, in order: all that is needed to undo it."""

    changed: dict[str, Before] = field(default_factory=dict)
    made: list[str] = field(default_factory=list)


class Fleet:
    """`labels` is metadata that every Machine of this deploy carries."""

    def __init__(
        self,
        client: AsyncClient,
        app: str,
        *,
        leases: Leases,
        options: Options,
        shown: Progress,
        image: str,
        container: str = "",
        labels: Mapping[str, str],
    ) -> None:
        self.client, self.app, self.leases, self.options, self.shown = client, app, leases, options, shown
        self.image = Pin(image)
        self.ledger = Ledger()
        self._container, self._labels = container, labels

    async def get(self, id: str) -> Wire:
        return await self.client.machines.get(self.app, id)

    async def update(
        self, before: Mapping[str, Any], group: str, config: Wire, *, cordoned: bool | None = None
    ) -> tuple[Wire, str]:
        """The Machine with its new config, and the id of the newest event before. A sleeping one sleeps on."""
        id = str(before["id"])
        now = await self.get(id)
        self.ledger.changed.setdefault(id, Before.of(now, group))
        async with self.image.use() as image:
            after = await _answered(
                self.client.machines.update(
                    self.app,
                    id,
                    self._labelled(config, image),
                    current_version=str(now.get("instance_id", "")),
                    skip_service_registration=bool(now.get("cordoned")) if cordoned is None else cordoned,
                    min_secrets_version=self.options.min_secrets_version,
                    nonce=self.leases.nonce(id),
                )
            )
            self.image.learn(after)
        return after, newest(now)

    async def create(
        self,
        group: str,
        region: str,
        config: Wire,
        *,
        launch: bool = True,
        cordoned: bool = False,
    ) -> Wire:
        """A Machine that is leased from its first moment."""
        async with self.image.use() as image:
            made = await _answered(
                self.client.machines.create(
                    self.app,
                    self._labelled(config, image),
                    region=region,
                    skip_launch=not launch,
                    skip_service_registration=cordoned,
                    lease_ttl_s=self.options.lease_ttl_s,
                ),
                self._note,
            )
            self.image.learn(made)
        return made

    def _note(self, made: Wire) -> None:
        id = str(made["id"])
        self.ledger.made.append(id)
        self.leases.add(id, str(made.get("nonce", "")))

    async def destroy(self, id: str) -> None:
        """One that is gone already is as good."""
        with suppress(NotFoundError):
            await self.client.machines.delete(self.app, id, force=True, nonce=self.leases.nonce(id))
        self.leases.forget(id)

    async def label(self, id: str, **values: str) -> None:
        await self.client.machines.metadata.merge(self.app, id, values)

    async def last_words(self, id: str, count: int = 20) -> list[str]:
        """What a Machine printed last; why it cannot be had, if it cannot."""
        try:
            entries = (await self.client.logs.page(self.app, machine=id)).entries
        except ApiError as error:
            return [f"(its logs cannot be read: {error.text})"]
        return [str(entry.get("message", "")) for entry in entries[-count:]]

    def _labelled(self, config: Wire, image: str) -> Wire:
        labelled = {**config, "metadata": {**(config.get("metadata") or {}), **self._labels}}
        return containers.with_image(labelled, self._container, image) if image else labelled


async def _answered(call: Coroutine[Any, Any, Wire], note: Callable[[Wire], None] = lambda answer: None) -> Wire:
    """The answer to a call that changes something. Cancelled in the middle it is waited for all the same, and noted:

    who undoes this deploy has to know what was done, and that it is over.
    """
    task = asyncio.ensure_future(call)
    try:
        answer = await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and task.exception() is None:
            note(task.result())
        raise
    note(answer)
    return answer
