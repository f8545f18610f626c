"""From a name to content: imported names first, then the registry, then what the registry last said.

Small things only, manifests and a config, all verified and all kept. What has a digest and is here is never asked for
again; a tag always is, for it may have moved, with a HEAD first because registries count pulls. A registry that does
not answer makes the answer stale, not absent.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import replace

from caddisfly.host.images.answers import UNAUTHORISED
from caddisfly.host.images.blobs import BlobStore
from caddisfly.host.images.image import Descriptor, ResolvedImage
from caddisfly.host.images.manifest import (
    MAX_CONFIG_BYTES,
    MAX_MANIFEST_BYTES,
    Manifest,
    check_layer_sizes,
    read_config,
    read_manifest,
)
from caddisfly.host.images.names import Name, NameTable, Origin
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.registry import RegistryClient
from caddisfly.host.images.settings import Credentials, ImageSettings
from caddisfly.model.errors import InvalidArgument, Problem, Retryable, Unavailable

log = logging.getLogger(__name__)

_REMEMBERED = 1024


class Resolver:
    """Names, blobs and a registry, asked in the right order."""

    def __init__(
        self, names: NameTable, blobs: BlobStore, registry: RegistryClient, *, settings: ImageSettings
    ) -> None:
        self._names = names
        self._blobs = blobs
        self._registry = registry
        self._settings = settings
        self._known: dict[str, ResolvedImage] = {}

    def lookup(self, wanted: Reference) -> Name | None:
        """What this host knows of a name."""
        return self._names.get(wanted.pinned_name(wanted.digest) if wanted.digest else wanted.name)

    async def resolve(
        self,
        wanted: Reference,
        credentials: Credentials | None,
        *,
        before_writing: Callable[[], Awaitable[None]],
        origin: Origin = "registry",
    ) -> ResolvedImage:
        known = self.lookup(wanted)
        if known is not None and (known.origin == "imported" or wanted.digest):
            with suppress(FileNotFoundError):
                return self.load(wanted, known.digest)
        problem: Problem
        try:
            async with asyncio.timeout(self._settings.resolve_timeout_s):
                if known is not None and await self._registry.digest(wanted, credentials) == known.digest:
                    with suppress(FileNotFoundError):
                        image = self.load(wanted, known.digest)
                        if origin != known.origin:
                            await asyncio.to_thread(self.remember, wanted, known.digest, origin=origin)
                        return image
                await before_writing()
                return await self._pull(wanted, credentials, origin=origin)
        except TimeoutError:
            problem = Unavailable(
                f"registry {wanted.registry} does not deliver",
                why=f"no answer within {self._settings.resolve_timeout_s:g} seconds",
                next="check the registry and the way to it; images that are on this host already still start",
                status="registry_unavailable",
            )
        except Retryable as error:
            problem = error
        except InvalidArgument as error:
            # What the operator pulled with credentials is here for who has none.
            if error.status != UNAUTHORISED or known is None or known.origin != "pulled":
                raise
            problem = error
        if known is not None:
            with suppress(FileNotFoundError):
                image = replace(self.load(wanted, known.digest), stale=True)
                log.warning("image_resolved_from_memory", extra={"image": str(wanted), "reason": str(problem)})
                return image
        raise problem

    def load(self, wanted: Reference, digest: str) -> ResolvedImage:
        """An image whose documents are all here; FileNotFoundError when one is not."""
        known = self._known.get(digest)
        if known is None or not self._blobs.has(digest):
            what, depth = str(wanted), 0
            document: Manifest | Descriptor = Descriptor(digest, 0)
            while isinstance(document, Descriptor):
                manifest_digest = document.digest
                data = self._blobs.read(manifest_digest, max_bytes=MAX_MANIFEST_BYTES)
                document, depth = read_manifest(data, what=what, depth=depth), depth + 1
            text = self._blobs.read(document.config.digest, max_bytes=MAX_CONFIG_BYTES)
            config, layers = read_config(text, document, what=what)
            check_layer_sizes(layers, what=what, max_bytes=self._settings.max_layer_bytes)
            known = ResolvedImage(
                wanted.at(digest), digest, manifest_digest, config, layers, config_digest=document.config.digest
            )
            if len(self._known) >= _REMEMBERED:
                self._known.clear()
            self._known[digest] = known
        return replace(known, reference=wanted.at(digest))

    def config_of(self, image: ResolvedImage) -> bytes:
        """FileNotFoundError when it is not here any more."""
        return self._blobs.read(image.config_digest, max_bytes=MAX_CONFIG_BYTES)

    def documents(self, digest: str) -> set[str]:
        """The digests of all manifests and the config of an image that is here: what its name keeps alive."""
        found: set[str] = set()
        document: Manifest | Descriptor = Descriptor(digest, 0)
        while isinstance(document, Descriptor):
            found.add(document.digest)
            data = self._blobs.read(document.digest, max_bytes=MAX_MANIFEST_BYTES)
            document = read_manifest(data, what=digest, depth=len(found) - 1)
        return found | {document.config.digest}

    def remember(self, wanted: Reference, digest: str, *, origin: Origin) -> None:
        """Make the name durable. Blocks."""
        moving = wanted.tag and not wanted.digest
        # What was pulled under a tag stays while the tag means it.
        pinned = "registry" if origin == "pulled" and moving else origin
        self._names.set(wanted.pinned_name(digest), digest, origin=pinned)
        if moving:
            known = self._names.get(wanted.name)
            self._names.set(wanted.name, digest, origin="pulled" if known and known.origin == "pulled" else origin)

    def used(self, reference: Reference, digest: str) -> None:
        """Note that an image was started from."""
        self._names.touch(reference.pinned_name(digest))

    async def _pull(self, wanted: Reference, credentials: Credentials | None, *, origin: Origin) -> ResolvedImage:
        top, depth = "", 0
        document: Manifest | Descriptor = Descriptor(wanted.digest, 0)
        while isinstance(document, Descriptor):
            data, kind = await self._registry.manifest(wanted, credentials, digest=document.digest)
            document = read_manifest(data, what=str(wanted), depth=depth, media_type=kind)
            digest = await asyncio.to_thread(self._blobs.put, data)
            top, depth = top or digest, depth + 1
        if document.config.size > MAX_CONFIG_BYTES:
            raise InvalidArgument(
                f"image {wanted} cannot be used", why=f"its config is larger than {MAX_CONFIG_BYTES} bytes"
            )
        await self._registry.download(wanted, document.config, credentials)
        image = self.load(wanted, top)
        await asyncio.to_thread(self.remember, wanted, top, origin=origin)
        return image
