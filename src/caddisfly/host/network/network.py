"""Plugging Machines in: a namespace and a routed pair of links for each incarnation.

There is no bridge. Every Machine is alone on its link, and everything it sends is routed, so one place, the firewall's
forward chain, sees every packet between Machines, and a Machine can neither spoof a neighbour nor poison its address
table (docs/decisions/0003).

Names carry the number of the incarnation. The kernel takes a namespace apart some time after its name is gone, and a
link made anew under the same name would lose its routes to that late clean-up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path

from caddisfly.host.network import connections, namespace, netlink
from caddisfly.host.network.addresses import gateway
from caddisfly.host.network.firewall import LINK_PREFIX, Firewall, Port
from caddisfly.host.network.guard import Guard
from caddisfly.host.network.netlink import Netlink
from caddisfly.model.errors import FailedPrecondition, Internal, Unavailable

log = logging.getLogger(__name__)

BRIDGE = "br0"
"""In the namespace of a Machine with a kernel of its own: what joins its end of the link with its guest."""
_GATEWAY6 = "fe80::1"
_ETH0 = 2
"""The index of a Machine's link in its own namespace, the first after the loopback's."""
_SYSCTLS = {
    "net/ipv4/ip_forward": "1",
    "net/ipv6/conf/all/forwarding": "1",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What to plug in. `id` names the namespace; `number` is unique among all incarnations of this host, ever."""

    id: str
    number: int
    ipv4: str
    ipv6: str
    network_id: int

    @property
    def link(self) -> str:
        return f"{LINK_PREFIX}{self.number:x}"

    @property
    def port(self) -> Port:
        return Port(link=self.link, ipv4=self.ipv4, ipv6=self.ipv6, network_id=self.network_id)


