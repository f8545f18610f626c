"""What runs inside a Machine, read from /proc of the host (reference machines-api, M13).

No program has to exist in the image for it, and none is started. Numbers are those of the Machine's own PID namespace.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_TABLES = (("tcp", "tcp", "0A"), ("tcp6", "tcp", "0A"), ("udp", "udp", "07"), ("udp6", "udp", "07"))
"""File below /proc/<pid>/net, protocol, and the state in which a socket waits for others."""
_COMMAND_MAX = 4096


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """`stime_ms` is processor time used, `age_ms` time since it began, `cpu` their ratio in percent, `rss` bytes."""

    pid: int
    command: str
    directory: str
    stime_ms: int
    age_ms: int
    rss: int
    listens: tuple[tuple[str, str], ...] = field(default=())

    def to_wire(self) -> dict[str, Any]:
        return {
            "pid": self.pid,
            "stime": self.stime_ms,
            "rtime": self.age_ms,
            "command": self.command,
            "directory": self.directory,
            "cpu": 100 * self.stime_ms // max(1, self.age_ms),
            "rss": self.rss,
            "listen_sockets": [{"proto": proto, "address": address} for proto, address in self.listens],
        }


def look(pids: Iterable[int], proc: Path = Path("/proc")) -> list[Process]:
    """Describe the processes with these numbers of the host, by their inner number. Those that end are left out."""
    uptime_ms = int(float((proc / "uptime").read_text().split()[0]) * 1000)
    found = []
    sockets: dict[str, dict[int, tuple[str, str]]] = {}
    for pid in pids:
        try:
            found.append(_look(proc / str(pid), uptime_ms, sockets))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found, key=lambda process: process.pid)


def _look(home: Path, uptime_ms: int, sockets: dict[str, dict[int, tuple[str, str]]]) -> Process:
    # A command may hold blanks and parentheses: what follows the last one is what counts.
    fields = (home / "stat").read_text().rpartition(")")[2].split()
    status = (home / "status").read_text()
    namespace = os.readlink(home / "ns" / "net")
    if namespace not in sockets:
        sockets[namespace] = _listening(home)
    command = (home / "cmdline").read_bytes()[:_COMMAND_MAX].rstrip(b"\0").replace(b"\0", b" ")
    return Process(
        pid=_inner(status),
        command=command.decode(errors="replace") or _member(status, "Name"),
        directory=os.readlink(home / "cwd"),
        stime_ms=(int(fields[11]) + int(fields[12])) * _TICK_MS,
        age_ms=max(0, uptime_ms - int(fields[19]) * _TICK_MS),
        rss=int((home / "statm").read_text().split()[1]) * _PAGE,
        listens=_own(home, sockets[namespace]),
    )


def _inner(status: str) -> int:
    return int(_member(status, "NSpid").split()[-1])


def _member(status: str, name: str) -> str:
    return next((line.partition(":")[2].strip() for line in status.splitlines() if line.startswith(f"{name}:")), "")


def _own(home: Path, listening: dict[int, tuple[str, str]]) -> tuple[tuple[str, str], ...]:
    """Which of the namespace's listening sockets this process has open."""
    found = set()
    for entry in (home / "fd").iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith("socket:[") and (where := listening.get(int(target[8:-1]))):
            found.add(where)
    return tuple(sorted(found))


def _listening(home: Path) -> dict[int, tuple[str, str]]:
    """By inode. Protocol and address of every socket of this network namespace that waits for others."""
    found = {}
    for name, proto, waiting in _TABLES:
        path = home / "net" / name
        if not path.exists():  # a kernel without IPv6
            continue
        for line in path.read_text().splitlines()[1:]:
            words = line.split()
            if words[3] == waiting:
                found[int(words[9])] = (proto, _address(words[1]))
    return found


def _address(text: str) -> str:
    host, _, port = text.partition(":")
    # The kernel prints the address as machine words, in the order of this computer.
    raw = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    shown = socket.inet_ntoa(raw) if len(raw) == 4 else f"[{IPv6Address(raw)}]"
    return f"{shown}:{int(port, 16)}"
