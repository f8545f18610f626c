"""A build context as an OCI artifact: what a laptop sends and a host unpacks.

    manifest   artifactType ARTIFACT
      config   INDEX       zstd of JSON: {"mtimes": {path: seconds since 1970}}
      layers   DOCKERFILE  the Dockerfile's text, one
               PACK        zstd of tar, any number, each path in exactly one of them, directories in the first

Packs hold no times, so that a fresh clone of what was built before has the same packs and sends nothing. The times
matter all the same: compilers compare them with those in their caches, and web servers make ETags of them. So they
travel in the index, and whoever unpacks sets them afterwards, without following links.

The Dockerfile travels beside the tree: it is needed also when the rules ignore it, or when it comes from elsewhere, and
a build must not see it then. The rules have been applied: whoever builds applies none, not even those of a
`.dockerignore` in the tree. A pack is no image layer: names that begin with `.wh.` are files like others.
"""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import dataclass
from typing import Any

from caddisfly.model.errors import InvalidArgument

ARTIFACT = "application/vnd.caddisfly.context.v1"
INDEX = "application/vnd.caddisfly.context.index.v1.json+zstd"
DOCKERFILE = "application/vnd.caddisfly.context.dockerfile.v1"
PACK = "application/vnd.caddisfly.context.pack.v1.tar+zstd"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
TAG = "caddis-context"

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Descriptor:
    """`size` is in bytes."""

    media_type: str
    digest: str
    size: int

    @staticmethod
    def of(media_type: str, content: bytes) -> Descriptor:
        return Descriptor(media_type, f"sha256:{hashlib.sha256(content).hexdigest()}", len(content))

    def to_record(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}

    @staticmethod
    def from_record(record: Any) -> Descriptor:
        if not isinstance(record, dict):
            raise _wrong("a descriptor is not an object")
        media_type, digest, size = (record.get(name) for name in ("mediaType", "digest", "size"))
        if not isinstance(media_type, str) or not isinstance(digest, str) or not _DIGEST.fullmatch(digest):
            raise _wrong("a descriptor has no media type, or no sha256 digest")
        if not isinstance(size, int) or isinstance(size, bool) or size < 0:
            raise _wrong(f"{digest} has no size")
        return Descriptor(media_type, digest, size)


@dataclass(frozen=True, slots=True)
class Context:
    """The manifest. All of its blobs are in the repository that it is in."""

    index: Descriptor
    dockerfile: Descriptor
    packs: tuple[Descriptor, ...]

    def to_bytes(self) -> bytes:
        record = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "artifactType": ARTIFACT,
            "config": self.index.to_record(),
            "layers": [blob.to_record() for blob in (self.dockerfile, *self.packs)],
        }
        return json.dumps(record, separators=(",", ":")).encode()

    @staticmethod
    def from_bytes(content: bytes) -> Context:
        """Raises `InvalidArgument` for anything else."""
        try:
            record = json.loads(content)
        except (ValueError, RecursionError) as error:
            raise _wrong("it is not JSON") from error
        if not isinstance(record, dict) or record.get("artifactType") != ARTIFACT:
            raise _wrong("its artifact type is another")
        layers = record.get("layers")
        if not isinstance(layers, list) or not layers:
            raise _wrong("it has no layers")
        index = Descriptor.from_record(record.get("config"))
        first, *packs = (Descriptor.from_record(layer) for layer in layers)
        kinds = (index.media_type, first.media_type, *(pack.media_type for pack in packs))
        if kinds != (INDEX, DOCKERFILE, *(PACK for _ in packs)):
            raise _wrong("its parts are not an index, a Dockerfile and packs")
        return Context(index, first, tuple(packs))


def _wrong(why: str) -> InvalidArgument:
    return InvalidArgument("this is not the manifest of a build context", why=why, next="push it with `caddis build`")
