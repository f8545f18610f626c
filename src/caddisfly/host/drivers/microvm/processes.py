"""A guest's processes. Its kernel knows them; a script of ours (`guest/ps`) prints what that says, and is sent to a
shell of ours in the guest each time, so that it and what reads it here are of one version.

What comes back is the guest's word. It is bounded, what makes no sense is left out, and at most a Machine lies about
itself.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from importlib.resources import files

from caddisfly.host.drivers.microvm.exec import Entrance
from caddisfly.host.processes import Process, Traces, describe, listening, uptime_ms

_ROOT = "/newroot"
_PAGE = 4096
"""Of the distribution's kernels, on both architectures."""
_TIMEOUT_S = 20.0
_SOCKET = re.compile(rb" socket:\[(\d{1,18})\]$", re.MULTILINE)


async def look(entrance: Entrance) -> list[Process]:
    """Those of the Machine, by their number. Raises `Unavailable` when its guest does not say."""
    token = secrets.token_hex(8)
    script = (files(__package__) / "guest" / "ps").read_bytes()
    said = await entrance.ask(f"exec /bin/sh -s {token} 2>/dev/null", script, timeout_s=_TIMEOUT_S)
    return read(said, token)


def read(said: bytes, token: str) -> list[Process]:
    """What `ps TOKEN` has printed."""
    parts = dict(_pieces(said, rb"\n?==> /run/%s/(\S{1,40}) <==\n" % token.encode()))
    tables = {name: parts.get(f"net/{name}", b"").decode(errors="replace") for name in ("tcp", "tcp6", "udp", "udp6")}
    directories = dict(_pieces(parts.get("cwd", b""), rb"'/run/%s/(\d{1,9})/cwd' -> '" % token.encode()))
    sockets = dict(_pieces(parts.get("fd", b""), rb"^/run/%s/(\d{1,9})/fd:\n" % token.encode()))
    found, waiting = [], listening(tables)
    for name, content in parts.items():
        pid, _, kind = name.partition("/")
        if kind != "stat" or not pid.isdecimal():
            continue
        traces = Traces(
            pid=int(pid[:9]),
            stat=content.decode(errors="replace"),
            command=parts.get(f"{pid}/cmdline", b""),
            directory=_inside(directories.get(pid, b"")),
            inodes=[int(inode) for inode in _SOCKET.findall(sockets.get(pid, b""))],
        )
        try:
            now_ms = uptime_ms(parts["uptime"].decode())
            found.append(describe(traces, uptime_ms=now_ms, listening=waiting, page=_PAGE))
        except (KeyError, ValueError, IndexError, OverflowError):
            continue  # it ended meanwhile, or its kernel is not one
    return sorted(found, key=lambda process: process.pid)


def _pieces(said: bytes, heading: bytes) -> Iterator[tuple[str, bytes]]:
    """What stands below each heading, by what that names."""
    pieces = re.split(heading, said, flags=re.MULTILINE)
    for name, content in zip(pieces[1::2], pieces[2::2], strict=True):
        yield name.decode(errors="replace"), content


def _inside(quoted: bytes) -> str:
    """A directory as the Machine's programs know it."""
    path = quoted.rstrip(b"\n").removesuffix(b"'").decode(errors="replace")
    return path.removeprefix(_ROOT) or "/" if path else ""
