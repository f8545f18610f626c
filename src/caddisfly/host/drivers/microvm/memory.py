"""What a suspended microVM had in memory, in one compressed file, `memory.zst`: the VMM's own stream.

The stream is compressed on its way: zstd's fastest makes a third of it, and the disk is what takes time. The programs
that do it are processes of their own, as the VMM is: an agent that dies leaves them to their end.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import struct
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from caddisfly.host.drivers.driver import Unusable
from caddisfly.host.drivers.microvm.vmm import Vmm
from caddisfly.model.errors import Unavailable

FILE = "memory.zst"
_TIMEOUT_S = 300.0


async def save(vmm: Vmm, machine: Path, directory: Path) -> None:
    """Write it, with the guest standing still from then on. Raises `Unavailable`, and it still stands still."""
    target = directory / FILE
    target.unlink(missing_ok=True)
    reader, writer = os.pipe()
    try:
        packing = await asyncio.create_subprocess_exec(
            "zstd", "-q", "-1", "-T0", "-o", str(target), stdin=reader, stderr=asyncio.subprocess.PIPE
        )
    except FileNotFoundError as error:
        os.close(writer)
        raise Unavailable("zstd is not installed", next="apt-get install zstd") from error
    finally:
        os.close(reader)
    try:
        await vmm.save(machine, writer)
    finally:
        os.close(writer)
        try:
            async with asyncio.timeout(_TIMEOUT_S):
                _, said = await packing.communicate()
        except TimeoutError as error:
            packing.kill()
            raise Unavailable("the memory of the microVM cannot be written", why="its disk is too slow") from error
    if packing.returncode:
        why = said.decode(errors="replace").strip()[-300:]
        raise Unavailable("the memory of the microVM cannot be written", why=why)
    target.chmod(0o600)


@asynccontextmanager
async def opened(directory: Path) -> AsyncIterator[Path]:
    """Where the stream can be read, once. Raises `Unusable` when there is none."""
    if not (directory / FILE).exists():
        raise Unusable("its memory is gone", why=f"there is no {FILE}")
    reader, writer = os.pipe()
    with os.fdopen(reader, "rb", buffering=0) as stream:
        try:
            unpacking = await asyncio.create_subprocess_exec(
                "zstd", "-q", "-d", "-c", str(directory / FILE), stdout=writer, stderr=asyncio.subprocess.DEVNULL
            )
        except FileNotFoundError as error:
            raise Unavailable("zstd is not installed", next="apt-get install zstd") from error
        finally:
            os.close(writer)
        try:
            # QEMU 7.2 never notices the end of a stream that did not begin.
            if not await _begins(reader):
                raise Unusable("its memory cannot be unpacked", why="zstd takes it for no file of its own")
            yield Path(f"/proc/self/fd/{reader}")
        finally:
            stream.close()  # or what unpacks would wait for somebody to read on
            await unpacking.wait()


async def _begins(pipe: int) -> bool:
    """Whether anything comes."""
    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(pipe, ready.set)
    try:
        async with asyncio.timeout(_TIMEOUT_S):
            await ready.wait()
    finally:
        loop.remove_reader(pipe)
    (count,) = struct.unpack("i", fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)))
    return bool(count)
