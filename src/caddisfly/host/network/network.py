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
import socket
from dataclasses import dataclass
from pathlib import Path

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from caddisfly.host.network import namespace
from caddisfly.host.network.addresses import gateway
from caddisfly.host.network.firewall import LINK_PREFIX, Firewall, Port
from caddisfly.model.errors import Internal

log = logging.getLogger(__name__)

_ENODEV, _ENOENT, _EEXIST, _ESRCH = 19, 2, 17, 3
_GATEWAY6 = "fe80::1"
_NODAD = 0x02
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
        self._firewall = Firewall()

    async def open(self) -> None:
        """Turn on routing and load the firewall's fixed rules."""
        await asyncio.to_thread(self._open)

    def _open(self) -> None:
        namespace.ensure_directory()
        for name, value in _SYSCTLS.items():
            path = Path("/proc/sys") / name
            if path.read_text().strip() != value:
                path.write_text(value)
                log.info("network.sysctl", extra={"key": name, "value": value})
        self._firewall.ensure(self._pool)

    async def attach(self, attachment: Attachment) -> Path:
        """Plug a Machine in. Returns the path of its namespace."""
        return await asyncio.to_thread(self._attach, attachment)

    async def detach(self, attachment: Attachment) -> None:
        """Unplug it and remove its namespace."""
        await asyncio.to_thread(self._detach, attachment)

    async def readmit(self, attachment: Attachment) -> None:
        """Let a Machine that is already plugged in through a firewall that was loaded anew."""
        await asyncio.to_thread(self._firewall.plug, attachment.port)

    async def known(self) -> frozenset[str]:
        """Names of all our namespaces, by their form."""
        return frozenset(entry.name for entry in namespace.DIRECTORY.iterdir() if is_ours(entry.name))

    async def discard(self, id: str) -> None:
        """Remove a namespace of which only the name is known, such as one left by a crash."""
        await asyncio.to_thread(namespace.remove, id)

    def _attach(self, attachment: Attachment) -> Path:
        path = namespace.DIRECTORY / attachment.id
        if path.exists():
            self._detach(attachment)
        try:
            namespace.create(attachment.id, lambda: self._wire(attachment))
            self._route(attachment)
            self._firewall.plug(attachment.port)
        except (NetlinkError, OSError) as error:
            self._detach(attachment)
            raise Internal("a Machine cannot be connected", why=str(error), next="caddis doctor") from error
        return path

    def _wire(self, attachment: Attachment) -> None:
        """Runs inside the new namespace: the Machine's end of the link."""
        with open("/proc/self/ns/net", "rb") as host, IPRoute() as inside:  # the main thread is still at home
            inside.link(
                "add",
                ifname="eth0",
                kind="veth",
                peer={"ifname": attachment.link, "net_ns_fd": host.fileno()},
            )
            (index,) = inside.link_lookup(ifname="eth0")
            (loopback,) = inside.link_lookup(ifname="lo")
            inside.link("set", index=loopback, state="up")
            inside.link("set", index=index, state="up")
            inside.addr("add", index=index, address=attachment.ipv4, prefixlen=32)
            inside.addr("add", index=index, address=attachment.ipv6, prefixlen=128, flags=_NODAD)
            inside.route("add", dst=f"{self._gateway}/32", oif=index, scope="link")
            inside.route("add", dst="0.0.0.0/0", gateway=self._gateway, oif=index)
            inside.route("add", family=socket.AF_INET6, dst="::/0", gateway=_GATEWAY6, oif=index)

    def _route(self, attachment: Attachment) -> None:
        """The host's end of the link."""
        with IPRoute() as host:
            (index,) = host.link_lookup(ifname=attachment.link)
            host.addr("add", index=index, address=self._gateway, prefixlen=32)
            host.link("set", index=index, state="up")
            host.addr("add", index=index, address=_GATEWAY6, prefixlen=64, flags=_NODAD)
            host.route("replace", dst=f"{attachment.ipv4}/32", oif=index, scope="link", prefsrc=self._gateway)
            host.route("replace", family=socket.AF_INET6, dst=f"{attachment.ipv6}/128", oif=index)

    def _detach(self, attachment: Attachment) -> None:
        self._firewall.unplug(attachment.port)
        namespace.remove(attachment.id)

    def close(self) -> None:
        """Take the firewall's table away. For tests and uninstalling: running Machines would lose their rules."""
        self._firewall.remove()


def is_ours(name: str) -> bool:
    """Whether a namespace's name has the form of an incarnation's id: 14 hexadecimal digits, a dash, 8 more."""
    machine, dash, number = name.partition("-")
    digits = set("0123456789abcdef")
    return bool(dash) and len(machine) == 14 and len(number) == 8 and set(machine + number) <= digits
