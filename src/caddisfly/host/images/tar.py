"""A strict, streaming tar reader for layers that somebody hostile may have made.

The standard library's reader is forgiving where we must not be: it takes a broken header for the end of the archive,
and it reads extension records of any size into memory. This one accepts what image builders write (ustar, pax, GNU
long names) and refuses the rest by name. It decides nothing about the file system: that is `extract`.

Sparse entries are refused. No image builder writes them, and their point, a small archive that claims a huge file, is
exactly what a limit on bytes cannot see.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

BLOCK = 512
CHUNK = 1 << 20
MAX_EXTENSION_BYTES = 1 << 20
MAX_PATH_BYTES = 4096
_MAX_SECONDS = 1 << 33

REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = frozenset({REGULAR, HARD_LINK, SYMLINK, CHARACTER, BLOCK_DEVICE, DIRECTORY, FIFO})
_XATTR = b"SCHILY.xattr."


class BadArchive(Exception):
    """The archive is broken, or asks for something that no layer may have."""


@dataclass(slots=True)
class Entry:
    """One file, directory or link, as the archive describes it."""

    name: bytes
    kind: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime_ns: int
    target: bytes
    xattrs: dict[bytes, bytes] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The name for an error message: printable and short."""
        return ascii(self.name[:200].decode("utf-8", "backslashreplace"))


class TarReader:
    """Iterate over the entries; between two steps, `chunks()` reads the data of the present one."""

    def __init__(self, read: Callable[[int], bytes], *, skip: Callable[[int], None] | None = None) -> None:
        self._read = read
        self._skip = skip or self._skip_by_reading
        self._left = 0
        self._padding = 0

    def __iter__(self) -> Iterator[Entry]:
        pax: dict[bytes, bytes] = {}
        long_name = long_target = b""
        while (header := self._header()) is not None:
            kind = header[156:157]
            size = _number(header[124:136], "size")
            if kind in (b"x", b"g", b"L", b"K"):
                if size > MAX_EXTENSION_BYTES:
                    raise BadArchive(f"an extension header of {size} bytes, over the limit of {MAX_EXTENSION_BYTES}")
                body = self._exact(size)
                self._exact(-size % BLOCK)
                if kind == b"x":
                    pax.update(_pax_records(body))
                elif kind == b"L":
                    long_name = body.split(b"\0", 1)[0]
                elif kind == b"K":
                    long_target = body.split(b"\0", 1)[0]
                continue
            entry = _entry(header, kind, size, pax, long_name, long_target)
            pax, long_name, long_target = {}, b"", b""
            self._left, self._padding = entry.size, -entry.size % BLOCK
            yield entry
            if self._left + self._padding:
                self._skip(self._left + self._padding)

    def chunks(self) -> Iterator[bytes]:
        """The data of the present entry."""
        while self._left:
            piece = self._read(min(self._left, CHUNK))
            if not piece:
                raise BadArchive("it ends in the middle of a file")
            self._left -= len(piece)
            yield piece

    def _header(self) -> bytes | None:
        header = self._read(BLOCK)
        if not header:
            return None
        if len(header) < BLOCK:
            raise BadArchive("it ends in the middle of a header")
        if header.count(0) == BLOCK:
            if self._read(BLOCK).strip(b"\0"):
                raise BadArchive("data after an end mark")
            return None
        expected = _number(header[148:156], "checksum")
        if sum(header) - sum(header[148:156]) + 8 * 0x20 != expected:
            raise BadArchive("a header whose checksum is wrong")
        return header

    def _exact(self, size: int) -> bytes:
        data = self._read(size) if size else b""
        if len(data) < size:
            raise BadArchive("it ends in the middle of a header")
        return data

    def _skip_by_reading(self, size: int) -> None:
        while size:
            piece = self._read(min(size, CHUNK))
            if not piece:
                raise BadArchive("it ends in the middle of a file")
            size -= len(piece)


