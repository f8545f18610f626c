"""Garbage: what nobody has named for a while.

Four kinds, each with its own reason: the repository of an app that is gone; uploads that nobody goes on with; manifests
that no tag, no Machine, and no manifest that stays points to; and blobs that no manifest names. A push under way is
safe, because everything that a client was told to be here, by an upload, a HEAD or a mount, stays for the grace from
then on. So are Machines: a host that has taken an image in has links of its own, and what Machines run is kept here for
the hosts that have not.

What is needed is asked of control. When that cannot be told, nothing of the repository is touched.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Collection as Some
from dataclasses import dataclass
from pathlib import Path

from caddisfly.bus import contract
from caddisfly.bus.rpc import Caller
from caddisfly.host.registry.content import Content
from caddisfly.host.registry.repository import Repositories, Repository, StoredManifest
from caddisfly.host.registry.settings import RegistrySettings
from caddisfly.host.registry.uploads import Uploads
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Collected:
    """What one round removed."""

    repositories: int = 0
    uploads: int = 0
    manifests: int = 0
    blobs: int = 0
    """Links of repositories to content."""
    bytes: int = 0
    """Content that nobody had any more."""

    def __bool__(self) -> bool:
        return bool(self.repositories or self.uploads or self.manifests or self.blobs or self.bytes)


class Collection:
    """`run` until it is cancelled; `collect` is one round."""

    def __init__(
        self,
        repositories: Repositories,
        content: Content,
        uploads: Uploads,
        control: Caller,
        *,
        settings: RegistrySettings,
    ) -> None:
        self._repositories, self._content, self._uploads = repositories, content, uploads
        self._control, self._settings = control, settings

    async def run(self) -> None:
        while True:
            await asyncio.sleep(self._settings.collect_every_s)
            try:
                await self.collect()
            except OSError as error:
                log.error("registry.collection_failed", extra={"reason": str(error)})

    async def collect(self) -> Collected:
        done = Collected()
        for repository in await asyncio.to_thread(self._repositories.all):
            try:
                await self._collect_one(repository, done)
            except Problem as problem:
                app = repository.layout.app
                log.warning("registry.not_collected", extra={"app": app, "reason": str(problem)})
        done.bytes = await asyncio.to_thread(self._content.collect)
        if done:
            log.info(
                "registry.collected",
                extra={
                    "repositories": done.repositories,
                    "uploads": done.uploads,
                    "manifests": done.manifests,
                    "blobs": done.blobs,
                    "bytes": done.bytes,
                },
            )
        return done

    async def _collect_one(self, repository: Repository, done: Collected) -> None:
        layout = repository.layout
        app_id = self._repositories.owner(layout)
        ask = contract.AskNeeds(app_id=app_id, name=layout.app, org_id=layout.org_id)
        needs = await self._control.call(contract.ASK_NEEDS, ask)
        if not needs.alive:
            await asyncio.to_thread(self._repositories.drop, layout)
            done.repositories += 1
            return
        done.uploads += await self._uploads.expire(repository)
        manifests, blobs = await asyncio.to_thread(self._thin, repository, frozenset(needs.digests))
        done.manifests += manifests
        done.blobs += blobs

    def _thin(self, repository: Repository, used: Some[str]) -> tuple[int, int]:
        layout = repository.layout
        with self._content.lock:
            found = {manifest.digest: manifest for manifest in repository.manifests()}
            tagged = {layout.digest_of(tag) for tag in repository.tags()}
            young = {digest for digest in found if not self._old(layout.manifest(digest))}
            kept = _reached(found, tagged | young | set(used))
            for digest in found.keys() - kept:
                repository.delete_manifest(digest)
            named = {blob for digest in kept for blob in found[digest].contents.blobs}
            loose = [path for path in layout.blobs.iterdir() if f"sha256:{path.name}" not in named and self._old(path)]
            for path in loose:
                path.unlink()
        return len(found) - len(kept), len(loose)

    def _old(self, path: Path) -> bool:
        return time.time() - path.stat().st_mtime > self._settings.grace_s


def _reached(found: dict[str, StoredManifest], roots: Some[str]) -> set[str]:
    """The roots that are there, what they point to, and what is about any of these."""
    about: dict[str, list[str]] = {}
    for digest, manifest in found.items():
        if manifest.contents.subject:
            about.setdefault(manifest.contents.subject, []).append(digest)
    reached: set[str] = set()
    left = [digest for digest in roots if digest in found]
    while left:
        digest = left.pop()
        if digest not in reached:
            reached.add(digest)
            left += [one for one in (*found[digest].contents.manifests, *about.get(digest, ())) if one in found]
    return reached
