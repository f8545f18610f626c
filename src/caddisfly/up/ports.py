"""TCP ports that the platform needs: whether they are free, and if not, who has them."""

from __future__ import annotations

import errno
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from caddisfly.model.errors import FailedPrecondition

_LISTEN = "0A"


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """An address that a part will listen on. `setting` is what to change when it is taken."""

    host: str
    port: int
    part: str
    setting: str


def check(needs: list[Need]) -> None:
    """Raises `FailedPrecondition` naming port, holder and setting for the first that is taken."""
    for need in needs:
        reason = refusal(need)
        if reason is None:
            continue
        holder = holder_of(need.port)
        raise FailedPrecondition(
            f"port {need.port} on {need.host} is not free, {need.part} needs it",
            why=f"{holder} listens there" if holder else reason,
            next=f"stop that, or choose another port with {need.setting} (`caddis settings` tells how)",
        )


def refusal(need: Need) -> str | None:
    """Why this address cannot be listened on. IPv6 that is not there at all is no refusal: nobody will listen on it."""
    family = socket.AF_INET6 if ":" in need.host else socket.AF_INET
    try:
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family is socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            probe.bind((need.host, need.port))
            probe.listen(1)
    except OSError as error:
        if family is socket.AF_INET6 and error.errno in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
            return None
        if error.errno == errno.EADDRNOTAVAIL:
            return f"{need.host} is no address of this computer"
        return error.strerror or str(error)
    return None


def holder_of(port: int) -> str:
    """`name (pid n)` of a process that listens on this port, empty when it cannot be found."""
    inodes = set()
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        try:
            rows = Path(table).read_text().splitlines()[1:]
        except OSError:
            continue
        for row in rows:
            fields = row.split()
            if fields[3] == _LISTEN and int(fields[1].rpartition(":")[2], 16) == port:
                inodes.add(f"socket:[{fields[9]}]")
    if not inodes:
        return ""
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and _holds(process, inodes):
            return f"{(process / 'comm').read_text().strip()} (pid {process.name})"
    return ""


def _holds(process: Path, inodes: set[str]) -> bool:
    try:
        return any(os.readlink(descriptor) in inodes for descriptor in (process / "fd").iterdir())
    except OSError:  # it ended, or is not ours to look into
        return False


def split(address: str) -> tuple[str, int]:
    """`127.0.0.1:80` or `[::1]:80` in two."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)
