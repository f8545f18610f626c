"""The guest's network card, joined to the Machine's link.

Outside its namespace nothing changes: the same routed pair of links, the same firewall, which matches a source address
against the link that it comes from. Inside, a bridge without an address joins the namespace's end with a tap, and the
guest has the addresses. The bridge learns nothing, so a guest that invents senders fills no table of the host. What the
link had before is written on the bridge itself (its alias), so that it lives exactly as long as it is needed: from
before the addresses are taken off until the namespace is gone.

    host  cfm1a ═══ eth0 ─ br0 ─ tap0 ═══ guest's eth0
                    └── the Machine's namespace ──┘

The bridge has a link-local address, `NEAR`, at which the agent shows the guest sockets of the host (passage.py). Nobody
routes to such addresses; what is on the link is the guest and the host itself.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import socket
import struct
import subprocess
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

from caddisfly.host.drivers.microvm.config import Addresses
from caddisfly.host.drivers.microvm.vmm import Tap
from caddisfly.host.network import namespace
from caddisfly.host.network.network import BRIDGE
from caddisfly.host.reception import QUEUE
from caddisfly.model.errors import Internal, Unavailable

TAP = "tap0"
NEAR, NEAR_PORT = "fe80::2", 80
_NEAR_SETTINGS = {
    "accept_ra": "0",
    "accept_dad": "0",
    "accept_redirects": "0",
    "addr_gen_mode": "1",
    "disable_ipv6": "0",
}
"""Of IPv6 on the bridge. `addr_gen_mode` 1 is no address but those it is given."""
_LINK = "eth0"
_TUNSETIFF, _TUNSETPERSIST, _TUNSETOWNER = 0x400454CA, 0x400454CB, 0x400454CC
_IFF_TAP, _IFF_NO_PI, _IFF_VNET_HDR = 0x2, 0x1000, 0x4000
_TIMEOUT_S = 10


@dataclass(frozen=True, slots=True)
class Card:
    """What a guest is to be given."""

    tap: Tap
    addresses: Addresses


@dataclass(frozen=True, slots=True)
class _Had:
    """What a link had before it was joined. `peer` is the number of its other end, on the host."""

    addresses: Addresses
    peer: int

    @property
    def note(self) -> str:
        """At most 255 characters, without a blank."""
        return ",".join(map(str, (*astuple(self.addresses), self.peer)))

    @classmethod
    def noted(cls, note: str) -> _Had:
        ipv4, ipv6, gateway4, gateway6, mtu, peer = note.split(",")
        return cls(Addresses(ipv4=ipv4, ipv6=ipv6, gateway4=gateway4, gateway6=gateway6, mtu=int(mtu)), int(peer))


def join(netns: Path, *, id: str) -> Card:
    """Prepare a namespace that `Network` has made; may be repeated. Blocks."""
    mac, own = _addresses_of(id)
    try:
        had = namespace.inside(netns, lambda: _join(own))
        # Asked before the guest is up, the host would wait for a second until it asks again.
        host = socket.if_indextoname(had.peer)
        addresses = had.addresses
        _ip(*(f"neigh replace {ip} lladdr {mac} dev {host} nud permanent" for ip in (addresses.ipv4, addresses.ipv6)))
    except (OSError, subprocess.SubprocessError, KeyError, ValueError, StopIteration) as error:
        raise Unavailable("a microVM cannot be connected", why=repr(error), next="caddis doctor") from error
    return Card(Tap(netns=netns, name=TAP, mac=mac, mtu=addresses.mtu), addresses)


def listen_near(netns: Path) -> socket.socket:
    """Where only this Machine's guest, and this host, can connect to. Raises `OSError`. Blocks."""

    def run() -> socket.socket:
        listening = socket.socket(socket.AF_INET6)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind((NEAR, NEAR_PORT, 0, socket.if_nametoindex(BRIDGE)))
            listening.listen(QUEUE)
        except OSError:
            listening.close()
            raise
        return listening

    return namespace.inside(netns, run)


