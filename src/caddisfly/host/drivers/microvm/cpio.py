"""The archive that a kernel unpacks as its first root: cpio, "newc" flavour.

Written here because it is twenty lines, because device nodes in it need no rights this way, and because the same input
gives the same bytes.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field

_MAGIC = b"070701"
_END = "TRAILER!!!"


@dataclass(slots=True)
class Archive:
    """Entries go in in the order in which they are to appear: directories before what is in them."""

    _parts: list[bytes] = field(default_factory=list)
    _count: int = 0

    def directory(self, path: str, mode: int = 0o755) -> None:
        self._add(path, stat.S_IFDIR | mode, b"")

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        self._add(path, stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """A symbolic link."""
        self._add(path, stat.S_IFLNK | 0o777, target.encode())

    def character_device(self, path: str, major: int, minor: int, mode: int = 0o600) -> None:
        self._add(path, stat.S_IFCHR | mode, b"", (major, minor))

    def packed(self) -> bytes:
        """The archive so far, closed."""
        return b"".join((*self._parts, self._entry(_END, 0, b"", (0, 0), number=0)))

    def _add(self, path: str, mode: int, content: bytes, device: tuple[int, int] = (0, 0)) -> None:
        self._count += 1
        self._parts.append(self._entry(path, mode, content, device, number=self._count))

    def _entry(self, path: str, mode: int, content: bytes, device: tuple[int, int], *, number: int) -> bytes:
        name = path.lstrip("/").encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(name), 0)
        head = _MAGIC + b"".join(b"%08X" % value for value in fields) + name
        return _padded(head) + _padded(content)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 4)
