"""Real packets of a Machine: sockets made inside its network namespace, raw ones among them.

A thread enters the namespace, makes the socket and ends; the socket stays where it was made. What is sent through it
takes the same way as what a program inside sends, and it may be forged, which no program inside has the right to do.
"""

from __future__ import annotations

import ctypes
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

Made = TypeVar("Made")
_libc = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWNET = 0x40000000
_UDP = 17


def inside(namespace: Path, make: Callable[[], Made]) -> Made:
    """What `make` gives when it is called in another network namespace."""
    made: list[Made] = []
    failure: list[BaseException] = []

    def run() -> None:
        descriptor = os.open(namespace, os.O_RDONLY)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                raise OSError(ctypes.get_errno(), "setns")
            made.append(make())
        except BaseException as error:  # noqa: BLE001 - carried over to the caller's thread
            failure.append(error)
        finally:
            os.close(descriptor)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
    return made[0]


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


class Listener:
    """A TCP server on a port of its own. It tells each caller the address that it sees."""

    def __init__(self, namespace: Path, address: str) -> None:
        self._socket = inside(namespace, lambda: socket.create_server((address, 0), family=family_of(address)))
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                caller, who = self._socket.accept()
            except OSError:
                return
            with caller:
                caller.sendall(who[0].encode())

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join()


def said(namespace: Path, address: str, port: int, *, timeout_s: float = 1.0) -> str | None:
    """What a listener says when it is called from a namespace; None when it cannot be reached."""
    family = family_of(address)
    caller = inside(namespace, lambda: socket.socket(family, socket.SOCK_STREAM))
    with caller:
        caller.settimeout(timeout_s)
        try:
            where = socket.getaddrinfo(address, port, family, socket.SOCK_STREAM)[0][4]
            if address.startswith("fe80"):
                # The only link that a Machine has; a name of it would be looked up on the host.
                index = inside(namespace, lambda: socket.if_nametoindex("eth0"))
                where = (address, port, 0, index)
            caller.connect(where)
            return caller.recv(200).decode()
        except OSError:
            return None


def datagram(source: str, target: str, port: int, text: bytes) -> bytes:
    """A whole IP packet with a UDP datagram, from whatever source."""
    family = family_of(source)
    here, there = socket.inet_pton(family, source), socket.inet_pton(family, target)
    length = 8 + len(text)
    udp = struct.pack("!HHHH", 4242, port, length, 0) + text
    pseudo = here + there + struct.pack("!IHBB", length, 0, 0, _UDP)
    udp = udp[:6] + struct.pack("!H", _checksum(pseudo + udp) or 0xFFFF) + udp[8:]
    if family == socket.AF_INET6:
        return struct.pack("!IHBB", 6 << 28, length, _UDP, 64) + here + there + udp
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + length, 1, 0, 64, _UDP, 0) + here + there
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + udp


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def raw_sender(namespace: Path, family: socket.AddressFamily) -> socket.socket:
    """A socket that sends whole packets as they are."""

    def make() -> socket.socket:
        made = socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, 36, 1)  # IPV6_HDRINCL
        return made

    return inside(namespace, make)


def udp_receiver(namespace: Path, address: str) -> socket.socket:
    def make() -> socket.socket:
        made = socket.socket(family_of(address), socket.SOCK_DGRAM)
        made.bind((address, 0))
        made.settimeout(3)
        return made

    return inside(namespace, make)
