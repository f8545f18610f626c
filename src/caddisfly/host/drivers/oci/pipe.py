"""One end of a pipe or of a terminal. Nothing is read ahead, and nothing is written that there is no room for."""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Callable

CHUNK = 32 * 1024


class End:
    """Owns the descriptor. One may read and one may write at a time."""

    def __init__(self, descriptor: int) -> None:
        os.set_blocking(descriptor, False)
        self.descriptor = descriptor
        self._open = True

    async def read(self) -> bytes:
        """What there is, once there is something. Empty at the end."""
        loop = asyncio.get_running_loop()
        while self._open:
            try:
                return os.read(self.descriptor, CHUNK)
            except BlockingIOError:
                await _ready(self.descriptor, loop.add_reader, loop.remove_reader)
            except OSError as error:
                if error.errno == errno.EIO:  # how a terminal says that its other end is closed
                    break
                raise
        return b""

    async def write(self, data: bytes) -> None:
        """Returns once all of it is written, or nobody is there any more to read it."""
        loop = asyncio.get_running_loop()
        rest = memoryview(data)
        while rest and self._open:
            try:
                rest = rest[os.write(self.descriptor, rest) :]
            except BlockingIOError:
                await _ready(self.descriptor, loop.add_writer, loop.remove_writer)
            except OSError as error:
                if error.errno in (errno.EPIPE, errno.EIO):
                    return
                raise

    def close(self) -> None:
        if self._open:
            self._open = False
            os.close(self.descriptor)


async def _ready(descriptor: int, watch: Callable[..., None], unwatch: Callable[[int], bool]) -> None:
    ready = asyncio.Event()
    watch(descriptor, ready.set)
    try:
        await ready.wait()
    finally:
        unwatch(descriptor)
