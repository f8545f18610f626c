"""How a microVM ended, by all who saw it: its guest, its VMM's holder, who killed it, and its kernel's last words."""

from __future__ import annotations

import os
import re
from pathlib import Path

from caddisfly.host.drivers.microvm import status
from caddisfly.host.drivers.oci.conmon import Shim
from caddisfly.model.machine import Exit, wall_ms

_TAIL = 64 * 1024
_PANIC = re.compile(r"Kernel panic - not syncing: ([^\n]{1,200})")


def said(shim: Shim) -> bool:
    """Whether anybody knows already how it ended."""
    return (shim.directory / "killed").exists() or status.read(shim.directory / "status").exit_code is not None


def exit_of(shim: Shim) -> Exit:
    """Of one whose VMM is gone."""
    code = shim.exit_code()
    at_ms = int(shim.exit_file.stat().st_mtime * 1000) if code is not None else wall_ms()
    told = status.read(shim.directory / "status")
    if told.exit_code is not None:
        number = told.exit_code - 128 if 128 < told.exit_code <= 192 else -1
        return Exit(exit_code=told.exit_code, signal=number, oom_killed=told.oom, at_ms=at_ms)
    if (shim.directory / "killed").exists():
        error = "" if code is not None else "the supervisor of its sandbox was killed"
        return Exit(exit_code=137, signal=9, error=error, at_ms=at_ms)
    if code is None:
        return Exit(exit_code=137, signal=9, error="the supervisor of its sandbox was killed", at_ms=at_ms)
    if words := panic(shim.directory):
        return Exit(exit_code=-1, error=words, at_ms=at_ms)
    if code > 128:
        why = f"its virtual machine was ended by signal {code - 128}"
        return Exit(exit_code=code, signal=code - 128, error=why, at_ms=at_ms)
    return Exit(exit_code=-1, error="its virtual machine ended before its program did", at_ms=at_ms)


def panic(directory: Path) -> str:
    """What the guest's kernel said when it gave up. Its words are in the Machine's log, among the program's."""
    try:
        began, _, path = (directory / "log").read_text().partition(" ")
        with Path(path).open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            file.seek(max(int(began) if int(began) <= size else 0, size - _TAIL))
            return panic_in(file.read(_TAIL))
    except FileNotFoundError:
        return ""


def panic_in(log: bytes) -> str:
    """The same, in what conmon wrote.

    A serial line comes in pieces of a few characters, each a line of the log that says it is not the end of one.
    """
    streams: dict[bytes, list[str]] = {}
    for line in log.splitlines():
        words = line.split(b" ", 3)
        if len(words) == 4:
            _, stream, tag, text = words
            streams.setdefault(stream, []).append(text.decode(errors="replace") + ("" if tag == b"P" else "\n"))
    for pieces in streams.values():
        if match := _PANIC.search("".join(pieces)):
            return f"kernel panic: {match[1].strip()}"
    return ""
