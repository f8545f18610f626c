"""A Firecracker snapshot in one file.

Firecracker writes two, the guest's memory and everything else, and wants both back as files of their own. Memory comes
first, so that it begins where a block does: on file systems that share blocks, neither way copies anything.

    memory   state   "caddisfc", size of the memory, size of the state
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition

_END = struct.Struct("<8sQQ")
_MAGIC = b"caddisfc"


def pack(target: int, *, state: Path, memory: Path) -> None:
    """Write both into an open file. Blocks."""
    sizes = [_append(path, target) for path in (memory, state)]
    os.write(target, _END.pack(_MAGIC, *sizes))


def unpack(source: Path, *, state: Path, memory: Path) -> None:
    """Raises `FailedPrecondition` for a file that is not whole. Blocks."""
    with source.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - _END.size))
        end = file.read(_END.size)
        magic, memory_size, state_size = _END.unpack(end) if len(end) == _END.size else (b"", 0, 0)
        if magic != _MAGIC or memory_size + state_size + _END.size != size:
            raise FailedPrecondition("the machine's saved state cannot be read", why="it is not whole")
        for path, offset, length in ((memory, 0, memory_size), (state, memory_size, state_size)):
            with path.open("wb") as out:
                _copy(file.fileno(), out.fileno(), offset, length)


def _append(path: Path, target: int) -> int:
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        _copy(file.fileno(), target, 0, size)
    return size


def _copy(source: int, target: int, offset: int, length: int) -> None:
    end = offset + length
    while offset < end:
        copied = os.copy_file_range(source, target, end - offset, offset)
        if not copied:
            raise FailedPrecondition("the machine's saved state cannot be read", why="it has become shorter")
        offset += copied
