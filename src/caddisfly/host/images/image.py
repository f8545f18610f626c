"""The values of this room: an image as it is described, as it lies on disk, and as it is listed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from caddisfly.host.images.reference import Reference


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob that a manifest points to. `size` is what the manifest claims; it is held to it."""

    digest: str
    size: int
    media_type: str = ""


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: the blob it travels as, and `diff_id`, the digest of its uncompressed form and its key on disk."""

    blob: Descriptor
    diff_id: str


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """What an image says about how to start it. Absent and empty are the same."""

    env: tuple[str, ...] = ()
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""
    working_dir: str = ""
    exposed_ports: tuple[str, ...] = ()
    volumes: tuple[str, ...] = ()
    stop_signal: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    architecture: str = ""


@dataclass(frozen=True, slots=True)
class ResolvedImage:
    """A name that has been turned into content: small, verified, and enough to decide everything but the files.

    `digest` is what the name points to, for a multi-arch image the index; `manifest_digest` is this machine's part.
    """

    reference: Reference
    digest: str
    manifest_digest: str
    config: ImageConfig
    layers: tuple[Layer, ...]
    config_digest: str = ""
    source: Reference | None = None
    """Where its layers are to be had, when that is not what its name says."""
    stale: bool = False
    """The registry did not answer and this is the last content it gave for the name."""

    @property
    def size_bytes(self) -> int:
        """Compressed size of all layers."""
        return sum(layer.blob.size for layer in self.layers)


@dataclass(frozen=True, slots=True)
class Image:
    """An image whose every layer is unpacked on this host."""

    resolved: ResolvedImage
    layer_dirs: tuple[Path, ...]
    """Lowest first. Read-only: shared by every image and every Machine that has the layer."""


@dataclass(frozen=True, slots=True)
class StoredImage:
    """One line of a listing."""

    name: str
    digest: str
    size_bytes: int
    imported: bool
    unpacked: bool
    updated_at: float
    used_at: float
    unpacked_bytes: int
    """Of its layers on this disk, those of other images included."""
    in_use: bool
    """A Machine has it, running or stopped."""


LayerState = Literal["waiting", "downloading", "unpacking", "ready"]


@dataclass(frozen=True, slots=True)
class LayerStatus:
    """How far one layer is. `done` counts bytes of the blob: received, or unpacked."""

    digest: str
    diff_id: str
    size: int
    state: LayerState
    done: int
    unpacked_bytes: int


@dataclass(frozen=True, slots=True)
class Collected:
    """What a collection did."""

    images: int
    layers: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Verified:
    """What a check of everything found. `damaged` are layers, `repaired` those that were fetched again."""

    layers: int
    damaged: tuple[str, ...]
    repaired: tuple[str, ...]
    problems: tuple[str, ...]
