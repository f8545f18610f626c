"""What an operator may ask about the images of this host: the handlers of the contract, over the store.

Which images Machines need is the journal's to say, so it is looked up here and handed to the store: nothing is deleted
or evicted that a Machine has, running or stopped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from pathlib import Path

from pydantic import SecretStr

from caddisfly.bus import contract
from caddisfly.bus.rpc import Dispatcher
from caddisfly.host.computer import HostImages
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.settings import Credentials
from caddisfly.model.errors import FailedPrecondition, InvalidArgument
from caddisfly.model.machine import Machine

_SHOWN = 5


class Shelf:
    """The handlers."""

    def __init__(
        self, images: HostImages, *, machines: Callable[[], Iterable[Machine]], set_aside: frozenset[str]
    ) -> None:
        """`set_aside` are digests that stand in records which cannot be read."""
        self._images, self._machines, self._set_aside = images, machines, set_aside
        images.referenced_by(self._in_use)

    def register(self, dispatcher: Dispatcher) -> None:
        dispatcher.handle(contract.IMPORT_IMAGE, self.import_)
        dispatcher.handle(contract.PULL_IMAGE, self.pull)
        dispatcher.handle(contract.WATCH_IMAGE, self.progress)
        dispatcher.handle(contract.LIST_IMAGES, self.list_)
        dispatcher.handle(contract.SHOW_IMAGE, self.show)
        dispatcher.handle(contract.REMOVE_IMAGE, self.remove)
        dispatcher.handle(contract.COLLECT_IMAGES, self.collect)
        dispatcher.handle(contract.VERIFY_IMAGES, self.verify)

    async def import_(self, request: contract.ImportImage) -> contract.ImageReply:
        path = Path(request.path)
        if not path.exists():
            raise InvalidArgument(f"{path} does not exist on this host", next="give an OCI layout or a docker-archive")
        image = await self._images.import_archive(path, name=request.name, select=request.select)
        await self._images.fetch(image)
        return contract.ImageReply(name=str(image.reference), digest=image.digest)

    async def pull(self, request: contract.PullImage) -> contract.ImageReply:
        login = request.login
        credentials = Credentials(username=login.username, password=SecretStr(login.password)) if login else None
        image = await self._images.pull(request.name, credentials=credentials)
        return contract.ImageReply(name=str(image.reference), digest=image.digest)

    async def progress(self, request: contract.ImageName) -> contract.ImageProgress:
        return contract.ImageProgress(
            layers=tuple(
                contract.LayerProgress(digest=layer.digest, state=layer.state, done=layer.done, size=layer.size)
                for layer in self._images.status(request.name)
            )
        )

    async def list_(self, request: contract.Nothing) -> contract.ImageList:
        return contract.ImageList(images=tuple(asdict(image) for image in self._images.list()))

    async def show(self, request: contract.ImageName) -> contract.ImageDetails:
        image, layers = self._images.show(request.name)
        record = {
            "name": image.reference.name,
            "digest": image.digest,
            "manifest_digest": image.manifest_digest,
            "size_bytes": image.size_bytes,
            "config": {**asdict(image.config), "labels": dict(image.config.labels)},
            "layers": [asdict(layer) for layer in layers],
            "machines": [machine.id for machine in self._users(image.digest)],
        }
        return contract.ImageDetails(record=record)

    async def remove(self, request: contract.RemoveImage) -> contract.Nothing:
        image, _ = self._images.show(request.name)
        users = self._users(image.digest)
        if users and not request.force:
            shown = ", ".join(machine.id for machine in users[:_SHOWN])
            more = f" and {len(users) - _SHOWN} more" if len(users) > _SHOWN else ""
            raise FailedPrecondition(
                f"image {Reference.parse(request.name)} is used by {len(users)} Machine{'s' * (len(users) != 1)}",
                why=f"{shown}{more}, running or stopped",
                next="destroy them first; or --force, and the content stays until they are gone",
            )
        await self._images.remove(request.name)
        return contract.Nothing()

    async def collect(self, request: contract.CollectImages) -> contract.ImagesCollected:
        done = await self._images.collect(all_unused=request.all_unused)
        return contract.ImagesCollected(**asdict(done))

    async def verify(self, request: contract.VerifyImages) -> contract.ImagesVerified:
        found = await self._images.verify(request.name)
        return contract.ImagesVerified(**asdict(found))

    def _in_use(self) -> frozenset[str]:
        return frozenset(self._set_aside).union(*(machine.digests for machine in self._machines() if machine.alive))

    def _users(self, digest: str) -> list[Machine]:
        return [machine for machine in self._machines() if machine.alive and digest in machine.digests]
