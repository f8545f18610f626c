"""Who may send packets to whom, in nftables.

Deny is the default in every direction that crosses a network. A packet from a Machine is first matched, interface and
source address together, against what that interface owns: a forged source matches nothing and is dropped. The match
yields the network's number, and only (network, destination) pairs that exist may be reached. Nothing of the host's own
is reachable from a Machine, whatever listens there; replies to what the host began are.

The rules are few and fixed; Machines are elements of sets. Adding one through libnftables takes 0.2 ms, through a new
`nft` process 4. Rules touch only our own interfaces: what else this host forwards is not our business.

Whoever begins a connection is asked for every packet whether it may; only answers pass because the connection is known.
So one that came about while somebody had taken the rules away does not outlive their return (`guard.py`).
"""

from __future__ import annotations

import ctypes
import json
import logging
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from caddisfly.model.errors import FailedPrecondition, Internal

log = logging.getLogger(__name__)

TABLE = "caddisfly"
LINK_PREFIX = "cfm"
HALF_CLOSED_S = 5 * 24 * 3600
"""How long the host remembers a connection of a Machine that one side has closed and the other has not: as long as one
that is open. By default it is a minute, and then nobody could say that a Machine has none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Port:
    """Where a Machine is plugged in: its link on the host, its addresses, its network."""

    link: str
    ipv4: str
    ipv6: str
    network_id: int

    def elements(self) -> dict[str, str]:
        mark = f"0x{self.network_id:08x}"
        return {
            "source4": f'"{self.link}" . {self.ipv4} : {mark}',
            "source6": f'"{self.link}" . {self.ipv6} : {mark}',
            "member4": f"{mark} . {self.ipv4}",
            "member6": f"{mark} . {self.ipv6}",
        }

    def shown(self) -> dict[str, tuple[str | int, ...]]:
        """The same elements as they are listed."""
        return {
            "source4": (self.link, self.ipv4, self.network_id),
            "source6": (self.link, self.ipv6, self.network_id),
            "member4": (self.network_id, self.ipv4),
            "member6": (self.network_id, self.ipv6),
        }

    def keys(self) -> dict[str, str]:
        link = f'"{self.link}"'
        hushed = {"hushed": link, "hushed_to": link}
        return {name: element.split(" : ")[0] for name, element in self.elements().items()} | hushed


def ruleset(pool: str) -> str:
    """The fixed part. Loading it again keeps the elements that are there."""
    return f"""
