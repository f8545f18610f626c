"""Images from files: an OCI layout (directory or tar) and what `docker save` writes.

Nothing is unpacked to be read. A tar is indexed with our own strict reader, and its members are read in place, so names
and links in it are only names. Every blob is verified on its way into the store: by its digest in a layout, by the
config's `diff_ids` in a `docker save` archive, whose layers have no other identity. Such an archive has no manifest
either; one is made, always the same for the same content.
"""

from __future__ import annotations

import json
import os
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, Protocol

from caddisfly.host.images.blobs import BlobStore, too_large
from caddisfly.host.images.compression import BROKEN, GZIP_MAGIC, ZSTD_MAGIC, open_gzip, open_zstd
from caddisfly.host.images.image import Descriptor
from caddisfly.host.images.manifest import (
    DOCKER_CONFIG,
    DOCKER_MANIFEST,
    MAX_CONFIG_BYTES,
    MAX_LAYERS,
    MAX_MANIFEST_BYTES,
    Manifest,
    diff_ids_of,
    read_manifest,
)
from caddisfly.host.images.tar import CHUNK, HARD_LINK, REGULAR, SYMLINK, BadArchive, TarReader
from caddisfly.model.errors import InvalidArgument

_MAX_MEMBERS = 10_000
_BROKEN: tuple[type[Exception], ...] = (BadArchive, *BROKEN)
_NAME_KEYS = ("org.opencontainers.image.ref.name", "io.containerd.image.name")
_DOCKER_LAYER = "application/vnd.docker.image.rootfs.diff.tar"


class Source(Protocol):
    """Files by name, wherever they are."""

    def open(self, name: str) -> Iterator[bytes] | None:
        """The content in pieces, or None when there is no such file."""


class Directory:
    """An OCI layout that is unpacked on disk."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def open(self, name: str) -> Iterator[bytes] | None:
        if name.startswith("/") or ".." in name.split("/"):
            return None
        try:
            # Not through links: a layout that somebody hands in must not read this host's files for them.
            descriptor = os.open(self._path / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return None
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            return None
        return _pieces(os.fdopen(descriptor, "rb"))


class Tar:
    """A tar file, indexed once and read in place."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._members: dict[str, tuple[int, int]] = {}
        links: dict[str, str] = {}
        reader = TarReader(file.read, skip=self._skip)
        for count, entry in enumerate(reader):
            if count >= _MAX_MEMBERS:
                raise BadArchive(f"it has more than {_MAX_MEMBERS} members")
            name = os.path.normpath(os.fsdecode(entry.name))
            if entry.kind == REGULAR:
                self._members[name] = (file.tell(), entry.size)
            elif entry.kind == HARD_LINK:
                links[name] = os.path.normpath(os.fsdecode(entry.target))
            elif entry.kind == SYMLINK:  # docker save once wrote layers it had already written as links
                links[name] = os.path.normpath(os.path.join(os.path.dirname(name), os.fsdecode(entry.target)))
        for name, target in links.items():
            if target in self._members:
                self._members.setdefault(name, self._members[target])

    def _skip(self, size: int) -> None:
        self._file.seek(size, os.SEEK_CUR)

    def open(self, name: str) -> Iterator[bytes] | None:
        where = self._members.get(os.path.normpath(name))
        return self._read(*where) if where else None

    def _read(self, offset: int, size: int) -> Iterator[bytes]:
        while size:
            self._file.seek(offset)
            piece = self._file.read(min(size, CHUNK))
            if not piece:
                raise BadArchive("it ends in the middle of a file")
            offset, size = offset + len(piece), size - len(piece)
            yield piece


