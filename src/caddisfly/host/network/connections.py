"""Which TCP connections of a Machine may still be open on its side, as the host's connection tracking has seen them.

All that a Machine says or hears passes through this host, which keeps book of it anyway, for the firewall. What is in
the book says more than both ends can: also of a connection whose owner has closed it and whose kernel waits on. That is
a minute when the Machine closed first, and nothing when the other side did; the book knows who did.

It is by address, and addresses are given to others in time: so a Machine's pages are torn out when it goes. Else the
next one would be let through to, and taken to have open, what was never its own.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from caddisfly.host.network.netlink import ERROR, HEADER, NETFILTER, RECEIVE_MAX, attributes, messages

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_REQUEST, _ACK, _DUMP = 0x1, 0x4, 0x300
_NESTED = 0x8000
_DONE = 3
_FAMILY = 4
"""Bytes that say whose addresses follow."""
_ORIGINAL, _PROTOINFO, _TIMEOUT = 1, 4, 7
_IP, _PROTO = 1, 2
_NUMBER, _SOURCE_PORT, _TARGET_PORT = 1, 2, 3
_TCP_STATE, _FLAGS_ORIGINAL, _FLAGS_REPLY = 1, 4, 5
_TIME_WAIT, _CLOSE = 7, 8
_CLOSED_FIRST = 0x04
_STATES = (
    "new",
    "syn sent",
    "syn received",
    "established",
    "fin wait",
    "close wait",
    "last ack",
    "time wait",
    "closed",
)
LINGERS_S = 62
"""How long an end that closed first may wait for stragglers: 60 s by the book, and a little for the clock."""
_TIME_WAIT_S = Path("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait")


@dataclass(frozen=True, slots=True)
class Connection:
    """One, seen from the Machine. `left_s`: how long the host will remember it without hearing more."""

    own: str
    other: str
    state: int
    closed_first: bool
    """Whether the Machine sent the first FIN."""
    left_s: int

    def __str__(self) -> str:
        state = _STATES[self.state] if self.state < len(_STATES) else str(self.state)
        return f"{self.own} to {self.other}, {state}"

    def may_be_open(self, time_wait_s: int) -> bool:
        """Whether the Machine's kernel may still have an end of it."""
        if self.state == _CLOSE:
            return False
        if self.state == _TIME_WAIT:
            return self.closed_first and time_wait_s - self.left_s < LINGERS_S
        return True


def may_be_open(addresses: frozenset[str]) -> tuple[str, ...]:
    """Those of the Machine that has these addresses, each as people read it. Blocks for some milliseconds."""
    time_wait_s = int(_TIME_WAIT_S.read_text())
    return tuple(str(one) for one in _of(addresses) if one.may_be_open(time_wait_s))


def forget(addresses: frozenset[str]) -> None:
    """Tear out all that speaks of these addresses, whatever the protocol. Raises `OSError`. Blocks likewise."""
    entries = list(_entries(addresses))
    if not entries:
        return
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as table:
        for entry, source, _ in entries:
            original = entry[_ORIGINAL]
            family = socket.AF_INET6 if ":" in source else socket.AF_INET
            body = family.to_bytes() + bytes(_FAMILY - 1)
            body += struct.pack("=HH", 4 + len(original), _ORIGINAL | _NESTED) + original
            table.send(HEADER.pack(HEADER.size + len(body), _DELETE, _REQUEST | _ACK, 1, 0) + body)
            (code,) = struct.unpack_from("=i", table.recv(RECEIVE_MAX), HEADER.size)
            if code and -code != errno.ENOENT:  # it may have ended by itself
                raise OSError(-code, f"forget a connection: {os.strerror(-code)}")


def _entries(addresses: frozenset[str]) -> Iterator[tuple[dict[int, bytes], str, str]]:
    """What speaks of these addresses, and who began it with whom."""
    packed = [ip_address(address).packed for address in addresses]
    for entry in _dump():
        if any(value in entry[_ORIGINAL] for value in packed):
            ends = dict(attributes(entry[_ORIGINAL]))[_IP]
            source, target = (str(ip_address(value)) for _, value in attributes(ends))
            if addresses & {source, target}:
                yield entry, source, target


def _of(addresses: frozenset[str]) -> Iterator[Connection]:
    for entry, source, target in _entries(addresses):
        ports = dict(attributes(dict(attributes(entry[_ORIGINAL]))[_PROTO]))
        if ports[_NUMBER] != bytes((socket.IPPROTO_TCP,)):
            continue
        ends = [
            f"{address if ':' not in address else f'[{address}]'}:{int.from_bytes(ports[port])}"
            for address, port in ((source, _SOURCE_PORT), (target, _TARGET_PORT))
        ]
        tcp = dict(attributes(dict(attributes(entry.get(_PROTOINFO, b""))).get(1, b"")))
        from_it = source in addresses
        flags = tcp.get(_FLAGS_ORIGINAL if from_it else _FLAGS_REPLY, b"\0\0")[0]
        yield Connection(
            own=ends[0 if from_it else 1],
            other=ends[1 if from_it else 0],
            state=tcp.get(_TCP_STATE, b"\0")[0],
            closed_first=bool(flags & _CLOSED_FIRST),
            left_s=int.from_bytes(entry.get(_TIMEOUT, b"\0")),
        )


def _dump() -> Iterator[dict[int, bytes]]:
    """Every entry of the table. Raises `OSError`."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER) as table:
        table.send(HEADER.pack(HEADER.size + _FAMILY, _GET, _REQUEST | _DUMP, 1, 0) + bytes(_FAMILY))
        while True:
            for heard in messages(table.recv(RECEIVE_MAX)):
                if heard.kind == _DONE:
                    return
                if heard.kind == ERROR:
                    (code,) = struct.unpack_from("=i", heard.body)
                    raise OSError(-code, os.strerror(-code))
                yield dict(attributes(heard.body[_FAMILY:]))
