"""Keeps the firewall's table as it should be while others use nftables too.

A firewall script of an administrator, run while the platform runs, often begins with `flush ruleset`, and then nothing
stands between tenants. The kernel says who changes which table; a change of ours by anybody else is answered by making
it anew, some milliseconds later. What may have been missed is found by looking every half minute.

Two things make up for those milliseconds. A connection that began in them ends with them, since the rules ask for every
packet of whoever began it. And where the table cannot be made anew, the links of all Machines are shut until it can: a
Machine that nobody reaches is better than one that everybody does.

While no agent runs, nobody looks. The next one makes the table before anything else.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Protocol

from caddisfly.host.network.firewall import TABLE
from caddisfly.host.network.netlink import NETFILTER, RECEIVE_MAX, attributes, messages
from caddisfly.model.errors import Problem

log = logging.getLogger(__name__)

LOOK_EVERY_S = 30.0
_TRY_AGAIN_S = 0.5
_RECEIVE_BUFFER_FORCE = 33
_BUFFER = 4 << 20
"""Bytes of what is told while nobody reads: as much as hundreds of starts in one moment make."""
_LISTENERS = 1 << 6
"""The kernel's group of those who want to hear of changes to nftables."""
_NFTABLES = 10
_GENERATION = 15
_FAMILY = 4
"""Bytes that say which family of tables it is about."""
_INET = 1
_TABLE = 1
_PROCESS_ID, _PROCESS_NAME = 2, 3


class Guarded(Protocol):
    """A firewall and the links behind it. The calls block."""

    def mend(self) -> None:
        """Look, and make what is not as it should be anew. Raises `Problem` when that cannot be."""
        ...

    def shut(self, reason: str) -> None:
        """Nobody speaks until the next `mend` that succeeds."""
        ...


class Changes:
    """What others do to our table, as the kernel tells it to whoever listens in this network namespace."""

    def __init__(self) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETFILTER)
        self._socket.setblocking(False)
        with suppress(PermissionError):  # of a container: then it is looked for once more after many starts at once
            self._socket.setsockopt(socket.SOL_SOCKET, _RECEIVE_BUFFER_FORCE, _BUFFER)
        self._socket.bind((0, _LISTENERS))
        self._ours: frozenset[int] = frozenset()
        self._touched = False

    async def next(self) -> str:
        """Wait for one. Returns who made it, for people."""
        while True:
            try:
                data = await asyncio.get_running_loop().sock_recv(self._socket, RECEIVE_MAX)
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                return "nobody knows: there was more to tell than was heard"
            if who := self._read(data):
                return who

    def _read(self, data: bytes) -> str:
        """A message for each thing that is changed; then one that says by whom all of them were."""
        who = ""
        for heard in messages(data):
            if heard.kind >> 8 != _NFTABLES:
                continue
            values = dict(attributes(heard.body[_FAMILY:]))
            if heard.kind & 0xFF == _GENERATION:
                if self._touched and not self._is_ours(heard.port):
                    name = values.get(_PROCESS_NAME, b"?").rstrip(b"\0").decode(errors="replace")
                    who = f"{name}, process {int.from_bytes(values.get(_PROCESS_ID, b''))}"
                self._touched = False
            elif heard.body[0] == _INET and values.get(_TABLE) == TABLE.encode() + b"\0":
                self._touched = True
        return who

    def _is_ours(self, port: int) -> bool:
        if port not in self._ours:
            self._ours = _own_ports()
        return port in self._ours

    def close(self) -> None:
        self._socket.close()


def _own_ports() -> frozenset[int]:
    """The addresses of this process's own sockets: libnftables has one, and does not say which."""
    found = set()
    for entry in os.listdir("/proc/self/fd"):
        try:
            own = socket.socket(fileno=int(entry))
        except OSError:  # no socket, or gone by now
            continue
        try:
            if (own.family, own.proto) == (socket.AF_NETLINK, NETFILTER):
                found.add(own.getsockname()[0])
        finally:
            own.detach()
    return frozenset(found)


class Guard:
    """Hears from the moment it is made, and acts while `run` runs."""

    def __init__(self, guarded: Guarded) -> None:
        self._guarded = guarded
        self._changes = Changes()
        self._trouble = ""
        """Why the rules cannot be put back, which is said once."""
        # Its own thread: those that all others wait for may be busy with images.
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="firewall")

    async def run(self) -> None:
        pause_s = LOOK_EVERY_S
        while True:
            await self._told(pause_s)
            pause_s = LOOK_EVERY_S if await self._mended() else _TRY_AGAIN_S

    async def _told(self, timeout_s: float) -> None:
        """Returns also when it is time to look without having been told."""
        try:
            async with asyncio.timeout(timeout_s):
                log.warning("network.firewall_touched", extra={"by": await self._changes.next()})
        except TimeoutError:
            return
        except Exception:  # whoever cannot hear can look
            log.exception("network.firewall_unheard")
            await asyncio.sleep(_TRY_AGAIN_S)

    async def _mended(self) -> bool:
        loop = asyncio.get_running_loop()
        try:
            await loop.run_in_executor(self._thread, self._guarded.mend)
        except Exception as error:
            reason = (str(error) or repr(error)).partition("\n")[0]
            if reason != self._trouble:
                log.critical(
                    "network.firewall_broken", extra={"reason": reason}, exc_info=not isinstance(error, Problem)
                )
            self._trouble = reason
            await self._shut(reason)
        else:
            self._trouble = ""
        return not self._trouble

    async def _shut(self, reason: str) -> None:
        try:
            await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded.shut, reason)
        except Exception:
            log.exception("network.not_shut")

    def close(self) -> None:
        self._changes.close()
        self._thread.shutdown(wait=False)