def import_archive(path: Path, *, blobs: BlobStore, temporary: Path, max_bytes: int, select: str = "") -> str:
    """Bring every blob of the image into the store; the digest of what the archive points to. Blocks.

    `select` is the name inside the archive of the one that is meant, when it holds several.
    """
    try:
        if path.is_dir():
            return _import(Directory(path), select=select, blobs=blobs, max_bytes=max_bytes, what=path.name)
        with path.open("rb") as file, tempfile.TemporaryFile(dir=temporary) as plain:
            source = Tar(_decompressed(file, plain, what=path.name, max_bytes=max_bytes))
            return _import(source, select=select, blobs=blobs, max_bytes=max_bytes, what=path.name)
    except FileNotFoundError as error:
        raise _bad(path.name, f"{error.filename} is not there") from None
    except _BROKEN as error:
        raise _bad(path.name, f"it is not a readable tar: {error}") from None


def _import(source: Source, *, select: str, blobs: BlobStore, max_bytes: int, what: str) -> str:
    if (index := source.open("index.json")) is not None:
        entries = _listed(_small(index, MAX_MANIFEST_BYTES, what), "manifests", what)
        entry = _chosen(entries, _names_in_layout, select, what)
        return _import_layout(source, entry, blobs=blobs, max_bytes=max_bytes, what=what)
    if (listing := source.open("manifest.json")) is not None:
        entry = _chosen(_listed(_small(listing, MAX_MANIFEST_BYTES, what), "", what), _names_in_docker, select, what)
        return _import_docker(source, entry, blobs=blobs, max_bytes=max_bytes, what=what)
    raise _bad(what, "it has neither an index.json (OCI layout) nor a manifest.json (docker save)")


def _chosen(
    entries: list[dict[str, Any]], names_of: Callable[[dict[str, Any]], set[str]], select: str, what: str
) -> dict[str, Any]:
    """The one image that is meant. Entries that are one image under several names are one."""
    found = [entry for entry in entries if not select or any(_means(name, select) for name in names_of(entry))]
    distinct = {json.dumps([entry.get("digest"), entry.get("Config"), entry.get("Layers")]): entry for entry in found}
    if len(distinct) == 1:
        return next(iter(distinct.values()))
    known = ", ".join(sorted({name for entry in entries for name in names_of(entry)}))[:300]
    if select:
        raise _bad(
            what, f"{len(distinct)} images in it are called `{select[:100]}`", next=f"it has {known or 'no names'}"
        )
    next_ = f"name one with --select: {known}" if known and entries else "export one image at a time"
    raise _bad(what, f"it holds {len(entries)} images, and one is needed", next=next_)


def _means(name: str, select: str) -> bool:
    """`web:1` finds `docker.io/library/web:1`, and `1` does."""
    return name == select or name.endswith((f"/{select}", f":{select}"))


def _names_in_layout(entry: dict[str, Any]) -> set[str]:
    annotations = entry.get("annotations")
    found = [annotations.get(key) for key in _NAME_KEYS] if isinstance(annotations, dict) else []
    return {name for name in found if isinstance(name, str)}


def _names_in_docker(entry: dict[str, Any]) -> set[str]:
    tags = entry.get("RepoTags")
    return {tag for tag in tags if isinstance(tag, str)} if isinstance(tags, list) else set()


def _import_layout(source: Source, entry: dict[str, Any], *, blobs: BlobStore, max_bytes: int, what: str) -> str:
    top = _text(entry, "digest", what)
    document: Manifest | Descriptor = Descriptor(top, 0)
    depth = 0
    while isinstance(document, Descriptor):
        _copy(source, document.digest, blobs=blobs, max_bytes=MAX_MANIFEST_BYTES, what=what)
        data = blobs.read(document.digest, max_bytes=MAX_MANIFEST_BYTES)
        document, depth = read_manifest(data, what=what, depth=depth), depth + 1
    _copy(source, document.config.digest, blobs=blobs, max_bytes=MAX_CONFIG_BYTES, what=what)
    for layer in document.layers:
        _copy(source, layer.digest, blobs=blobs, max_bytes=max_bytes, what=what)
    return top