class Network:
    """All Machines' links of this host. Every call may be repeated."""

    def __init__(self, *, pool: str) -> None:
        self._pool, self._gateway = pool, gateway(pool)
        self._firewall = Firewall(pool)
        self._guard: Guard | None = None
        self._guarding: asyncio.Task[None] | None = None
        self._shut = ""
        """Why all links are shut; empty: they are not."""
        self._plugged: dict[str, Attachment] = {}
        self._remembers = ""
        """Why it cannot be said which connections are open; empty when it can."""

    async def open(self) -> None:
        """Turn on routing and load the firewall's fixed rules, and keep them in place until `leave`."""
        self._guard = guard = Guard(self)  # it hears before there is anything to take away
        await asyncio.to_thread(self._open)
        self._guarding = asyncio.create_task(guard.run(), name="firewall")

    async def leave(self) -> None:
        """Look no longer after what stays plugged in."""
        if self._guarding is not None:
            self._guarding.cancel()
            await asyncio.wait((self._guarding,))
        if self._guard is not None:
            self._guard.close()

    def _open(self) -> None:
        namespace.ensure_directory()
        for name, value in _SYSCTLS.items():
            path = Path("/proc/sys") / name
            if path.read_text().strip() != value:
                path.write_text(value)
                log.info("network.sysctl", extra={"key": name, "value": value})
        try:
            there = self._firewall.ensure()
        except Internal as error:
            self.shut(error.why)
            raise
        if not there and (links := _links()):
            log.warning("network.firewall_was_gone", extra={"links": len(links)})
        try:
            self._firewall.remember()
        except Internal as error:
            self._remembers = error.why
            log.warning("network.forgets_connections", extra={"reason": error.why})

    async def attach(self, attachment: Attachment) -> Path:
        """Plug a Machine in. Returns the path of its namespace."""
        return await asyncio.to_thread(self._attach, attachment)

    async def reattach(self, attachment: Attachment) -> Path:
        """For one that was plugged in before, and of which nothing runs: as it was, or made anew after a reboot.

        A runtime may have taken the addresses off its end of the link.
        """
        return await asyncio.to_thread(self._reattach, attachment)

    async def detach(self, attachment: Attachment) -> None:
        """Unplug it and remove its namespace."""
        await asyncio.to_thread(self._detach, attachment)

    async def readmit(self, attachment: Attachment) -> None:
        """Let a Machine that is already plugged in through a firewall that was loaded anew."""
        self._plugged[attachment.id] = attachment
        await asyncio.to_thread(self._readmit, attachment)

    async def hush(self, id: str) -> None:
        """Let no new TCP connection begin, to a Machine or from it, until `unhush`."""
        if self._remembers:
            raise FailedPrecondition("the host cannot tell which connections are open", why=self._remembers)
        await asyncio.to_thread(self._firewall.hush, self._plugged[id].port)

    async def unhush(self, id: str) -> None:
        await asyncio.to_thread(self._firewall.unhush, self._plugged[id].port)

    async def attempts(self, id: str) -> int:
        """How many connections a hushed Machine has tried to begin."""
        return await asyncio.to_thread(self._firewall.attempts, self._plugged[id].port)

    async def open_connections(self, id: str) -> tuple[str, ...]:
        """Those that may still be open on the Machine's side, for people to read."""
        attachment = self._plugged[id]
        return await asyncio.to_thread(connections.may_be_open, frozenset((attachment.ipv4, attachment.ipv6)))

    @property
    def firewall(self) -> str:
        """How its rules are, for people."""
        if self._shut:
            return f"cannot be put in place, so all links are shut: {self._shut}"
        return self._firewall.history

    def mend(self) -> None:
        """Make the firewall's table anew where somebody has changed it. Raises `Problem` when that cannot be."""
        self._firewall.mend()
        if not self._shut:
            return
        for attachment in list(self._plugged.values()):
            try:
                self._route(attachment)
            except OSError as error:  # it was unplugged meanwhile
                log.warning("network.not_reopened", extra={"sandbox": attachment.id, "reason": str(error)})
        self._shut = ""
        log.warning("network.reopened", extra={"links": len(self._plugged)})

    def shut(self, reason: str) -> None:
        """Take every Machine's link down, until a `mend` succeeds."""
        self._shut = reason
        for link in _links():
            try:
                with Netlink() as host:
                    host.run(netlink.down(socket.if_nametoindex(link)))
            except OSError as error:  # it was unplugged meanwhile
                log.warning("network.not_shut", extra={"link": link, "reason": str(error)})

    async def known(self) -> frozenset[str]:
        """Names of all our namespaces, by their form."""
        return frozenset(entry.name for entry in namespace.DIRECTORY.iterdir() if is_ours(entry.name))

    async def discard(self, id: str) -> None:
        """Remove a namespace of which only the name is known, such as one left by a crash."""
        await asyncio.to_thread(namespace.remove, id)

    def _attach(self, attachment: Attachment) -> Path:
        self._must_be_open()
        path = namespace.DIRECTORY / attachment.id
        if path.exists():
            self._detach(attachment)
        self._plugged[attachment.id] = attachment
        try:
            namespace.create(attachment.id, lambda: self._wire(attachment))
            self._route(attachment)
            self._firewall.plug(attachment.port)
        except OSError as error:
            self._detach(attachment)
            raise Internal("a Machine cannot be connected", why=str(error), next="caddis doctor") from error
        return path

    def _reattach(self, attachment: Attachment) -> Path:
        self._must_be_open()
        path = namespace.DIRECTORY / attachment.id
        self._plugged[attachment.id] = attachment
        if not os.path.ismount(path) or not Path("/sys/class/net", attachment.link).exists():
            return self._attach(attachment)
        try:
            namespace.inside(namespace.DIRECTORY / attachment.id, lambda: self._address(attachment))
            self._firewall.plug(attachment.port)
        except OSError as error:
            raise Internal("a Machine cannot be connected again", why=str(error), next="caddis doctor") from error
        return path

    def _readmit(self, attachment: Attachment) -> None:
        self._firewall.plug(attachment.port)
        if attachment.link in _links():  # of one that is suspended it is gone after a reboot
            self._route(attachment)  # an agent that died may have shut it

    def _must_be_open(self) -> None:
        if self._shut:
            raise Unavailable("a Machine cannot be connected", why=f"no firewall: {self._shut}", next="caddis doctor")

    def _wire(self, attachment: Attachment) -> None:
        """Runs inside the new namespace: the Machine's end of the link."""
        with open("/proc/self/ns/net", "rb") as host, Netlink() as inside:  # the main thread is still at home
            inside.run(netlink.veth("eth0", index=_ETH0, peer=attachment.link, peer_namespace=host.fileno()))
        self._address(attachment)

    def _address(self, attachment: Attachment) -> None:
        """Runs inside: what of the Machine's end of the link can be said again."""
        if Path(f"/proc/sys/net/ipv4/conf/{BRIDGE}").exists():
            return  # its guest has the addresses
        with Netlink() as inside:
            inside.run(
                netlink.up(netlink.LOOPBACK),
                netlink.up(_ETH0),
                netlink.address(_ETH0, attachment.ipv4, length=32),
                netlink.address(_ETH0, attachment.ipv6, length=128),
                netlink.route(f"{self._gateway}/32", index=_ETH0),
                netlink.route("0.0.0.0/0", index=_ETH0, via=self._gateway),
                netlink.route("::/0", index=_ETH0, via=_GATEWAY6),
            )

    def _route(self, attachment: Attachment) -> None:
        """The host's end of the link."""
        index = socket.if_nametoindex(attachment.link)
        with Netlink() as host:
            host.run(
                netlink.address(index, self._gateway, length=32),
                netlink.up(index),
                netlink.address(index, _GATEWAY6, length=64),
                netlink.route(f"{attachment.ipv4}/32", index=index, source=self._gateway),
                netlink.route(f"{attachment.ipv6}/128", index=index),
            )

    def _detach(self, attachment: Attachment) -> None:
        self._plugged.pop(attachment.id, None)
        self._firewall.unplug(attachment.port)
        namespace.remove(attachment.id)
        if self._remembers:
            return
        try:
            connections.forget(frozenset((attachment.ipv4, attachment.ipv6)))
        except OSError as error:
            raise Unavailable("a Machine's connections cannot be forgotten", why=str(error)) from error

    def close(self) -> None:
        """Take the firewall's table away. For tests and uninstalling: running Machines would lose their rules."""
        self._firewall.remove()


def _links() -> list[str]:
    """The host's ends of all Machines' links, also of those that this agent has not plugged in."""
    return [name for _, name in socket.if_nameindex() if name.startswith(LINK_PREFIX)]


def is_ours(name: str) -> bool:
    """Whether a namespace's name has the form of an incarnation's id: 14 hexadecimal digits, a dash, 8 more."""
    machine, dash, number = name.partition("-")
    digits = set("0123456789abcdef")
    return bool(dash) and len(machine) == 14 and len(number) == 8 and set(machine + number) <= digits
