"""Two programs of a few instructions each, for what no tool of the distribution does. The guest has no compiler.

    reseed      makes the kernel draw new keys for all its random numbers from what was last written to /dev/urandom,
                which is its standard input. Without it, a clone would go on for a while with its template's keys.
    standstill  lets the VMM know that the guest can be written down, and stands still until it goes on. Only QEMU's
                pvpanic does that, and only on x86_64.

Each ends with the number of the error as its exit code.
"""

from __future__ import annotations

import platform
import struct

PANIC_PORT = 0x505
"""Of QEMU's pvpanic, whose first bit means a panic: with `-action panic=pause` QEMU then stops the guest."""

_X86_RESEED = """
    b810000000    mov eax, 16        ioctl
    31ff          xor edi, edi       standard input
    be07520000    mov esi, 0x5207    RNDRESEEDCRNG
    31d2          xor edx, edx
    0f05          syscall
    89c7          mov edi, eax
    f7df          neg edi
    b83c000000    mov eax, 60        exit
    0f05          syscall
"""
_X86_STANDSTILL = """
    b8ad000000    mov eax, 173       ioperm
    bf05050000    mov edi, 0x505
    be01000000    mov esi, 1
    ba01000000    mov edx, 1
    0f05          syscall
    85c0          test eax, eax
    7509          jnz exit
    66ba0505      mov dx, 0x505
    b001          mov al, 1
    ee            out dx, al         here it stands
    31c0          xor eax, eax
    89c7          exit: mov edi, eax
    f7df          neg edi
    b83c000000    mov eax, 60        exit
    0f05          syscall
"""
_ARM_RESEED = """
    000080d2      mov x0, 0          standard input
    e1408ad2      mov x1, 0x5207     RNDRESEEDCRNG
    020080d2      mov x2, 0
    a80380d2      mov x8, 29         ioctl
    010000d4      svc 0
    e00300cb      neg x0, x0
    a80b80d2      mov x8, 93         exit
    010000d4      svc 0
"""
_MACHINES = {"x86_64": 62, "aarch64": 183}
_PROGRAMS = {"x86_64": {"reseed": _X86_RESEED, "standstill": _X86_STANDSTILL}, "aarch64": {"reseed": _ARM_RESEED}}
_BASE, _HEAD, _SEGMENT = 0x400000, 64, 56
_READ, _EXECUTE = 4, 1
_ALIGN = 0x10000


def programs(architecture: str = "") -> dict[str, bytes]:
    """Names and ELF files, for this computer's architecture if none is named."""
    architecture = architecture or platform.machine()
    return {
        name: _elf(_MACHINES[architecture], _code(listing)) for name, listing in _PROGRAMS.get(architecture, {}).items()
    }


def _code(listing: str) -> bytes:
    return b"".join(bytes.fromhex(line.split()[0]) for line in listing.strip().splitlines())


def _elf(machine: int, code: bytes) -> bytes:
    """One segment, which begins with the headers."""
    start = _HEAD + _SEGMENT
    size = start + len(code)
    identity = b"\x7fELF\x02\x01\x01" + bytes(9)
    head = struct.pack("<HHIQQQIHHHHHH", 2, machine, 1, _BASE + start, _HEAD, 0, 0, _HEAD, _SEGMENT, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, _READ | _EXECUTE, 0, _BASE, _BASE, size, size, _ALIGN)
    return identity + head + segment + code
