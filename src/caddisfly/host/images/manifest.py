"""Manifests, indexes and configs of Docker (schema 2) and OCI: read, bounded, and reduced to what starting needs.

Everything here comes from whoever wrote the image. Each limit is a constant with a name, and an image that breaks one
is told which: a manifest with ten thousand layers, an index of indexes without end and a media type from elsewhere
are all answers, not work. Nothing is fetched here; `read_manifest` says what to fetch next.
"""

from __future__ import annotations

import json
import platform
import re
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from caddisfly.host.images.image import Descriptor, ImageConfig, Layer
from caddisfly.host.images.reference import is_digest
from caddisfly.model.errors import InvalidArgument

MAX_MANIFEST_BYTES = 4 << 20
MAX_CONFIG_BYTES = 4 << 20
MAX_LAYERS = 127
"""What Docker builds at most, and what an overlay's options can name."""
MAX_INDEX_ENTRIES = 256
MAX_INDEX_DEPTH = 3
MAX_DESCRIPTORS = 4096
"""What one manifest of any artifact may point to. Images are held to `MAX_LAYERS` when they are started."""

OCI_INDEX = "application/vnd.oci.image.index.v1+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_CONFIG = "application/vnd.oci.image.config.v1+json"
OCI_LAYER = "application/vnd.oci.image.layer.v1.tar"
DOCKER_INDEX = "application/vnd.docker.distribution.manifest.list.v2+json"
DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_CONFIG = "application/vnd.docker.container.image.v1+json"

INDEXES = frozenset({OCI_INDEX, DOCKER_INDEX})
MANIFESTS = frozenset({OCI_MANIFEST, DOCKER_MANIFEST})
CONFIGS = frozenset({OCI_CONFIG, DOCKER_CONFIG})
LAYERS = frozenset(
    {
        OCI_LAYER,
        f"{OCI_LAYER}+gzip",
        f"{OCI_LAYER}+zstd",
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
    }
)
_ELSEWHERE = re.compile(r"\.(nondistributable|foreign)\.")
ACCEPT = ", ".join((OCI_INDEX, OCI_MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST))

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "riscv64": "riscv64", "ppc64le": "ppc64le", "s390x": "s390x"}
_MAX_SIZE = 1 << 50
_Model = TypeVar("_Model", bound=BaseModel)


def machine_architecture() -> str:
    """This machine, in the words of image indexes."""
    return _ARCHITECTURES.get(platform.machine(), platform.machine())


class _Platform(BaseModel):
    os: str = ""
    architecture: str = ""
    variant: str = ""


