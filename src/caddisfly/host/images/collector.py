"""What may be deleted, and when: content that no name, no Machine, no fetch and no mounted root needs.

The references are the journal's: which digests the Machines of this host have, running or stopped. They are asked for
at the moment of deciding, and deciding and renaming happen in one go, without giving way to a start in between. What a
name was resolved to a moment ago is held as well, for its Machine is not in the journal yet.

Three things make content go: a name that is removed, a collection (content that had a tag once), and a lack of room
(see `eviction`). What was imported cannot be had again and what the operator pulled was wanted here: those go by name
only.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from caddisfly.host.images import eviction
from caddisfly.host.images.blobs import BlobStore
from caddisfly.host.images.durable import remove_tree
from caddisfly.host.images.eviction import Candidate
from caddisfly.host.images.image import Collected, ResolvedImage
from caddisfly.host.images.layers import LayerStore
from caddisfly.host.images.names import NameTable
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.resolver import Resolver
from caddisfly.host.images.rootfs import RootFilesystems
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)

_PARTIAL_KEPT_S = 86400.0


class Collector:
    """One per store. `busy` says which layers are being brought, `writing` whether documents without a name are."""

    def __init__(
        self,
        names: NameTable,
        resolver: Resolver,
        blobs: BlobStore,
        layers: LayerStore,
        roots: RootFilesystems,
        *,
        grace_s: float,
    ) -> None:
        self._names, self._resolver, self._blobs, self._layers, self._roots = names, resolver, blobs, layers, roots
        self._grace_s = grace_s
        self._held: dict[str, float] = {}
        self.fetching: list[ResolvedImage] = []
        self.flying: Callable[[], Iterable[str]] = tuple
        self.writing = 0
        self.in_use: Callable[[], Iterable[str]] = tuple

    def hold(self, digest: str) -> None:
        """Somebody is about to use this content."""
        now = time.monotonic()
        self._held = {held: until for held, until in self._held.items() if until > now}
        self._held[digest] = now + self._grace_s

    def needed(self) -> set[str]:
        """Digests that must stay whatever their names are."""
        now = time.monotonic()
        held = {digest for digest, until in self._held.items() if until > now}
        return held | set(self.in_use()) | {image.digest for image in self.fetching}

    async def collect(self, *, keep: Iterable[str] = (), all_unused: bool = False) -> Collected:
        """Forget content that had a tag once; with `all_unused`, also what has one and no Machine needs."""
        stay = set(keep) | self.needed() | self._anchored(irreplaceable=all_unused)
        forgotten = set()
        for name in self._names.all():
            if name.digest not in stay:
                forgotten.add(name.digest)
                self._names.remove(name.name)
        idle = not self.writing and not any(True for _ in self.flying())
        self._blobs.discard_partial(older_than_s=0.0 if all_unused and idle else _PARTIAL_KEPT_S)
        return await self.sweep(images=len(forgotten))

    async def evict(self, excess: int) -> Collected:
        """Make room for this many bytes, as far as that is possible."""
        chosen = eviction.choose(self.candidates(), excess=excess)
        digests = {image.digest for image in chosen}
        for name in self._names.all():
            if name.digest in digests:
                self._names.remove(name.name)
        if chosen:
            log.info("image_evicted", extra={"digests": sorted(digests), "excess": excess})
        return await self.sweep(images=len(chosen))

    def candidates(self) -> list[Candidate]:
        """All images with the layers of theirs that are here, and the disk that was made of them for microVMs."""
        drives = self._roots.drives()
        kept = self.needed() | self._anchored(irreplaceable=True)
        used: dict[str, float] = {}
        for name in self._names.all():
            used[name.digest] = max(used.get(name.digest, 0.0), self._names.used_at(name.name))
        found = []
        for digest, used_at in used.items():
            layers: dict[str, int] = {}
            with suppress(FileNotFoundError, Problem):
                image = self._resolver.load(_ANY, digest)
                layers = {one.diff_id: self._layers.size(one.diff_id) for one in image.layers}
                names = frozenset(diff_id.removeprefix("sha256:") for diff_id in layers)
                if size := drives.get(names):
                    layers[f"disk of {' '.join(sorted(names))}"] = size
            found.append(Candidate(digest, used_at, layers, digest in kept))
        return found

    async def sweep(self, *, images: int = 0) -> Collected:
        """Delete what nothing needs. Decided and renamed in one go, without giving way to a fetch in between."""
        documents: set[str] = set()
        wanted = list(self.fetching)
        for digest in {name.digest for name in self._names.all()}:
            with suppress(FileNotFoundError, Problem):
                documents |= self._resolver.documents(digest)
                wanted.append(self._resolver.load(_ANY, digest))
        layers = {layer for image in wanted for layer in image.layers}
        mounted = self._roots.layers_in_use()
        flying = {diff_id.removeprefix("sha256:") for diff_id in self.flying()}
        doomed = self._layers.names() - {layer.diff_id.removeprefix("sha256:") for layer in layers} - mounted - flying
        freed = sum(self._layers.size(f"sha256:{name}") for name in doomed)
        trash: list[Path] = [self._layers.set_aside(name) for name in doomed]
        trash += self._layers.quarantined(in_use=mounted)
        if not self.writing and not flying:
            self._blobs.keep_only(documents | {layer.blob.digest for layer in layers})
        freed += self._roots.forget_drives(self._layers.names())
        for path in trash:
            await asyncio.to_thread(remove_tree, path)
        return Collected(images, len(doomed), freed)

    def _anchored(self, *, irreplaceable: bool) -> set[str]:
        """Digests that somebody's name leads to; with `irreplaceable`, only what the operator brought here."""
        return {
            name.digest
            for name in self._names.all()
            if (not name.pinned or name.origin == "pulled") and (name.origin != "registry" or not irreplaceable)
        }


_ANY = Reference("localhost", "any")
"""Whose content it is does not matter here."""
