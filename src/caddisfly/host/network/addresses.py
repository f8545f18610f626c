"""Addresses of Machines.

6PN (reference edge-network, 5.1): `fdaa` | network (32 bits) | host (32) | Machine (32) | 2. A Machine keeps its
address for life. The IPv4 address is private to the host: the edge uses it, because apps bind 0.0.0.0 by habit.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Container

from caddisfly.model.errors import Aborted


def sixpn(*, network_id: int, host_id: str, machine_part: int) -> str:
    """A Machine's 6PN address."""
    value = (0xFDAA << 112) | (network_id << 80) | (int(host_id, 16) << 48) | (machine_part << 16) | 2
    return str(ipaddress.IPv6Address(value))


_SLOTS = 32
"""Addresses at the end of a pool that no Machine is given: for what the host itself runs in a network, as builds."""


def of_slot(pool: str, slot: int) -> str:
    """The address of one of the host's own slots."""
    return str(ipaddress.IPv4Network(pool)[-2 - slot % _SLOTS])


def gateway(pool: str) -> str:
    """The host's own address in the pool: what Machines see as their gateway and as the edge's address."""
    return str(ipaddress.IPv4Network(pool)[1])


def ipv4(pool: str, *, start: int, taken: Container[str]) -> str:
    """The first free address from `start` on, going round, so that a freed one is not used again soon.

    Raises `Aborted` when the pool is used up.
    """
    network = ipaddress.IPv4Network(pool)
    first, count = 2, network.num_addresses - 3 - _SLOTS
    for offset in range(count):
        address = str(network[first + (start + offset) % count])
        if address not in taken:
            return address
    raise Aborted(f"no free address in {pool}", next="set [host] ipv4_pool to a larger network")
