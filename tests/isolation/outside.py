"""The world beyond the host: a network namespace behind a pair of links, with servers in it.

Addresses are from the ranges for documentation, so that nothing real is ever meant. 169.254.169.254 stands for the
metadata service of a cloud: the host reaches it, a Machine must not.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.isolation.wire import Listener

NAME, LINK = "caddis-outside", "cadout0"
HOST4, HOST6 = "198.51.100.1", "2001:db8:51::1"
SERVER4, SERVER6, METADATA = "198.51.100.2", "2001:db8:51::2", "169.254.169.254"
NAMESPACE = Path("/run/netns") / NAME


class Outside:
    """A namespace with listeners that say under which address they were called."""

    def __init__(self) -> None:
        self.listeners: dict[str, Listener] = {}

    def open(self) -> None:
        _ip("netns", "add", NAME)
        _ip("link", "add", LINK, "type", "veth", "peer", "name", "eth0", "netns", NAME)
        _ip("addr", "add", f"{HOST4}/24", "dev", LINK)
        _ip("addr", "add", f"{HOST6}/64", "dev", LINK, "nodad")
        _ip("link", "set", LINK, "up")
        for line in (
            f"addr add {SERVER4}/24 dev eth0",
            f"addr add {METADATA}/32 dev eth0",
            f"addr add {SERVER6}/64 dev eth0 nodad",
            "link set eth0 up",
            "link set lo up",
        ):
            _ip("-n", NAME, *line.split())
        _ip("route", "add", f"{METADATA}/32", "dev", LINK)
        for address in (SERVER4, SERVER6, METADATA):
            self.listeners[address] = Listener(NAMESPACE, address)

    def port(self, address: str) -> int:
        return self.listeners[address].port

    def route(self, network: str) -> None:
        """Send what goes to this network to the host."""
        family, via = ("-6", HOST6) if ":" in network else ("-4", HOST4)
        _ip("-n", NAME, family, "route", "add", network, "via", via)

    def close(self) -> None:
        for listener in self.listeners.values():
            listener.close()
        for words in (("link", "del", LINK), ("netns", "del", NAME)):
            subprocess.run(["ip", *words], check=False, capture_output=True)


def _ip(*words: str) -> None:
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"ip {' '.join(words)}: {done.stderr}"