def open_tap(netns: Path, name: str = TAP) -> int:
    """A descriptor of the tap, which is there as long as somebody has it. Blocks."""

    def run() -> int:
        descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            flags = _IFF_TAP | _IFF_NO_PI | _IFF_VNET_HDR
            fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
            _ip(f"link set {name} master {BRIDGE} up", f"link set {name} type bridge_slave learning off")
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    try:
        return namespace.inside(netns, run)
    except OSError as error:
        raise Unavailable("a microVM's network card cannot be made", why=str(error), next="caddis doctor") from error


def lend_tap(netns: Path, name: str, uid: int) -> None:
    """Make the tap stay, and let this user open it. It goes with its namespace. Blocks."""
    descriptor = open_tap(netns, name)
    try:
        fcntl.ioctl(descriptor, _TUNSETOWNER, uid)
        fcntl.ioctl(descriptor, _TUNSETPERSIST, 1)
    except OSError as error:
        raise Unavailable("a microVM's network card cannot be lent", why=str(error), next="caddis doctor") from error
    finally:
        os.close(descriptor)


def _join(mac: str) -> _Had:
    """Every step may be repeated, also by somebody who did not see the ones before."""
    bridge = Path(f"/proc/sys/net/ipv4/conf/{BRIDGE}").exists()
    noted = _asked("link", "show", "dev", BRIDGE)[0].get("ifalias", "") if bridge else ""
    if noted:
        had = _Had.noted(noted)
    else:
        had = _found()
        for name in ("all", "default"):
            Path(f"/proc/sys/net/ipv6/conf/{name}/disable_ipv6").write_text("1")
        _ip(
            *([f"link del {BRIDGE}"] if bridge else []),
            f"link add {BRIDGE} address {mac} type bridge stp_state 0 mcast_snooping 0",
            f"link set {BRIDGE} alias {had.note}",
        )
    _ip(
        f"addr flush dev {_LINK}",
        # A bridge keeps for itself what is sent to the address of one of its own ends.
        f"link set {_LINK} address {mac} master {BRIDGE}",
        f"link set {_LINK} type bridge_slave learning off",
    )
    for name, value in _NEAR_SETTINGS.items():
        Path(f"/proc/sys/net/ipv6/conf/{BRIDGE}/{name}").write_text(value)
    _ip(f"link set {BRIDGE} up", f"addr replace {NEAR}/64 dev {BRIDGE} nodad")
    return had


def _found() -> _Had:
    """What the link has before it is joined."""
    (link,) = _asked("address", "show", "dev", _LINK)
    own = {entry["family"]: entry["local"] for entry in link["addr_info"] if entry["scope"] == "global"}
    via = {
        family: next(route["gateway"] for route in _asked(option, "route", "show", "default"))
        for family, option in (("inet", "-4"), ("inet6", "-6"))
    }
    addresses = Addresses(
        ipv4=own["inet"], ipv6=own["inet6"], gateway4=via["inet"], gateway6=via["inet6"], mtu=link["mtu"]
    )
    return _Had(addresses, link["link_index"])


def _addresses_of(id: str) -> tuple[str, str]:
    """Hardware addresses: the guest's, and that of the bridge's own end."""
    digest = hashlib.sha256(id.encode()).digest()
    first, second = (":".join(f"{byte:02x}" for byte in (0x02, *digest[at : at + 5])) for at in (0, 5))
    return first, second


def _asked(*arguments: str) -> Any:
    done = subprocess.run(["ip", "-j", *arguments], capture_output=True, check=True, timeout=_TIMEOUT_S)
    return json.loads(done.stdout)


def _ip(*lines: str) -> None:
    batch = "\n".join((*lines, "")).encode()
    done = subprocess.run(["ip", "-batch", "-"], input=batch, capture_output=True, check=False, timeout=_TIMEOUT_S)
    if done.returncode:
        raise Internal("a microVM cannot be connected", why=done.stderr.decode(errors="replace").strip()[-500:])
