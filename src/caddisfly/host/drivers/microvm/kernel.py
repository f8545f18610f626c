"""The guest's kernel: the distribution's own, for clouds, as it comes in its package.

The package is only unpacked, never installed: this host does not boot it. Where a package names no form that a VMM can
start, it is brought into it: on x86_64 the `vmlinux` inside a bzImage, whose PVH note lets it start without a BIOS and
without unpacking itself, which is 0.6 s of a boot without KVM.
"""

from __future__ import annotations

import gzip
import lzma
import re
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

import zstandard

from caddisfly.model.errors import FailedPrecondition

GUEST = Path("/usr/lib/caddisfly/guest")
"""Where `scripts/setup` unpacks the packages that only guests use."""

_BOOT_FLAG, _HEADER = b"\x55\xaa", b"HdrS"
_ELF = b"\x7fELF"
_ARM_IMAGE = b"ARM\x64"
_LZ4 = b"\x02\x21\x4c\x18"
_VERSION = re.compile(r"\d+")
_UNPACK_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class Kernel:
    """One kernel package, unpacked."""

    release: str
    image: Path
    modules: Path

    @classmethod
    def find(cls, guest: Path = GUEST) -> Kernel:
        """The newest there is. Raises `FailedPrecondition` when there is none."""
        found = [
            cls(release, image, modules)
            for image in (guest / "boot").glob("vmlinuz-*")
            if (modules := guest / "lib" / "modules" / (release := image.name.removeprefix("vmlinuz-"))).is_dir()
        ]
        if not found:
            raise FailedPrecondition("no kernel for microVMs is here", why=f"none in {guest}", next="scripts/setup")
        return max(found, key=lambda one: [int(number) for number in _VERSION.findall(one.release)])


def startable(image: bytes) -> bytes:
    """The kernel in the form that a VMM starts. Raises `FailedPrecondition` when it cannot be made of this."""
    if image[:2] == b"\x1f\x8b":
        image = gzip.decompress(image)
    if image[:4] == _ELF or image[56:60] == _ARM_IMAGE:
        return image
    if image[510:512] != _BOOT_FLAG or image[514:518] != _HEADER:
        raise FailedPrecondition("the kernel for microVMs cannot be started", why="it is of no known form")
    setup = (image[0x1F1] or 4) + 1
    offset, length = struct.unpack_from("<II", image, 0x248)
    payload = image[setup * 512 + offset :][:length]
    unpacked = _unpack(payload)
    if unpacked[:4] != _ELF:
        raise FailedPrecondition("the kernel for microVMs cannot be started", why="no ELF file is in it")
    return unpacked


def _unpack(payload: bytes) -> bytes:
    if payload[:4] == _LZ4:
        # The last four bytes say how long the result is, and are no part of the stream.
        done = subprocess.run(
            ["lz4", "-dc"], input=payload[:-4], capture_output=True, check=False, timeout=_UNPACK_TIMEOUT_S
        )
        return done.stdout
    if payload[:2] == b"\x1f\x8b":
        return gzip.decompress(payload)
    if payload[:4] == b"\x28\xb5\x2f\xfd":
        return zstandard.ZstdDecompressor().decompressobj().decompress(payload)
    if payload[:6] == b"\xfd7zXZ\0":
        return lzma.LZMADecompressor().decompress(payload)
    raise FailedPrecondition("the kernel for microVMs cannot be unpacked", why=f"it begins with {payload[:6].hex()}")
