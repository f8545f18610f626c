"""Damage: looked for, set aside, and made good by fetching again.

A layer is compared with what it was when it was unpacked (`receipts`): quickly at each start, in full when an operator
asks, and in full once in the background, which is when the measure for later is taken. What differs is renamed out of
use, so that a Machine that runs on it keeps it and nobody starts from it. Documents carry their digests and need no
measure. What came from a file cannot be had again: it is named.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection, Iterable
from typing import Protocol

from caddisfly.host.images.blobs import BlobStore
from caddisfly.host.images.image import Image, Layer, ResolvedImage, Verified
from caddisfly.host.images.layers import LayerStore
from caddisfly.host.images.names import NameTable
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.resolver import Resolver
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)


class Fetch(Protocol):
    async def __call__(self, image: ResolvedImage, /) -> Image: ...


class Repair:
    """One per store. `flying` are the layers that are being brought, by `diff_id`."""

    def __init__(
        self,
        names: NameTable,
        resolver: Resolver,
        blobs: BlobStore,
        layers: LayerStore,
        *,
        flying: Callable[[], Collection[str]],
        resolve: Callable[[Reference], Awaitable[ResolvedImage]],
        fetch: Fetch,
    ) -> None:
        self._names, self._resolver, self._blobs, self._layers = names, resolver, blobs, layers
        self._flying, self._resolve, self._fetch = flying, resolve, fetch
        self._sealing: asyncio.Task[None] | None = None

    async def stop(self) -> None:
        """End what goes on in the background."""
        if self._sealing is not None:
            self._sealing.cancel()
            await asyncio.gather(self._sealing, return_exceptions=True)

    async def verify(self, only: Collection[str] | None) -> Verified:
        """Read these layers in full, or all, and fetch again what is damaged."""
        checked, damaged = 0, []
        names = self._layers.names()
        for layer in sorted(names if only is None else names & set(only)):
            checked += 1
            if not await self._layers.verify(layer) and self._layers.has(f"sha256:{layer}"):
                log.warning("image_layer_damaged", extra={"layer": layer})
                self._layers.quarantine(layer)
                damaged.append(f"sha256:{layer}")
        broken = await asyncio.to_thread(self._blobs.discard_damaged)
        repaired, problems = await self._bring_back(set(damaged), broken)
        return Verified(checked, tuple(damaged), repaired, problems)

    def set_aside(self, layers: Iterable[Layer]) -> None:
        """Take what is here of these out of use: it is not what it was."""
        for layer in layers:
            if self._layers.has(layer.diff_id) and layer.diff_id not in self._flying():
                log.warning("image_layer_damaged", extra={"layer": layer.diff_id})
                self._layers.quarantine(layer.diff_id.removeprefix("sha256:"))

    def seal_soon(self) -> None:
        """Read in full what was not yet, one layer after the other, when nothing else wants the processor."""
        if self._sealing is None or self._sealing.done():
            self._sealing = asyncio.create_task(self._seal(), name="seal")

    async def _seal(self) -> None:
        tried: set[str] = set()
        while names := [name for name in self._layers.unsealed() if name not in tried]:
            for name in names:
                tried.add(name)
                try:
                    if not await self._layers.verify(name) and self._layers.has(f"sha256:{name}"):
                        log.warning("image_layer_unreadable", extra={"layer": name})
                except (Problem, OSError, TimeoutError) as error:
                    log.warning("image_layer_unsealed", extra={"layer": name, "reason": str(error)})

    async def _bring_back(self, damaged: set[str], broken: set[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Fetch every image again that lacks one of these layers or documents; what came back, and what did not."""
        problems = []
        for name in self._names.all():
            reference = Reference.parse(name.name)
            try:
                try:
                    image = self._resolver.load(reference, name.digest)
                except FileNotFoundError:
                    if not broken:
                        continue  # it was incomplete before: a fetch that was broken off
                    image = await self._resolve(reference.at(name.digest))
                if damaged & {layer.diff_id for layer in image.layers}:
                    await self._fetch(image)
            except Problem as problem:
                problems.append(f"{name.name}: {problem}")
        return tuple(sorted(one for one in damaged if self._layers.has(one))), tuple(problems)