def _import_docker(source: Source, entry: dict[str, Any], *, blobs: BlobStore, max_bytes: int, what: str) -> str:
    config_name, names = _text(entry, "Config", what), entry.get("Layers")
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise _bad(what, "its manifest.json has no list of layers")
    if len(names) > MAX_LAYERS:
        raise _bad(what, f"it has {len(names)} layers, more than {MAX_LAYERS}")
    config = _small(_member(source, config_name, what), MAX_CONFIG_BYTES, what)
    diff_ids = diff_ids_of(config, what=what)
    if len(diff_ids) != len(names):
        raise _bad(what, f"its config lists {len(diff_ids)} layers and its manifest.json {len(names)}")
    layers = []
    for name, diff_id in zip(names, diff_ids, strict=True):
        suffix = _suffix(next(_member(source, name, what), b""))
        # A compressed layer has no digest to hold it to here; unpacking will hold it to its diff_id.
        expected = "" if suffix else diff_id
        stream = _member(source, name, what)
        digest, size = blobs.put_stream(stream, expected=expected, max_bytes=max_bytes, what=f"layer {name} of {what}")
        layers.append({"mediaType": _DOCKER_LAYER + suffix, "size": size, "digest": digest})
    manifest = {
        "schemaVersion": 2,
        "mediaType": DOCKER_MANIFEST,
        "config": {"mediaType": DOCKER_CONFIG, "size": len(config), "digest": blobs.put(config)},
        "layers": layers,
    }
    return blobs.put(json.dumps(manifest, separators=(",", ":")).encode())


def _suffix(beginning: bytes) -> str:
    """How a layer is compressed, in the words of its media type."""
    return ".gzip" if beginning.startswith(GZIP_MAGIC) else ".zstd" if beginning.startswith(ZSTD_MAGIC) else ""


def _copy(source: Source, digest: str, *, blobs: BlobStore, max_bytes: int, what: str) -> None:
    if not blobs.has(digest):
        stream = _member(source, f"blobs/sha256/{digest.removeprefix('sha256:')}", what)
        blobs.put_stream(stream, expected=digest, max_bytes=max_bytes, what=f"blob {digest} of {what}")


def _member(source: Source, name: str, what: str) -> Iterator[bytes]:
    stream = source.open(name)
    if stream is None:
        raise _bad(what, f"{name[:200]} is missing in it")
    return stream


def _small(stream: Iterator[bytes], max_bytes: int, what: str) -> bytes:
    data = bytearray()
    for piece in stream:
        data += piece
        if len(data) > max_bytes:
            raise too_large(f"a document in {what}", max_bytes)
    return bytes(data)


def _listed(data: bytes, key: str, what: str) -> list[dict[str, Any]]:
    try:
        document = json.loads(data)
    except (ValueError, RecursionError):
        raise _bad(what, "its table of contents is not JSON") from None
    found = document.get(key) if key and isinstance(document, dict) else document
    if not isinstance(found, list) or not all(isinstance(item, dict) for item in found):
        raise _bad(what, "its table of contents has another form")
    return found


def _text(record: dict[str, Any], key: str, what: str) -> str:
    value = record.get(key)
    if not isinstance(value, str):
        raise _bad(what, f"its table of contents has no `{key}`")
    return value


def _decompressed(file: IO[bytes], plain: IO[bytes], *, what: str, max_bytes: int) -> IO[bytes]:
    magic = file.read(4)
    file.seek(0)
    read: Callable[[int], bytes]
    if magic.startswith(GZIP_MAGIC):
        read = open_gzip(file).read
    elif magic == ZSTD_MAGIC:
        read = open_zstd(file).read
    else:
        return file
    size = 0
    while piece := read(CHUNK):
        size += len(piece)
        if size > max_bytes:
            raise too_large(what, max_bytes)
        plain.write(piece)
    plain.seek(0)
    return plain


def _pieces(file: IO[bytes]) -> Iterator[bytes]:
    with file:
        while piece := file.read(CHUNK):
            yield piece


def _bad(what: str, why: str, *, next: str = "") -> InvalidArgument:
    return InvalidArgument(
        f"archive {what} cannot be imported",
        why=why,
        next=next or "give an OCI layout, or the output of `docker save` for one image",
        status="archive_invalid",
    )
