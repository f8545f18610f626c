"""A small writer of OCI layouts: images made of tars on this machine, with no registry, daemon or Dockerfile.

Reproducible: the same layers and config give the same digest, so an image that ships with the platform is imported once
however often it is built.
"""

from __future__ import annotations

import gzip
import io
import json
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import zstandard

from caddisfly.host.images.manifest import OCI_CONFIG, OCI_INDEX, OCI_LAYER, OCI_MANIFEST, machine_architecture

Compression = Literal["gzip", "zstd", "none"]
_SUFFIX: dict[Compression, str] = {"gzip": "+gzip", "zstd": "+zstd", "none": ""}
_EPOCH = "1970-01-01T00:00:00Z"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def write_oci_layout(
    path: Path,
    *,
    layers: Sequence[bytes | Path],
    config: Mapping[str, Any] | None = None,
    name: str = "latest",
    compression: Compression = "gzip",
    architecture: str = "",
) -> str:
    """Write an image of these uncompressed tars, lowest first, as an OCI layout directory; its manifest's digest.

    `config` is the image config's inner part: Env, Entrypoint, Cmd, User, WorkingDir, ExposedPorts, Labels, …
    """
    blobs = path / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    diff_ids, descriptors = [], []
    for layer in layers:
        plain = layer if isinstance(layer, bytes) else layer.read_bytes()
        diff_ids.append(f"sha256:{sha256(plain).hexdigest()}")
        descriptors.append(_put(blobs, _compress(plain, compression), OCI_LAYER + _SUFFIX[compression]))
    document = {
        "architecture": architecture or machine_architecture(),
        "os": "linux",
        "config": dict(config or {}),
        "rootfs": {"type": "layers", "diff_ids": diff_ids},
        # Optional by the specification, and yet buildah takes no image without it as a base, and caches no step
        # on one without times.
        "history": [{"created": _EPOCH, "created_by": f"layer {number}"} for number in range(1, len(diff_ids) + 1)],
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": _put(blobs, _json(document), OCI_CONFIG),
        "layers": descriptors,
    }
    descriptor = _put(blobs, _json(manifest), OCI_MANIFEST)
    entry = {**descriptor, "annotations": {"org.opencontainers.image.ref.name": name}}
    (path / "index.json").write_bytes(_json({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry]}))
    (path / "oci-layout").write_bytes(_json({"imageLayoutVersion": "1.0.0"}))
    return str(descriptor["digest"])


def tar_of(files: Mapping[str, bytes | str], *, links: Mapping[str, str] | None = None, mode: int = 0o755) -> bytes:
    """A layer from file contents by path; parent directories are listed, owners are root, times are zero."""
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for directory in _parents([*files, *(links or {})]):
            _add(tar, directory, kind=tarfile.DIRTYPE)
        for name, content in sorted(files.items()):
            _add(tar, name, data=content.encode() if isinstance(content, str) else content, mode=mode)
        for name, target in sorted((links or {}).items()):
            _add(tar, name, kind=tarfile.SYMTYPE, target=target)
    return out.getvalue()


def busybox_layer(binary: Path = Path("/bin/busybox")) -> bytes:
    """A whole root around one static busybox, about a megabyte: every applet, two users, the usual directories."""
    listing = subprocess.run([binary, "--list"], capture_output=True, check=True, text=True, timeout=10)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
        for name in ("bin", "dev", "etc", "home", "proc", "root", "run", "sys", "usr", "usr/bin", "var", "var/tmp"):
            _add(tar, name, kind=tarfile.DIRTYPE)
        _add(tar, "tmp", kind=tarfile.DIRTYPE, mode=0o1777)
        _add(tar, "bin/busybox", data=binary.read_bytes())
        for applet in sorted(set(listing.stdout.split()) - {"busybox"}):
            _add(tar, f"bin/{applet}", kind=tarfile.SYMTYPE, target="busybox")
        users = "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n"
        _add(tar, "etc/passwd", data=users.encode(), mode=0o644)
        _add(tar, "etc/group", data=b"root:x:0:\nnogroup:x:65534:\n", mode=0o644)
    return out.getvalue()


def write_busybox_image(path: Path, *, config: Mapping[str, Any] | None = None) -> str:
    """The busybox-only image as an OCI layout; its manifest's digest."""
    defaults = {"Env": [_PATH], "Cmd": ["/bin/sh"], "WorkingDir": "/"}
    return write_oci_layout(path, layers=[busybox_layer()], config={**defaults, **(config or {})})


def _add(
    tar: tarfile.TarFile,
    name: str,
    *,
    kind: bytes = tarfile.REGTYPE,
    data: bytes = b"",
    mode: int = 0o755,
    target: str = "",
) -> None:
    info = tarfile.TarInfo(name)
    info.type, info.mode, info.size, info.linkname = kind, mode, len(data), target
    tar.addfile(info, io.BytesIO(data))


def _parents(names: Iterable[str]) -> list[str]:
    found = {str(parent) for name in names for parent in Path(name).parents}
    return sorted(found - {".", "/"})


def _compress(data: bytes, compression: Compression) -> bytes:
    if compression == "gzip":
        return gzip.compress(data, compresslevel=6, mtime=0)
    if compression == "zstd":
        return zstandard.ZstdCompressor(level=3).compress(data)
    return data


def _put(blobs: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = sha256(data).hexdigest()
    (blobs / digest).write_bytes(data)
    return {"mediaType": media_type, "digest": f"sha256:{digest}", "size": len(data)}


def _json(document: object) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()