def _entry(
    header: bytes, kind: bytes, size: int, pax: dict[bytes, bytes], long_name: bytes, long_target: bytes
) -> Entry:
    name = header[:100].split(b"\0", 1)[0]
    if header[257:263] == b"ustar\0" and (prefix := header[345:500].split(b"\0", 1)[0]):
        name = prefix + b"/" + name
    entry = Entry(
        name=pax.get(b"path") or long_name or name,
        kind=kind,
        mode=_number(header[100:108], "mode") & 0o7777,
        uid=_decimal(pax, b"uid", _number(header[108:116], "uid")),
        gid=_decimal(pax, b"gid", _number(header[116:124], "gid")),
        size=_decimal(pax, b"size", size),
        mtime_ns=_time_ns(pax[b"mtime"]) if pax.get(b"mtime") else _number(header[136:148], "mtime") * 10**9,
        target=pax.get(b"linkpath") or long_target or header[157:257].split(b"\0", 1)[0],
    )
    if kind == b"S" or any(key.startswith(b"GNU.sparse.") for key in pax):
        raise BadArchive(f"{entry.shown} is a sparse file")
    if kind in (b"\0", b"7"):
        entry.kind = DIRECTORY if kind == b"\0" and entry.name.endswith(b"/") else REGULAR
    elif kind not in _KINDS:
        raise BadArchive(f"{entry.shown} has the unknown type {kind!r}")
    if entry.kind != REGULAR:
        entry.size = 0
    if b"\0" in entry.name or b"\0" in entry.target:
        raise BadArchive(f"{entry.shown} has a zero byte in its name")
    if not (0 <= entry.uid < 2**32 - 1 and 0 <= entry.gid < 2**32 - 1 and entry.size >= 0):
        raise BadArchive(f"{entry.shown} has an owner or a size that cannot be")
    entry.mtime_ns = max(0, min(entry.mtime_ns, _MAX_SECONDS * 10**9))
    if pax:
        entry.xattrs = {key[len(_XATTR) :]: value for key, value in pax.items() if key.startswith(_XATTR)}
    return entry


def _number(field_: bytes, what: str) -> int:
    if field_[0] & 0x80:  # GNU's base-256, for numbers that octal digits cannot hold
        value = int.from_bytes(field_, "big", signed=False) & ((1 << (8 * len(field_) - 1)) - 1)
        return value - (1 << (8 * len(field_) - 1)) if field_[0] & 0x40 else value
    digits = field_.strip(b"\0 ")
    if not digits:
        return 0
    if digits.strip(b"01234567"):
        raise BadArchive(f"a header whose {what} is not a number")
    return int(digits, 8)


def _decimal(pax: dict[bytes, bytes], key: bytes, default: int) -> int:
    text = pax.get(key)
    if not text:
        return default
    if not text.isdigit() or len(text) > 19:
        raise BadArchive(f"an extension header whose {key.decode()} is not a number")
    return int(text)


def _time_ns(text: bytes) -> int:
    seconds, _, fraction = text.partition(b".")
    if not seconds.lstrip(b"-").isdigit() or len(seconds) > 19 or (fraction and not fraction.isdigit()):
        raise BadArchive("an extension header whose mtime is not a number")
    return int(seconds) * 10**9 + int((fraction + b"000000000")[:9])


def _pax_records(body: bytes) -> dict[bytes, bytes]:
    records: dict[bytes, bytes] = {}
    position = 0
    while position < len(body):
        digits, space, _ = body[position : position + 8].partition(b" ")
        if not space or not digits.isdigit():
            raise BadArchive("an extension header that cannot be read")
        end = position + int(digits)
        record = body[position + len(digits) + 1 : end]
        key, equals, value = record[:-1].partition(b"=")
        if end > len(body) or not equals or record[-1:] != b"\n":
            raise BadArchive("an extension header that cannot be read")
        records[key] = value
        position = end
    return records
