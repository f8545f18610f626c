"""Tiny images and crafted layers."""

from __future__ import annotations

import gzip
import io
import json
import tarfile
from hashlib import sha256
from typing import Any

from caddisfly.host.images.manifest import machine_architecture


def sha(data: bytes) -> str:
    return f"sha256:{sha256(data).hexdigest()}"


class TarFactory:
    """A tar whose entries say exactly what a test wants them to say."""

    def __init__(self, format: int = tarfile.PAX_FORMAT) -> None:
        self._out = io.BytesIO()
        self._tar = tarfile.open(fileobj=self._out, mode="w", format=format)  # noqa: SIM115

    def file(self, name: str, data: bytes = b"x", **fields: Any) -> TarFactory:
        return self._add(name, tarfile.REGTYPE, data=data, **fields)

    def directory(self, name: str, **fields: Any) -> TarFactory:
        return self._add(name, tarfile.DIRTYPE, **({"mode": 0o755} | fields))

    def symlink(self, name: str, target: str, **fields: Any) -> TarFactory:
        return self._add(name, tarfile.SYMTYPE, linkname=target, **fields)

    def hardlink(self, name: str, target: str, **fields: Any) -> TarFactory:
        return self._add(name, tarfile.LNKTYPE, linkname=target, **fields)

    def device(self, name: str, *, major: int = 1, minor: int = 3, block: bool = False) -> TarFactory:
        kind = tarfile.BLKTYPE if block else tarfile.CHRTYPE
        return self._add(name, kind, devmajor=major, devminor=minor)

    def fifo(self, name: str) -> TarFactory:
        return self._add(name, tarfile.FIFOTYPE)

    def raw(self, data: bytes) -> TarFactory:
        self._out.write(data)
        return self

    def tar(self) -> bytes:
        self._tar.close()
        return self._out.getvalue()

    def unfinished(self) -> bytes:
        """Without the end marks."""
        return self._out.getvalue()

    def _add(self, name: str, kind: bytes, *, data: bytes = b"", **fields: Any) -> TarFactory:
        info = tarfile.TarInfo(name)
        info.type, info.size = kind, len(data)
        for key, value in fields.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self


def header(name: bytes, *, kind: bytes = b"0", size: int = 0, prefix: bytes = b"") -> bytes:
    """One raw ustar header with a right checksum, for what tarfile would not write."""
    block = bytearray(512)
    block[0 : len(name)] = name
    block[100:108] = b"0000644\0"
    block[108:116] = block[116:124] = b"0000000\0"
    block[124:136] = b"%011o\0" % size
    block[136:148] = b"00000000000\0"
    block[156:157] = kind
    block[257:265] = b"ustar\00000"
    block[345 : 345 + len(prefix)] = prefix
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


class ImageParts:
    """The documents and blobs of one image, to be served or spoiled."""

    def __init__(self, *tars: bytes, config: dict[str, Any] | None = None, architecture: str = "") -> None:
        self.diff_ids = [sha(tar) for tar in tars]
        self.layers = [gzip.compress(tar, compresslevel=1, mtime=0) for tar in tars]
        self.config: dict[str, Any] = {
            "architecture": architecture or machine_architecture(),
            "os": "linux",
            "config": config or {},
            "rootfs": {"type": "layers", "diff_ids": self.diff_ids},
        }
        self.manifest: dict[str, Any] = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json",
            "config": self._descriptor(self.config_bytes, "application/vnd.docker.container.image.v1+json"),
            "layers": [self._descriptor(x, "application/vnd.docker.image.rootfs.diff.tar.gzip") for x in self.layers],
        }

    @property
    def config_bytes(self) -> bytes:
        return json.dumps(self.config).encode()

    @property
    def manifest_bytes(self) -> bytes:
        return json.dumps(self.manifest).encode()

    @property
    def digest(self) -> str:
        return sha(self.manifest_bytes)

    @property
    def blobs(self) -> dict[str, bytes]:
        return {sha(data): data for data in [self.config_bytes, *self.layers]}

    @staticmethod
    def _descriptor(data: bytes, media_type: str) -> dict[str, Any]:
        return {"mediaType": media_type, "digest": sha(data), "size": len(data)}


def index_of(*entries: dict[str, Any]) -> bytes:
    return json.dumps(
        {"schemaVersion": 2, "mediaType": "application/vnd.oci.image.index.v1+json", "manifests": list(entries)}
    ).encode()


def index_entry(manifest: bytes, architecture: str, *, os: str = "linux", media_type: str = "") -> dict[str, Any]:
    return {
        "mediaType": media_type or "application/vnd.oci.image.manifest.v1+json",
        "digest": sha(manifest),
        "size": len(manifest),
        "platform": {"os": os, "architecture": architecture},
    }
