"""What runs inside a Machine, read from a kernel's /proc (reference machines-api, M13).

No program has to exist in the image for it. Numbers are those that the Machine's own programs see. `look` reads the
host's /proc; a driver whose sandboxes have kernels of their own gathers `Traces` there, and `describe` makes the same
of them. Those may be lies, so a number has a bound, and what is no number is a `ValueError`.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address
from pathlib import Path
from typing import Any

_TICK_MS = 1000 // os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")
_WAITING = {"tcp": "0A", "tcp6": "0A", "udp": "07", "udp6": "07"}
"""Files below /proc/<pid>/net, and the state in which their sockets wait for others."""
_COMMAND_MAX = 4096
_MOST = (1 << 53) - 1
"""What every reader of JSON can still tell from the next number."""

Listening = Mapping[int, tuple[str, str]]
"""By inode: protocol and address of sockets that wait for others."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class Traces:
    """What a kernel says of one process, in its own words. `inodes` are those of the sockets that it has open."""

    pid: int
    stat: str
    command: bytes
    directory: str
    inodes: Iterable[int]


def describe(traces: Traces, *, uptime_ms: int, listening: Listening, page: int = _PAGE) -> Process:
    """`page` is the size of that kernel's pages. Raises `ValueError` and `IndexError` of what no kernel said."""
    # A name may hold blanks and parentheses: it ends with the last one.
    head, _, tail = traces.stat.rpartition(")")
    fields = tail.split()
    command = traces.command[:_COMMAND_MAX].rstrip(b"\0").replace(b"\0", b" ")
    return Process(
        pid=traces.pid,
        command=command.decode(errors="replace") or head.partition("(")[2],
        directory=traces.directory,
        stime_ms=(_count(fields[11]) + _count(fields[12])) * _TICK_MS,
        age_ms=max(0, uptime_ms - _count(fields[19]) * _TICK_MS),
        rss=_count(fields[21]) * page,
        listens=tuple(sorted({listening[inode] for inode in traces.inodes if inode in listening})),
    )


def _count(text: str) -> int:
    return min(max(0, int(text)), _MOST // _PAGE)


def uptime_ms(text: str) -> int:
    """Of /proc/uptime."""
    return min(_MOST, int(float(text.split()[0]) * 1000))


def look(pids: Iterable[int], proc: Path = Path("/proc")) -> list[Process]:
    """Describe the processes with these numbers of the host, by their inner number. Those that end are left out."""
    now_ms = uptime_ms((proc / "uptime").read_text())
    found = []
    sockets: dict[str, Listening] = {}
    for pid in pids:
        home = proc / str(pid)
        try:
            namespace = os.readlink(home / "ns" / "net")
            if namespace not in sockets:
                sockets[namespace] = _listening(home / "net")
            found.append(describe(_traces(home), uptime_ms=now_ms, listening=sockets[namespace]))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return sorted(found, key=lambda process: process.pid)


def _traces(home: Path) -> Traces:
    return Traces(
        pid=_inner((home / "status").read_text()),
        stat=(home / "stat").read_text(),
        command=(home / "cmdline").read_bytes(),
        directory=os.readlink(home / "cwd"),
        inodes=_inodes(home / "fd"),
    )


def _inner(status: str) -> int:
    return int(next(line.split()[-1] for line in status.splitlines() if line.startswith("NSpid:")))


def _inodes(directory: Path) -> frozenset[int]:
    found = set()
    for entry in directory.iterdir():
        try:
            target = os.readlink(entry)
        except FileNotFoundError:
            continue
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return frozenset(found)


def _listening(directory: Path) -> Listening:
    # Without IPv6 two of them are not there.
    return listening({path.name: path.read_text() for name in _WAITING if (path := directory / name).exists()})


def listening(tables: Mapping[str, str]) -> Listening:
    """The sockets of a network namespace that wait for others, by its tables of sockets. Lines cut off are left out."""
    found = {}
    for name, table in tables.items():
        for line in table.splitlines()[1:]:
            words = line.split()
            try:
                if words[3] == _WAITING[name]:
                    found[int(words[9])] = (name[:3], _address(words[1]))
            except (ValueError, IndexError):
                continue
    return found


def _address(text: str) -> str:
    host, _, port = text.partition(":")
    # The kernel prints the address as machine words, in the order of this computer.
    raw = b"".join(bytes.fromhex(host[at : at + 8])[::-1] for at in range(0, len(host), 8))
    shown = socket.inet_ntoa(raw) if len(raw) == 4 else f"[{IPv6Address(raw)}]"
    return f"{shown}:{int(port, 16)}"
