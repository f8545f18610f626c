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
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import IO

from caddisfly.host.images import archive
from caddisfly.host.images.blobs import BlobStore, disk_problem, no_space
from caddisfly.host.images.durable import remove_tree
from caddisfly.host.images.filesystem import StoreFilesystem
from caddisfly.host.images.image import Image, Layer, ResolvedImage, StoredImage
from caddisfly.host.images.layers import LayerStore
from caddisfly.host.images.names import NameTable
from caddisfly.host.images.platform import PlatformImages, with_platform
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.registry import RegistryClient
from caddisfly.host.images.resolver import Resolver
from caddisfly.host.images.rootfs import RootFilesystems
from caddisfly.host.images.settings import Credentials, ImageSettings
from caddisfly.host.lock import HeldError, hold
from caddisfly.host.registry.layout import NAME as REGISTRY
from caddisfly.host.registry.layout import Layout
from caddisfly.model.errors import FailedPrecondition, InvalidArgument, NotFound, Problem, Unavailable

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
        self._fetching: list[ResolvedImage] = []
        self._writing = 0

    async def open(self) -> None:
        """Mount the file system and sweep what a crash left half done."""
        self._lock()
        try:
            await asyncio.to_thread(self._prepare)
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
        await asyncio.gather(*flights, return_exceptions=True)
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
            return await self._resolve_own(wanted, organization)
        with self._counted(), self._disk_errors(f"store the manifest of {wanted}"):
            return await self._resolver.resolve(
                wanted, credentials, before_writing=lambda: self._check_room(str(wanted), 0)
            )

    async def fetch(self, image: ResolvedImage, *, credentials: Credentials | None = None) -> Image:
        """Every layer of the image, unpacked on this host. Costs a stat per layer when they all are."""
        self._fetching.append(image)
        try:
            missing = [layer for layer in dict.fromkeys(image.layers) if not self._layers.has(layer.diff_id)]
            if missing:
                self._check_room(str(image.reference), sum(layer.blob.size for layer in missing))
                source = image.source or image.reference
                await asyncio.gather(*(self._bring(source, layer, credentials) for layer in missing))
            return Image(image, tuple(self._layers.path(layer.diff_id) for layer in image.layers))
        finally:
            self._fetching.remove(image)

    async def import_archive(self, path: Path, *, name: str) -> ResolvedImage:
        """Take in an OCI layout (directory or tar) or a `docker save` archive under a name."""
        wanted = Reference.parse(name)
        if self._platform.names(wanted):
            raise InvalidArgument(
                f"an image cannot be imported as {wanted}",
                why="names of the platform's registry belong to apps",
                next="push it there, or import it under another name",
            )
        self._check_room(str(wanted), 0)
        try:
            with self._counted(), self._disk_errors(f"import {path.name}"):
                digest = await asyncio.to_thread(
                    archive.import_archive,
                    path,
                    blobs=self._blobs,
                    temporary=self._temporary,
                    max_bytes=self._settings.max_layer_bytes,
                )
                image = self._resolver.load(wanted, digest)
                await asyncio.to_thread(self._resolver.remember, wanted, digest, origin="imported")
                return image
        finally:
            # A refused archive leaves blobs behind, and so does a name that meant something else before.
            await self._collect()

    def list(self) -> list[StoredImage]:
        """All names; names by digest only where no tag means the same."""
        names = self._names.all()
        tagged = {name.digest for name in names if not name.pinned}
        shown = []
        for name in names:
            if name.pinned and name.digest in tagged:
                continue
            with suppress(FileNotFoundError, Problem):
                image = self._resolver.load(Reference.parse(name.name), name.digest)
                shown.append(
                    StoredImage(
                        name=name.name,
                        digest=name.digest,
                        size_bytes=image.size_bytes,
                        imported=name.origin == "imported",
                        unpacked=all(self._layers.has(layer.diff_id) for layer in image.layers),
                        updated_at=name.updated_at,
                    )
                )
        return shown

    async def remove(self, name: str) -> None:
        """Forget a name, and delete what no other name and no mounted root needs."""
        wanted = Reference.parse(name)
        known = self._resolver.lookup(wanted)
        if known is None:
            raise NotFound(f"image {wanted} is not on this host", next="`list` shows what is")
        self._names.remove(known.name)
        tags = (Reference.parse(other.name) for other in self._names.all() if other.digest == known.digest)
        if not any(tag.tag and tag.repository == wanted.repository for tag in tags):
            self._names.remove(wanted.pinned_name(known.digest))
        await self._collect()

    async def collect(self, *, keep: Iterable[str]) -> None:
        """Forget content that had a tag once and is not among `keep`, the digests that Machines run, and delete it."""
        wanted = set(keep) | {name.digest for name in self._names.all() if not name.pinned}
        for name in self._names.all():
            if name.digest not in wanted:
                self._names.remove(name.name)
        await self._collect()

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

    async def _resolve_own(self, wanted: Reference, organization: str) -> ResolvedImage:
        """An image of the platform's registry. What is known by digest is not asked for again."""
        scoped = self._platform.scoped(wanted, organization)
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
                    scoped, None, before_writing=lambda: self._check_room(str(wanted), 0)
                )
            if image is None:
                raise self._platform.not_there(wanted)
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

    async def _collect(self) -> None:
        """Delete what nothing needs. Decided and renamed in one go, without giving way to a fetch in between."""
        documents: set[str] = set()
        images = list(self._fetching)
        for name in self._names.all():
            with suppress(FileNotFoundError, Problem):
                documents |= self._resolver.documents(name.digest)
                images.append(self._resolver.load(Reference.parse(name.name), name.digest))
        layers = {layer for image in images for layer in image.layers}
        needed = {layer.diff_id.removeprefix("sha256:") for layer in layers} | self.roots.layers_in_use()
        flying = {diff_id.removeprefix("sha256:") for diff_id in self._flights}
        trash = [self._layers.set_aside(name) for name in self._layers.names() - needed - flying]
        if not self._writing and not flying:
            self._blobs.keep_only(documents | {layer.blob.digest for layer in layers})
        for path in trash:
            await asyncio.to_thread(remove_tree, path)

    def _check_room(self, what: str, size_bytes: int) -> None:
        free = self.filesystem.free_bytes()
        if free - self._settings.min_free_mb * _MIB < size_bytes:
            why = f"{free // _MIB} MiB free, {size_bytes // _MIB} needed, {self._settings.min_free_mb} must stay free"
            raise no_space(f"take in {what}", self._root, why)

    @contextmanager
    def _counted(self) -> Iterator[None]:
        """While documents are written that no name points to yet, no blob is collected."""
        self._writing += 1
        try:
            yield
        finally:
            self._writing -= 1

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