table inet {TABLE} {{
  map source4 {{ type ifname . ipv4_addr : mark; }}
  map source6 {{ type ifname . ipv6_addr : mark; }}
  set member4 {{ type mark . ipv4_addr; }}
  set member6 {{ type mark . ipv6_addr; }}
  set hushed {{ type ifname; counter; }}
  set hushed_to {{ type ifname; }}
  chain hush_from {{
    type filter hook prerouting priority mangle; policy accept;
    tcp flags & (fin | syn | rst | ack) == syn iifname @hushed drop
  }}
  chain hush_to {{
    type filter hook postrouting priority mangle; policy accept;
    tcp flags & (fin | syn | rst | ack) == syn oifname @hushed_to drop
  }}
  chain from_machine {{
    meta mark set 0x0
    meta mark set iifname . ip saddr map @source4
    meta mark set iifname . ip6 saddr map @source6
    meta mark 0x0 counter drop
    ct state related meta mark set 0x0 accept
    ct state established ct direction reply meta mark set 0x0 accept
    meta mark . ip daddr @member4 meta mark set 0x0 accept
    meta mark . ip6 daddr @member6 meta mark set 0x0 accept
    meta mark set 0x0
    oifname "{LINK_PREFIX}*" reject
    ip daddr {{ 169.254.0.0/16, 127.0.0.0/8, 224.0.0.0/4, {pool} }} reject
    ip6 daddr {{ fe80::/10, ff00::/8, fdaa::/16 }} reject
    accept
  }}
  chain forward {{
    type filter hook forward priority filter; policy accept;
    iifname "{LINK_PREFIX}*" jump from_machine
    oifname "{LINK_PREFIX}*" ct state related accept
    oifname "{LINK_PREFIX}*" ct state established ct direction reply accept
    oifname "{LINK_PREFIX}*" drop
  }}
  chain input {{
    type filter hook input priority filter; policy accept;
    iifname "{LINK_PREFIX}*" jump to_host
  }}
  chain to_host {{
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    meta mark set 0x0
    meta mark set iifname . ip saddr map @source4
    meta mark set iifname . ip6 saddr map @source6
    meta mark 0x0 counter drop
    meta mark set 0x0
    ct state related accept
    ct state established ct direction reply accept
    reject
  }}
  chain outward {{
    type nat hook postrouting priority srcnat; policy accept;
    ip saddr {pool} oifname != "{LINK_PREFIX}*" masquerade
    ip6 saddr fdaa::/16 oifname != "{LINK_PREFIX}*" masquerade
  }}
}}
"""


_REMEMBER = f"""
table inet {TABLE} {{
  ct timeout half_closed4 {{
    protocol tcp; l3proto ip; policy = {{ close_wait : {HALF_CLOSED_S}, last_ack : {HALF_CLOSED_S} }};
  }}
  ct timeout half_closed6 {{
    protocol tcp; l3proto ip6; policy = {{ close_wait : {HALF_CLOSED_S}, last_ack : {HALF_CLOSED_S} }};
  }}
  chain remember {{
    meta nfproto ipv4 ct timeout set "half_closed4"
    meta nfproto ipv6 ct timeout set "half_closed6"
  }}
  chain remember_from {{
    type filter hook prerouting priority mangle; policy accept;
    iifname "{LINK_PREFIX}*" meta l4proto tcp ct state new jump remember
  }}
  chain remember_forward {{
    type filter hook forward priority mangle; policy accept;
    oifname "{LINK_PREFIX}*" meta l4proto tcp ct state new jump remember
  }}
  chain remember_output {{
    type filter hook output priority mangle; policy accept;
    oifname "{LINK_PREFIX}*" meta l4proto tcp ct state new jump remember
  }}
}}
"""


_OF_PORTS = ("source4", "source6", "member4", "member6")
_GONE = "the table was gone"
_NOT_THERE = "No such file"
_STATELESS, _JSON, _TERSE = 1 << 2, 1 << 4, 1 << 11
"""How libnftables is to list: without counters; in JSON; without what is in sets."""


class Firewall:
    """The table, through one context of libnftables. It knows what belongs into it, to make it anew."""

    def __init__(self, pool: str) -> None:
        try:
            self._library = ctypes.CDLL("libnftables.so.1")
        except OSError as error:
            raise FailedPrecondition(
                "libnftables is not installed", why=str(error), next="apt-get install nftables"
            ) from error
        self._library.nft_ctx_new.restype = ctypes.c_void_p
        for name in ("nft_ctx_get_error_buffer", "nft_ctx_get_output_buffer"):
            getattr(self._library, name).restype = ctypes.c_char_p
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
        for name in ("nft_ctx_buffer_output", "nft_ctx_buffer_error"):
            getattr(self._library, name).argtypes = [ctypes.c_void_p]
        self._library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
        self._library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
        self._context = self._library.nft_ctx_new(0)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)
        self._lock = threading.RLock()
        self._rules = ruleset(pool)
        self._listed = ""
        """The rules as the kernel shows them when nobody has changed them."""
        self._ports: dict[str, Port] = {}
        self.history = "in place"
        """What became of its rules since this agent began, for people."""
        self._times_made_anew = 0

    def ensure(self) -> bool:
        """Put the fixed rules in place, replacing those of an older version, in one transaction.

        Returns whether there was a table.
        """
        with self._lock:
            there = self._wrong() != _GONE
            self._run(f"table inet {TABLE} {{ }}\nflush table inet {TABLE}\n{self._rules}")
            self._listed = self._list()
            return there

    def remember(self) -> None:
        """Keep in mind how connections of Machines end. Raises `Internal` where the kernel cannot be told to."""
        with self._lock:
            self._run(_REMEMBER)
            self._rules += _REMEMBER
            self._listed = self._list()

    def mend(self) -> str:
        """Make the table anew if it is not as it should be. Returns what was wrong; empty: nothing.

        One transaction: no packet meets half of it. Whoever was hushed no longer is, and `attempts` says so.
        """
        with self._lock:
            wrong = self._wrong()
            if wrong:
                elements = [line for port in self._ports.values() for line in _additions(port)]
                anew = f"table inet {TABLE} {{ }}\ndelete table inet {TABLE}\n{self._rules}\n"
                self._run(anew + "\n".join(elements))
                self._listed = self._list()
                self._times_made_anew += 1
                now = datetime.now(UTC).isoformat(timespec="seconds")
                self.history = f"in place, made anew {self._times_made_anew} times, last at {now}: {wrong}"
                log.warning("network.firewall_made_anew", extra={"reason": wrong, "machines": len(self._ports)})
            return wrong

    def _wrong(self) -> str:
        try:
            listed = self._list()
        except Internal as error:
            if _NOT_THERE not in error.why:
                raise
            return _GONE
        if listed != self._listed:
            return "its rules were changed"
        found = {name: {_shown(element) for element in self.elements(name)} for name in _OF_PORTS}
        missing = sum(1 for port in self._ports.values() if any(it not in found[at] for at, it in port.shown().items()))
        return f"{missing} Machines were missing in it" if missing else ""

    def _list(self) -> str:
        return self._run(f"list table inet {TABLE}", _STATELESS | _TERSE)

    def hush(self, port: Port) -> None:
        """Let no new TCP connection begin, to this Machine or from it. What is open goes on."""
        self._run(
            f'add element inet {TABLE} hushed {{ "{port.link}" }}\n'
            f'add element inet {TABLE} hushed_to {{ "{port.link}" }}'
        )

    def unhush(self, port: Port) -> None:
        """Saying it twice changes nothing."""
        self._remove({"hushed": f'"{port.link}"', "hushed_to": f'"{port.link}"'})

    def attempts(self, port: Port) -> int:
        """How many connections a hushed Machine has tried to begin."""
        for element in self.elements("hushed"):
            if isinstance(element, dict) and element["elem"]["val"] == port.link:
                return int(element["elem"]["counter"]["packets"])
        raise FailedPrecondition(f"{port.link} is not hushed")

    def plug(self, port: Port) -> None:
        """Let a Machine speak. Saying it twice changes nothing."""
        with self._lock:
            self._ports[port.link] = port
            try:
                self._run("\n".join(_additions(port)))
            except Internal:
                if not self.mend():
                    del self._ports[port.link]
                    raise

    def unplug(self, port: Port) -> None:
        """Silence it. Elements that are not there are no error: a crash may have come first."""
        with self._lock:
            self._ports.pop(port.link, None)
            self._remove(port.keys())

    def _remove(self, elements: dict[str, str]) -> None:
        for name, key in elements.items():
            try:
                self._run(f"delete element inet {TABLE} {name} {{ {key} }}")
            except Internal as error:
                if _NOT_THERE not in error.why:
                    raise

    def elements(self, name: str) -> list[object]:
        """What is in a set or map, as libnftables prints it in JSON."""
        listed = json.loads(
            self._run(f"list {'map' if name.startswith('source') else 'set'} inet {TABLE} {name}", _JSON)
        )
        found: list[object] = []
        for item in listed["nftables"]:
            found += (item.get("set") or item.get("map") or {}).get("elem", [])
        return found

    def remove(self) -> None:
        """Take the whole table away."""
        self._run(f"table inet {TABLE} {{ }}\ndelete table inet {TABLE}")

    def _run(self, text: str, flags: int = 0) -> str:
        with self._lock:
            self._library.nft_ctx_output_set_flags(self._context, flags)
            failed = self._library.nft_run_cmd_from_buffer(self._context, text.encode())
            said: bytes = self._library.nft_ctx_get_error_buffer(self._context) or b""
            out: bytes = self._library.nft_ctx_get_output_buffer(self._context) or b""
        if failed:
            raise Internal(
                "the firewall cannot be changed", why=said.decode(errors="replace").strip()[:500], next="caddis doctor"
            )
        return out.decode()


def _additions(port: Port) -> list[str]:
    return [f"add element inet {TABLE} {name} {{ {element} }}" for name, element in port.elements().items()]


def _shown(element: Any) -> tuple[str | int, ...]:
    """An element as it is listed: a key of several parts, in a map with its value."""
    key, value = element if isinstance(element, list) else (element, None)
    parts = key.get("elem", {}).get("val", key)["concat"]
    return (*parts, *(() if value is None else (value,)))
