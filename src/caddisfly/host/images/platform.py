"""Images of the platform's own registry: taken in from its directory, by hard links.

No copy, no HTTP, and no race with the registry's garbage collection: each side has a name of its own for the file. The
registry keeps repositories by organization, and so are the names here: what an app of somebody else was called, or is,
cannot be had by its name. On a fleet the directory is another host's; then the same names lead over HTTP.
"""

from __future__ import annotations

from dataclasses import dataclass

from caddisfly.host.images.blobs import BlobStore
from caddisfly.host.images.image import Descriptor
from caddisfly.host.images.manifest import MAX_MANIFEST_BYTES, Manifest, read_manifest
from caddisfly.host.images.reference import Reference
from caddisfly.host.images.settings import Credentials, ImageSettings
from caddisfly.host.registry.layout import Layout, RepositoryLayout
from caddisfly.model import registry
from caddisfly.model.errors import InvalidArgument


def with_platform(settings: ImageSettings) -> ImageSettings:
    """The settings for pulling over HTTP, with the road to a registry on another host."""
    if not (settings.domain and settings.registry_url):
        return settings
    name = registry.host_name(settings.domain)
    credentials = Credentials(username="host", password=settings.registry_secret)
    return settings.model_copy(
        update={
            "mirrors": {**settings.mirrors, name: settings.registry_url},
            "credentials": {**settings.credentials, name: credentials},
        }
    )


@dataclass(frozen=True, slots=True)
class PlatformImages:
    """`layout` is that of the registry on this host, if there is one."""

    settings: ImageSettings
    layout: Layout
    blobs: BlobStore

    def names(self, wanted: Reference) -> bool:
        """Whether this is a name of the platform's registry, as people write it."""
        return bool(self.settings.domain) and registry.is_ours(wanted.registry, domain=self.settings.domain)

    def scoped(self, wanted: Reference, organization: str) -> Reference:
        """The name by which this host knows it. Raises `InvalidArgument` for what cannot be there."""
        if not organization or "/" in wanted.repository:
            raise self.not_there(wanted)
        host = registry.host_name(self.settings.domain)
        return Reference(host, f"{organization}/{wanted.repository}", wanted.tag, wanted.digest)

    def holds(self, scoped: Reference) -> bool:
        return bool(self.settings.domain) and scoped.registry == registry.host_name(self.settings.domain)

    @property
    def elsewhere(self) -> bool:
        """Whether what is not here may be had over HTTP."""
        return bool(self.settings.registry_url)

    def take_in(self, scoped: Reference) -> str:
        """Link the manifests and the config of an image. Its digest, empty when it is not here. Blocks."""
        repository = self._repository(scoped)
        digest = scoped.digest or repository.digest_of(scoped.tag)
        if not digest:
            return ""
        document: Manifest | Descriptor = Descriptor(digest, 0)
        depth = 0
        while isinstance(document, Descriptor):
            if not self.blobs.adopt(repository.manifest(document.digest), document.digest):
                return ""
            data = self.blobs.read(document.digest, max_bytes=MAX_MANIFEST_BYTES)
            document, depth = read_manifest(data, what=str(scoped), depth=depth), depth + 1
        return digest if self.take_blob(scoped, document.config.digest) else ""

    def take_blob(self, scoped: Reference, digest: str) -> bool:
        """Link one blob of the repository. False when it has none. Blocks."""
        return self.blobs.adopt(self._repository(scoped).blob(digest), digest)

    def not_there(self, wanted: Reference) -> InvalidArgument:
        return registry.not_there(str(wanted), registry=wanted.registry, repository=wanted.repository)

    def _repository(self, scoped: Reference) -> RepositoryLayout:
        organization, _, app = scoped.repository.partition("/")
        return self.layout.repository(organization, app)
