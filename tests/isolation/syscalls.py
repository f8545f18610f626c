"""Programs of a few system calls, written byte by byte, so that no compiler is needed and no C library stands between.

A program makes its calls one after the other and ends with the result of the last one as its exit code: the number
itself, or 256 minus the error's number.
"""

from __future__ import annotations

import errno
import struct

_BASE = 0x400000
_HEADERS = 64 + 56
_REGISTERS = (b"\x48\xbf", b"\x48\xbe", b"\x48\xba", b"\x49\xba", b"\x49\xb8", b"\x49\xb9")  # mov rdi, rsi, rdx, …
_SYSCALL, _INT80 = b"\x0f\x05", b"\xcd\x80"
_END = b"\x89\xc7\xb8\x3c\x00\x00\x00\x0f\x05"  # mov edi, eax; mov eax, SYS_exit; syscall

Argument = int | str
Call = tuple[int, *tuple[Argument, ...]]


def program(*calls: Call, ancient: bool = False) -> bytes:
    """A static executable for x86-64. `ancient` makes the calls as a 32-bit program would, through `int 0x80`."""
    words = {text for _, *arguments in calls for text in arguments if isinstance(text, str)}
    texts = sorted(words)
    data = b"".join(text.encode() + b"\0" for text in texts) + bytes(256)
    code_size = len(_code(calls, dict.fromkeys(texts, 0), ancient))
    addresses, at = {}, _BASE + _HEADERS + code_size
    for text in texts:
        addresses[text] = at
        at += len(text.encode()) + 1
    body = _code(calls, addresses, ancient) + data
    size = _HEADERS + len(body)
    ident = b"\x7fELF\x02\x01\x01" + bytes(9)
    header = ident + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, _BASE + _HEADERS, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    segment = struct.pack("<IIQQQQQQ", 1, 7, 0, _BASE, _BASE, size, size, 0x1000)
    return header + segment + body


def _code(calls: tuple[Call, ...], addresses: dict[str, int], ancient: bool) -> bytes:
    code = b""
    for number, *arguments in calls:
        for move, argument in zip(_REGISTERS, arguments, strict=False):
            value = addresses[argument] if isinstance(argument, str) else argument
            code += move + struct.pack("<Q", value & 0xFFFFFFFFFFFFFFFF)
        code += b"\xb8" + struct.pack("<I", number) + (_INT80 if ancient else _SYSCALL)
    return code + _END


def outcome(code: int) -> str:
    """What an exit code of such a program says: an error's name, `killed`, or the number."""
    if code > 256 - 134:
        return errno.errorcode.get(256 - code, str(code))
    return str(code)
