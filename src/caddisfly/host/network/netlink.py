"""rtnetlink, as much of it as plugging a Machine in takes: one message per fact, all messages in one call. And the form
of netlink's messages, for those who only listen.

A library for this exists (pyroute2) and was used before: it took 8 ms of a start to say these twelve things, all of it
in Python and under the interpreter's lock, where this takes a few tenths (docs/decisions/0007). The kernel handles the
messages of one datagram in order and answers each.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator
from ipaddress import ip_address, ip_network
from types import TracebackType
from typing import NamedTuple

_NEWLINK, _SETLINK, _NEWADDR, _NEWROUTE = 16, 19, 20, 24
_REQUEST, _ACK, _REPLACE, _EXCL, _CREATE = 0x1, 0x4, 0x100, 0x200, 0x400
_LINK = struct.Struct("=BxHiII")
_ADDRESS = struct.Struct("=BBBBi")
_ROUTE = struct.Struct("=BBBBBBBBI")
_IFNAME, _LINKINFO, _NET_NS_FD = 3, 18, 28
_INFO_KIND, _INFO_DATA, _VETH_PEER = 1, 2, 1
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC = 1, 4, 5, 7
_UP = 0x1
_TYPE_MASK = 0x3FFF
_NODAD = 0x02
_TABLE_MAIN, _PROTOCOL_BOOT, _UNICAST = 254, 3, 1
_SCOPE_UNIVERSE, _SCOPE_LINK = 0, 253

NETFILTER = 12
"""The protocol of connection tracking and of nftables."""
HEADER = struct.Struct("=IHHII")
ERROR = 2
RECEIVE_MAX = 1 << 18
LOOPBACK = 1
"""The index of `lo` in every namespace."""


class Message:
    """One request: its type, its flags beyond the usual, its body. `what` is for errors."""

    __slots__ = ("body", "flags", "kind", "what")

    def __init__(self, kind: int, flags: int, body: bytes, what: str) -> None:
        self.kind, self.flags, self.body, self.what = kind, flags, body, what


def veth(name: str, *, index: int, peer: str, peer_namespace: int) -> Message:
    """A pair of links: `name` here, under a free index, and `peer` in the namespace of a descriptor."""
    other = _LINK.pack(0, 0, 0, 0, 0) + _attribute(_IFNAME, _text(peer)) + _attribute(_NET_NS_FD, _int(peer_namespace))
    data = _attribute(_VETH_PEER, other)
    info = _attribute(_INFO_KIND, b"veth") + _attribute(_INFO_DATA, data)
    body = _LINK.pack(0, 0, index, 0, 0) + _attribute(_IFNAME, _text(name)) + _attribute(_LINKINFO, info)
    return Message(_NEWLINK, _CREATE | _EXCL, body, f"add link {name}")


def up(index: int) -> Message:
    """Set a link up."""
    return Message(_SETLINK, 0, _LINK.pack(0, 0, index, _UP, _UP), f"set link {index} up")


def down(index: int) -> Message:
    """Set a link down. It forgets its routes, and its IPv6 addresses."""
    return Message(_SETLINK, 0, _LINK.pack(0, 0, index, 0, _UP), f"set link {index} down")


def address(index: int, text: str, *, length: int) -> Message:
    """Give a link an address, once. Nobody else can have it, so IPv6 need not ask around first."""
    value = ip_address(text)
    family = socket.AF_INET if value.version == 4 else socket.AF_INET6
    flags = 0 if value.version == 4 else _NODAD
    body = _ADDRESS.pack(family, length, flags, 0, index)
    body += _attribute(_IFA_LOCAL, value.packed) + _attribute(_IFA_ADDRESS, value.packed)
    body += _attribute(_IFA_FLAGS, struct.pack("=I", flags))
    return Message(_NEWADDR, _CREATE | _REPLACE, body, f"add address {text}")


def route(to: str, *, index: int, via: str = "", source: str = "") -> Message:
    """The way to a network (`to` with its prefix length). One that is there is replaced."""
    network = ip_network(to)
    family = socket.AF_INET if network.version == 4 else socket.AF_INET6
    scope = _SCOPE_LINK if network.version == 4 and not via else _SCOPE_UNIVERSE
    body = _ROUTE.pack(family, network.prefixlen, 0, 0, _TABLE_MAIN, _PROTOCOL_BOOT, scope, _UNICAST, 0)
    body += _attribute(_RTA_DST, network.network_address.packed) if network.prefixlen else b""
    body += _attribute(_RTA_GATEWAY, ip_address(via).packed) if via else b""
    body += _attribute(_RTA_PREFSRC, ip_address(source).packed) if source else b""
    body += _attribute(_RTA_OIF, _int(index))
    return Message(_NEWROUTE, _CREATE | _REPLACE, body, f"add route {to}")


class Heard(NamedTuple):
    """A message of the kernel. `port` is that of whoever made it say so."""

    kind: int
    number: int
    port: int
    body: bytes


def messages(data: bytes) -> Iterator[Heard]:
    """Those of one datagram."""
    while data:
        length, kind, _, number, port = HEADER.unpack_from(data)
        yield Heard(kind, number, port, data[HEADER.size : length])
        data = data[_aligned(length) :]


def attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    """The kind and the value of each."""
    while data:
        length, kind = struct.unpack_from("=HH", data)
        yield kind & _TYPE_MASK, data[4:length]
        data = data[_aligned(length) :]


class Netlink:
    """A conversation with the network namespace that this thread is in."""

    def __enter__(self) -> Netlink:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def run(self, *requests: Message) -> None:
        """Do all of it, in order. Raises `OSError` for the first that failed; those after it were tried as well."""
        self._socket.send(
            b"".join(
                HEADER.pack(HEADER.size + len(message.body), message.kind, _REQUEST | _ACK | message.flags, number, 0)
                + message.body
                for number, message in enumerate(requests, 1)
            )
        )
        open_ = dict(enumerate(requests, 1))
        failed: OSError | None = None
        while open_:
            for heard in messages(self._socket.recv(RECEIVE_MAX)):
                if heard.kind == ERROR:
                    message = open_.pop(heard.number)
                    (code,) = struct.unpack_from("=i", heard.body)
                    if code and failed is None:
                        failed = OSError(-code, f"{message.what}: {os.strerror(-code)}")
        if failed is not None:
            raise failed


def _attribute(kind: int, value: bytes) -> bytes:
    length = 4 + len(value)
    return struct.pack("=HH", length, kind) + value + bytes(_aligned(length) - length)


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _int(value: int) -> bytes:
    return struct.pack("=I", value)


def _text(value: str) -> bytes:
    return value.encode() + b"\0"
