"""The face of this room: names in, directories out.

    resolve   name → content         small: manifest and config, verified
    fetch     content → directories  every layer downloaded, verified, unpacked, once each
    roots     directories → a writable root for one sandbox

The disk is the truth and every step leaves it whole: blobs, layers and names appear by rename, so there is nothing to
recover after a crash, only beginnings to sweep. What is on this host starts without any registry.

Whether a tenant may use a repository is decided by whoever calls. What the store adds is that content pulled for one
repository is not found under the name of another.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from caddisfly.host.images import archive
from caddisfly.host.images.blobs import BlobStore, disk_problem, no_space
from caddisfly.host.images.collector import Collector
from caddisfly.host.images.durable import remove_tree
from caddisfly.host.images.eviction import size_of
from caddisfly.host.images.filesystem import StoreFilesystem
from caddisfly.host.images.image import (
    Collected,
    Image,
    Layer,
    LayerState,
    LayerStatus,
    ResolvedImage,
    StoredImage,
    Verified,
)
from caddisfly.host.images.layers import LayerStore
from caddisfly.host.images.names import NameTable, Origin
from caddisfly.host.images.platform import PlatformImages, with_platform
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.registry import RegistryClient
from caddisfly.host.images.repair import Repair
from caddisfly.host.images.resolver import Resolver
from caddisfly.host.images.rootfs import RootFilesystems
from caddisfly.host.images.settings import GIB, Credentials, ImageSettings
from caddisfly.host.lock import HeldError, hold
from caddisfly.host.registry.layout import NAME as REGISTRY
from caddisfly.host.registry.layout import Layout
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound, Problem, Unavailable

log = logging.getLogger(__name__)

_MIB = 1 << 20


class ImageStore:
    """All images of one host. `open()` first; one process at a time."""

    roots: RootFilesystems
    """Writable roots over what was fetched. There from `open()` on."""

    def __init__(self, root: Path, *, settings: ImageSettings | None = None) -> None:
        self._root = root
        self._settings = settings or ImageSettings()
        self.filesystem = StoreFilesystem(root, self._settings)
        self._lock_file: IO[str] | None = None
        self._flights: dict[str, asyncio.Task[None]] = {}
        self._in_use: Callable[[], Iterable[str]] = tuple

    def referenced_by(self, in_use: Callable[[], Iterable[str]]) -> None:
        """Say which digests Machines need, running or stopped. Asked whenever something may be deleted."""
        self._in_use = in_use
        if self._lock_file is not None:
            self._collector.in_use = in_use

    async def open(self) -> None:
        """Mount the file system and sweep what a crash left half done."""
        self._lock()
        try:
            await asyncio.to_thread(self._prepare)
            self._repair.seal_soon()
        except BaseException as error:
            self._unlock()
            if isinstance(error, OSError):
                raise disk_problem(error, doing="open the image store", disk=self._root) from error
            raise

    async def close(self, *, unmount: bool = False) -> None:
        """Stop what is under way. With `unmount`, also take down every root and the file system itself."""
        if self._lock_file is None:
            return
        flights = list(self._flights.values())
        for task in flights:
            task.cancel()
        await asyncio.gather(*flights, self._repair.stop(), return_exceptions=True)
        await self._registry.close()
        if unmount:
            await self.roots.sweep(keep=())
            await asyncio.to_thread(self.filesystem.unmount)
        self._unlock()

    async def resolve(
        self, reference: str, *, organization: str = "", credentials: Credentials | None = None
    ) -> ResolvedImage:
        """What a name means: imported names first, then the registry, then what the registry last said.

        `organization` is the id of whoever asks: a name of the platform's own registry means nothing without it.
        """
        wanted = Reference.parse(reference)
        if self._platform.names(wanted):
            return await self._resolve_own(self._platform.scoped(wanted, organization), wanted)
        return await self._resolve(wanted, credentials, origin="registry")

    async def fetch(self, image: ResolvedImage, *, credentials: Credentials | None = None) -> Image:
        """Every layer of the image, unpacked on this host. Costs a tenth of a millisecond per layer when they are."""
        self._collector.fetching.append(image)
        try:
            layers = list(dict.fromkeys(image.layers))
            missing = await asyncio.to_thread(lambda: [one for one in layers if not self._layers.intact(one.diff_id)])
            if missing:
                self._repair.set_aside(missing)
                source = image.source or image.reference
                await self._make_room(str(image.reference), sum(layer.blob.size for layer in missing))
                await asyncio.gather(*(self._bring(source, layer, credentials) for layer in missing))
                await self._keep_to_the_limit()
                self._repair.seal_soon()
            self._resolver.used(image.source or image.reference, image.digest)
            return Image(image, tuple(self._layers.path(layer.diff_id) for layer in image.layers))
        finally:
            self._collector.fetching.remove(image)

    async def config_of(self, image: ResolvedImage) -> bytes:
        """Its OCI config, byte for byte as it came."""
        with self._disk_errors(f"read the config of {image.reference}"):
            return await asyncio.to_thread(self._resolver.config_of, image)

    async def pull(self, reference: str, *, credentials: Credentials | None = None) -> ResolvedImage:
        """Bring an image here because the operator says so. It stays until it is removed."""
        wanted = Reference.parse(reference)
        self._not_an_apps(wanted, "pulled")
        image = await self._resolve(wanted, credentials, origin="pulled")
        await self.fetch(image, credentials=credentials)
        return image

    def status(self, reference: str) -> tuple[LayerStatus, ...]:
        """How far the layers of an image are; nothing while it is not known which they are."""
        wanted = Reference.parse(reference)
        image = next((one for one in self._collector.fetching if one.reference.name == wanted.name), None)
        known = self._resolver.lookup(wanted)
        if image is None and known is not None:
            with suppress(FileNotFoundError, Problem):
                image = self._resolver.load(wanted, known.digest)
        return tuple(self._status(layer) for layer in dict.fromkeys(image.layers)) if image else ()

    async def import_archive(self, path: Path, *, name: str, select: str = "") -> ResolvedImage:
        """Take in an OCI layout (directory or tar) or a `docker save` archive under a name.

        `select` is the name or tag inside the archive, for one that holds several images.
        """
        wanted = Reference.parse(name)
        self._not_an_apps(wanted, "imported")
        await self._make_room(str(wanted), 0)
        try:
            with self._counted(), self._disk_errors(f"import {path.name}"):
                digest = await asyncio.to_thread(
                    archive.import_archive,
                    path,
                    select=select,
                    blobs=self._blobs,
                    temporary=self._temporary,
                    max_bytes=self._settings.max_layer_bytes,
                )
                image = self._resolver.load(wanted, digest)
                await asyncio.to_thread(self._resolver.remember, wanted, digest, origin="imported")
                return image
        finally:
            # A refused archive leaves blobs behind, and so does a name that meant something else before.
            await self._collector.sweep()

    def list(self) -> list[StoredImage]:
        """All names; names by digest only where no tag means the same."""
        names = self._names.all()
        tagged = {name.digest for name in names if not name.pinned}
        in_use = set(self._in_use())
        shown = []
        for name in names:
            if name.pinned and name.digest in tagged:
                continue
            with suppress(FileNotFoundError, Problem):
                image = self._resolver.load(Reference.parse(name.name), name.digest)
                pinned = image.reference.pinned_name(name.digest)
                shown.append(
                    StoredImage(
                        name=name.name,
                        digest=name.digest,
                        size_bytes=image.size_bytes,
                        imported=name.origin == "imported",
                        unpacked=all(self._layers.has(layer.diff_id) for layer in image.layers),
                        updated_at=name.updated_at,
                        used_at=max(self._names.used_at(pinned), name.updated_at),
                        unpacked_bytes=sum(self._layers.size(layer.diff_id) for layer in set(image.layers)),
                        in_use=name.digest in in_use,
                    )
                )
        return shown

    def show(self, name: str) -> tuple[ResolvedImage, tuple[LayerStatus, ...]]:
        """An image that is here, without asking anybody."""
        wanted = Reference.parse(name)
        known = self._resolver.lookup(wanted)
        if known is None:
            raise _absent(wanted)
        try:
            image = self._resolver.load(wanted, known.digest)
        except FileNotFoundError:
            raise _absent(wanted) from None
        return image, self.status(name)

    async def remove(self, name: str) -> None:
        """Forget a name, and delete what no other name, no Machine and no mounted root needs."""
        wanted = Reference.parse(name)
        known = self._resolver.lookup(wanted)
        if known is None:
            raise _absent(wanted)
        self._names.remove(known.name)
        tags = (Reference.parse(other.name) for other in self._names.all() if other.digest == known.digest)
        needed = known.digest in self._in_use() or any(tag.tag and tag.repository == wanted.repository for tag in tags)
        if not needed:
            self._names.remove(wanted.pinned_name(known.digest))
        await self._collector.sweep()

    async def collect(self, *, keep: Iterable[str] = (), all_unused: bool = False) -> Collected:
        """Forget content that had a tag once and is not among `keep` and what Machines have, and delete it.

        With `all_unused`, also what a tag means and no Machine has, if a registry can give it again.
        """
        return await self._collector.collect(keep=keep, all_unused=all_unused)

    async def verify(self, name: str = "") -> Verified:
        """Read everything in full, or the layers of one image, and fetch again what is damaged."""
        only = {layer.diff_id.removeprefix("sha256:") for layer in self.show(name)[0].layers} if name else None
        return await self._repair.verify(only)

    @property
    def _base(self) -> Path:
        return self.filesystem.path

    @property
    def _temporary(self) -> Path:
        return self._base / "tmp"

    def _prepare(self) -> None:
        self.filesystem.ensure_mounted()
        if self._temporary.exists():
            remove_tree(self._temporary)
        self._temporary.mkdir(mode=0o700)
        self._blobs = BlobStore(self._base / "blobs", temporary=self._temporary)
        self._layers = LayerStore(self._base / "layers", temporary=self._temporary, settings=self._settings)
        self._names = NameTable(self._base / "names")
        self._registry = RegistryClient(with_platform(self._settings), blobs=self._blobs)
        self._platform = PlatformImages(self._settings, Layout(self._base / REGISTRY), self._blobs)
        self._resolver = Resolver(self._names, self._blobs, self._registry, settings=self._settings)
        self.roots = RootFilesystems(self._base, reflink=self.filesystem.reflink)
        self._collector = Collector(
            self._names,
            self._resolver,
            self._blobs,
            self._layers,
            self.roots,
            grace_s=self._settings.collect_grace_s,
        )
        self._collector.in_use, self._collector.flying = self._in_use, self._flights.keys
        self._repair = Repair(
            self._names,
            self._resolver,
            self._blobs,
            self._layers,
            flying=self._flights.keys,
            resolve=self._resolve_again,
            fetch=self.fetch,
        )

    async def _resolve(self, wanted: Reference, credentials: Credentials | None, *, origin: Origin) -> ResolvedImage:
        with self._counted(), self._disk_errors(f"store the manifest of {wanted}"):
            image = await self._resolver.resolve(
                wanted, credentials, before_writing=lambda: self._make_room(str(wanted), 0), origin=origin
            )
        self._collector.hold(image.digest)
        return image

    def _status(self, layer: Layer) -> LayerStatus:
        state: LayerState = "waiting"
        done = 0
        if self._layers.has(layer.diff_id):
            state, done = "ready", layer.blob.size
        elif self._layers.unpacking(layer.diff_id):
            state, done = "unpacking", self._layers.unpacked(layer.diff_id)
        elif (transfer := self._registry.transfers.get(layer.blob.digest)) is not None:
            state, done = "downloading", transfer.size
        size = self._layers.size(layer.diff_id)
        return LayerStatus(layer.blob.digest, layer.diff_id, layer.blob.size, state, done, size)

    async def _resolve_again(self, known: Reference) -> ResolvedImage:
        if self._platform.holds(known):
            return await self._resolve_own(known, known)
        return await self._resolve(known, None, origin="registry")

    def _not_an_apps(self, wanted: Reference, what: str) -> None:
        if self._platform.names(wanted):
            raise InvalidArgument(
                f"{wanted} cannot be {what}",
                why="names of the platform's registry belong to apps, which take their images in as they start",
                next="push it there, or use another name",
            )

    async def _keep_to_the_limit(self) -> None:
        limit = int(self._settings.max_images_gb * GIB)
        excess = size_of(self._collector.candidates()) - limit if limit else 0
        if excess > 0:
            await self._collector.evict(excess)

    async def _resolve_own(self, scoped: Reference, wanted: Reference) -> ResolvedImage:
        """An image of the platform's registry. What is known by digest is not asked for again."""
        with self._counted(), self._disk_errors(f"store the manifest of {wanted}"):
            image: ResolvedImage | None = None
            if wanted.digest and (known := self._resolver.lookup(scoped)) is not None:
                with suppress(FileNotFoundError):
                    image = self._resolver.load(scoped, known.digest)
            if image is None and (digest := await asyncio.to_thread(self._platform.take_in, scoped)):
                image = self._resolver.load(scoped, digest)
                await asyncio.to_thread(self._resolver.remember, scoped, digest, origin="registry")
            if image is None and self._platform.elsewhere:
                image = await self._resolver.resolve(
                    scoped, None, before_writing=lambda: self._make_room(str(wanted), 0)
                )
            if image is None:
                raise self._platform.not_there(wanted)
        self._collector.hold(image.digest)
        return replace(image, reference=wanted.at(image.digest), source=image.reference)

    async def _bring(self, reference: Reference, layer: Layer, credentials: Credentials | None) -> None:
        """One layer, however many ask for it at once."""
        while not self._layers.has(layer.diff_id):
            task = self._flights.get(layer.diff_id)
            mine = task is None
            if task is None:
                task = asyncio.create_task(self._bring_alone(reference, layer, credentials))
                self._flights[layer.diff_id] = task
                task.add_done_callback(lambda done: self._landed(layer.diff_id, done))
            try:
                await asyncio.shield(task)  # who waits may be cancelled; others may wait for it too
            except Problem:
                # Another image's flight may have failed at its registry or its credentials. Try with one's own.
                if mine:
                    raise

    async def _bring_alone(self, reference: Reference, layer: Layer, credentials: Credentials | None) -> None:
        with self._disk_errors(f"fetch {reference}"):
            if not self._blobs.has(layer.blob.digest):
                name = self._names.get(reference.pinned_name(reference.digest))
                if name is not None and name.origin == "imported":
                    raise FailedPrecondition(
                        f"image {reference} is not complete on this host",
                        why=f"layer {layer.blob.digest} is gone, and the image was imported from a file",
                        next="import it again",
                    )
                if not (self._platform.holds(reference) and await self._take_layer(reference, layer)):
                    await self._registry.download(reference, layer.blob, credentials)
            await self._layers.unpack(self._blobs.path(layer.blob.digest), layer)
            if not self._settings.keep_layer_blobs:
                self._blobs.remove(layer.blob.digest)

    async def _take_layer(self, reference: Reference, layer: Layer) -> bool:
        """From the registry on this host. Raises `FailedPrecondition` when it is not there, nor can be elsewhere."""
        if await asyncio.to_thread(self._platform.take_blob, reference, layer.blob.digest):
            return True
        if self._platform.elsewhere:
            return False
        raise FailedPrecondition(
            f"image {reference} is not complete on this host",
            why=f"layer {layer.blob.digest} is neither here nor in the registry",
            next="push it again",
        )

    def _landed(self, diff_id: str, task: asyncio.Task[None]) -> None:
        self._flights.pop(diff_id, None)
        if not task.cancelled():
            task.exception()  # nobody may be waiting for it any more

    async def _make_room(self, what: str, size_bytes: int) -> None:
        """Refuse what would fill the disk, after having let go of what may go."""
        floor = self._settings.min_free_mb * _MIB
        lacking = size_bytes + floor - self.filesystem.free_bytes()
        if lacking > 0:
            await self._collector.evict(lacking)
            free = self.filesystem.free_bytes()
            if free - floor < size_bytes:
                needed = size_bytes // _MIB
                why = f"{free // _MIB} MiB free, {needed} needed, {floor // _MIB} must stay free"
                raise no_space(f"take in {what}", self._root, why)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """While documents are written that no name points to yet, no blob is collected."""
        self._collector.writing += 1
        try:
            yield
        finally:
            self._collector.writing -= 1

    @contextmanager
    def _disk_errors(self, doing: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise disk_problem(error, doing=doing, disk=self._base) from error

    def _lock(self) -> None:
        self._root.mkdir(parents=True, exist_ok=True)
        try:
            self._lock_file = hold(self._root / "lock")
        except HeldError as other:
            raise Unavailable(
                f"the image store {self._root} is in use",
                why=f"process {other} has it open",
                next="stop the other agent",
            ) from None

    def _unlock(self) -> None:
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


def _absent(wanted: Reference) -> NotFound:
    return NotFound(f"image {wanted} is not on this host", next="`caddis image list` shows what is")