class _Descriptor(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    media_type: str = Field(default="", alias="mediaType", max_length=255)
    digest: str
    size: int = Field(ge=0, le=_MAX_SIZE)
    platform: _Platform | None = None

    @field_validator("digest")
    @classmethod
    def _sha256(cls, value: str) -> str:
        if not is_digest(value):
            raise ValueError("a digest must be sha256")
        return value

    def reduced(self) -> Descriptor:
        return Descriptor(self.digest, self.size, self.media_type)


class _Document(BaseModel):
    schema_version: int = Field(default=2, alias="schemaVersion")
    media_type: str = Field(default="", alias="mediaType")
    artifact_type: str = Field(default="", alias="artifactType", max_length=255)
    subject: _Descriptor | None = None
    annotations: dict[str, str] | None = None
    manifests: list[_Descriptor] | None = None
    config: _Descriptor | None = None
    layers: list[_Descriptor] | None = None


class _Process(BaseModel):
    env: list[str] | None = Field(default=None, alias="Env")
    entrypoint: list[str] | None = Field(default=None, alias="Entrypoint")
    cmd: list[str] | None = Field(default=None, alias="Cmd")
    user: str | None = Field(default=None, alias="User")
    working_dir: str | None = Field(default=None, alias="WorkingDir")
    exposed_ports: dict[str, Any] | None = Field(default=None, alias="ExposedPorts")
    volumes: dict[str, Any] | None = Field(default=None, alias="Volumes")
    stop_signal: str | None = Field(default=None, alias="StopSignal")
    labels: dict[str, str] | None = Field(default=None, alias="Labels")


class _RootFS(BaseModel):
    diff_ids: list[str] = Field(default_factory=list)


class _Config(BaseModel):
    architecture: str = ""
    os: str = ""
    config: _Process | None = None
    rootfs: _RootFS = Field(default_factory=_RootFS)


class Manifest(BaseModel):
    """A manifest of one image for one platform."""

    model_config = ConfigDict(frozen=True)

    config: Descriptor
    layers: tuple[Descriptor, ...]


class Contents(BaseModel):
    """What a registry needs to know of a manifest or index: what it is, and what it points to."""

    model_config = ConfigDict(frozen=True)

    media_type: str
    artifact_type: str = ""
    """What it says, or the media type of its config."""
    subject: str = ""
    """Digest of the manifest that this one is about."""
    annotations: dict[str, str] = Field(default_factory=dict)
    blobs: tuple[str, ...] = ()
    """Digests of config and layers, those left out that are to be had elsewhere."""
    manifests: tuple[str, ...] = ()


def read_contents(data: bytes, *, what: str, media_type: str = "") -> Contents:
    """Read a manifest or index of anything, not only of images. `media_type` is what its pusher calls it.

    The answer follows from the content alone, so that nothing has to be kept beside it.
    """
    document = _parse(_Document, data, what=what, kind="manifest", max_bytes=MAX_MANIFEST_BYTES)
    if document.schema_version != 2:
        raise _bad(what, f"its manifest has schema version {document.schema_version}, and only 2 is supported")
    kind = document.media_type or (OCI_INDEX if document.manifests is not None else OCI_MANIFEST)
    called = media_type.partition(";")[0].strip()
    if kind not in INDEXES | MANIFESTS:
        raise _bad(what, f"the media type `{kind[:100]}` is not that of a manifest or index")
    if called and called != kind:
        raise _bad(what, f"it was pushed as `{called[:100]}` and is `{kind}`")
    if kind in MANIFESTS and (document.config is None or document.layers is None):
        raise _bad(what, "its manifest has no config or no layers")
    if kind in INDEXES and document.manifests is None:
        raise _bad(what, "its index has no manifests")
    pointed = [document.config, *(document.layers or ())] if document.config else []
    if len(pointed) + len(document.manifests or ()) > MAX_DESCRIPTORS:
        raise _bad(what, f"it points to more than {MAX_DESCRIPTORS} things")
    return Contents(
        media_type=kind,
        artifact_type=document.artifact_type or (document.config.media_type if document.config else ""),
        subject=document.subject.digest if document.subject else "",
        annotations=document.annotations or {},
        blobs=tuple(dict.fromkeys(one.digest for one in pointed if not _ELSEWHERE.search(one.media_type))),
        manifests=tuple(dict.fromkeys(one.digest for one in document.manifests or ())),
    )


def read_manifest(data: bytes, *, what: str, depth: int = 0, media_type: str = "") -> Manifest | Descriptor:
    """Read one document: the manifest itself, or from an index the descriptor of what to read next.

    `media_type` is what the registry said; the document's own word counts when it has one.
    """
    document = _parse(_Document, data, what=what, kind="manifest", max_bytes=MAX_MANIFEST_BYTES)
    if document.schema_version != 2:
        raise _bad(what, f"its manifest has schema version {document.schema_version}, and only 2 is supported")
    kind = document.media_type or media_type.partition(";")[0].strip()
    if kind in INDEXES or (kind not in MANIFESTS and document.manifests is not None):
        return _choose(document, what=what, depth=depth)
    if kind and kind not in MANIFESTS:
        raise _bad(what, f"its manifest has the media type `{kind[:100]}`, which is not an image's")
    if document.config is None or document.layers is None:
        raise _bad(what, "its manifest has no config or no layers")
    if len(document.layers) > MAX_LAYERS:
        raise _bad(what, f"it has {len(document.layers)} layers, more than {MAX_LAYERS}")
    if document.config.media_type and document.config.media_type not in CONFIGS:
        raise _bad(what, f"its config has the media type `{document.config.media_type[:100]}`: not a container image")
    for layer in document.layers:
        if layer.media_type and layer.media_type not in LAYERS:
            raise _bad(what, f"it has a layer of the unsupported media type `{layer.media_type[:100]}`")
    return Manifest(config=document.config.reduced(), layers=tuple(layer.reduced() for layer in document.layers))


def read_config(data: bytes, manifest: Manifest, *, what: str) -> tuple[ImageConfig, tuple[Layer, ...]]:
    """Read the config that belongs to a manifest; its layers with their `diff_id`."""
    config = _parse(_Config, data, what=what, kind="config", max_bytes=MAX_CONFIG_BYTES)
    here = machine_architecture()
    if config.os not in ("", "linux") or config.architecture not in ("", here):
        raise _bad(
            what,
            f"it is for {config.os or 'linux'}/{config.architecture}, and this host is linux/{here}",
            next="build it for this platform, or name a multi-platform image",
        )
    diff_ids = config.rootfs.diff_ids
    if len(diff_ids) != len(manifest.layers):
        raise _bad(what, f"its config lists {len(diff_ids)} layers and its manifest {len(manifest.layers)}")
    if not all(is_digest(diff_id) for diff_id in diff_ids):
        raise _bad(what, "its config has a diff_id that is not a sha256 digest")
    process = config.config or _Process()
    return ImageConfig(
        env=tuple(process.env or ()),
        entrypoint=tuple(process.entrypoint or ()),
        cmd=tuple(process.cmd or ()),
        user=process.user or "",
        working_dir=process.working_dir or "",
        exposed_ports=tuple(process.exposed_ports or ()),
        volumes=tuple(process.volumes or ()),
        stop_signal=process.stop_signal or "",
        labels=process.labels or {},
        architecture=config.architecture,
    ), tuple(Layer(blob, diff_id) for blob, diff_id in zip(manifest.layers, diff_ids, strict=True))


def diff_ids_of(config: bytes, *, what: str) -> list[str]:
    """The diff_ids of a config that has no manifest yet (docker save)."""
    return _parse(_Config, config, what=what, kind="config", max_bytes=MAX_CONFIG_BYTES).rootfs.diff_ids


def check_layer_sizes(layers: tuple[Layer, ...], *, what: str, max_bytes: int) -> None:
    """Refuse by the manifest's own word, before anything is downloaded."""
    for layer in layers:
        if layer.blob.size > max_bytes:
            raise _bad(
                what,
                f"its layer {layer.blob.digest} has {layer.blob.size} bytes, more than {max_bytes}",
                next="make the layer smaller, or raise max_layer_bytes on this host",
            )


def _choose(document: _Document, *, what: str, depth: int) -> Descriptor:
    entries = document.manifests or []
    if depth >= MAX_INDEX_DEPTH:
        raise _bad(what, f"its indexes are nested more than {MAX_INDEX_DEPTH} deep")
    if len(entries) > MAX_INDEX_ENTRIES:
        raise _bad(what, f"its index has {len(entries)} entries, more than {MAX_INDEX_ENTRIES}")
    here = machine_architecture()
    fitting = [
        entry
        for entry in entries
        if entry.platform is None or (entry.platform.os, entry.platform.architecture) == ("linux", here)
    ]
    if not fitting:
        known = sorted({f"{e.platform.os}/{e.platform.architecture}" for e in entries if e.platform})
        raise _bad(
            what,
            f"it is not available for linux/{here}, only for {', '.join(known)[:200] or 'nothing'}",
            next="build it for this platform",
        )
    # Exact matches before entries that do not say; the plain variant before special ones (v3 needs a newer CPU).
    fitting.sort(key=lambda e: (e.platform is None, e.platform.variant not in ("", "v8") if e.platform else False))
    chosen = fitting[0]
    if chosen.media_type and chosen.media_type not in INDEXES | MANIFESTS:
        raise _bad(what, f"its index points to the media type `{chosen.media_type[:100]}`, which is not an image's")
    return chosen.reduced()


def _parse(model: type[_Model], data: bytes, *, what: str, kind: str, max_bytes: int) -> _Model:
    if len(data) > max_bytes:
        raise _bad(what, f"its {kind} is larger than {max_bytes} bytes")
    try:
        return model.model_validate(json.loads(data))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][:6])
        raise _bad(what, f"its {kind} is not valid: {where[:100]}: {first['msg'][:200]}") from None
    except (ValueError, RecursionError):
        raise _bad(what, f"its {kind} is not JSON") from None


def _bad(what: str, why: str, *, next: str = "check how the image was built and pushed") -> InvalidArgument:
    return InvalidArgument(f"image {what} cannot be used", why=why, next=next, status="image_invalid")
