"""The way to registries that tenants name: to the outside, never into the operator's network.

A tenant who writes `FROM 10.0.0.7:9200/x` makes the host's agent ask a server that the tenant's own Machines cannot
reach. What counts is the address that is really connected to, so it is looked at there, between name resolution and
`connect`: a name that resolves to something else the second time, a redirect, a token server and `127.1` all pass this
one place. The connection goes to the very address that was checked.

Through a proxy of the environment names are resolved by the proxy, and addresses that a tenant spells out are still
refused here; what names may mean there is the proxy's matter, as for everything else on the operator's network.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import socket
import ssl
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast
from urllib import request as environment

import httpcore
import httpx

from caddisfly.model.errors import InvalidArgument

log = logging.getLogger(__name__)

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
OWN = (
    ipaddress.ip_network("127.0.0.0/8"),
    ipaddress.ip_network("169.254.0.0/16"),
    ipaddress.ip_network("0.0.0.0/32"),
    ipaddress.ip_network("::/127"),
    ipaddress.ip_network("fe80::/10"),
)
"""Loopback, unspecified and link-local addresses."""
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_UNICAST = ipaddress.ip_network("2000::/3")
_PUBLIC_PORTS = frozenset({80, 443})


@dataclass(frozen=True, slots=True)
class Frontier:
    """Which addresses may be connected to."""

    allowed: tuple[Network, ...] = ()

    def open_to(self, address: Address, port: int) -> bool:
        if any(address.version == network.version and address in network for network in self.allowed):
            return True
        return all(_is_public(one) for one in _meanings(address)) and (
            # The host's own public address: there only what everybody is served.
            port in _PUBLIC_PORTS or not _is_own(address)
        )


class Outside(httpx.AsyncBaseTransport):
    """Requests that leave, or are refused."""

    def __init__(self, frontier: Frontier, *, context: ssl.SSLContext, limits: httpx.Limits) -> None:
        self._frontier = frontier
        self._direct = _Guarded(frontier, context=context, limits=limits)
        self._proxies = {
            scheme: httpx.AsyncHTTPTransport(proxy=url, verify=context, limits=limits)
            for scheme, url in environment.getproxies().items()
            if scheme in ("http", "https")
        }

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host, proxy = request.url.host, self._proxies.get(request.url.scheme)
        if proxy is None or environment.proxy_bypass(host):
            return await self._direct.handle_async_request(request)
        address = _spelt_out(host)
        if host == "localhost" or (address and not self._frontier.open_to(address, request.url.port or 443)):
            raise refused(host)
        return await proxy.handle_async_request(request)

    async def aclose(self) -> None:
        for transport in (self._direct, *self._proxies.values()):
            await transport.aclose()


class _Guarded(httpx.AsyncHTTPTransport):
    """The only difference to httpx's own is who opens connections, for which it has no parameter."""

    def __init__(self, frontier: Frontier, *, context: ssl.SSLContext, limits: httpx.Limits) -> None:
        super().__init__(verify=context, limits=limits)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            max_connections=limits.max_connections,
            max_keepalive_connections=limits.max_keepalive_connections,
            keepalive_expiry=limits.keepalive_expiry,
            network_backend=Gate(frontier),
        )


class Gate(httpcore.AnyIOBackend):
    """Opens connections to addresses that it has looked at."""

    def __init__(self, frontier: Frontier) -> None:
        self._frontier = frontier

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[httpcore.SOCKET_OPTION] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        began = time.monotonic()
        try:
            async with asyncio.timeout(timeout):
                found = await resolve(host, port)
        except TimeoutError as error:
            raise httpcore.ConnectTimeout(f"{host} does not resolve in time") from error
        except OSError as error:
            raise httpcore.ConnectError(f"{host} does not resolve: {error}") from error
        open_ = [address for address in found if self._frontier.open_to(address, port)]
        if not open_:
            shown = [str(address) for address in found]
            log.warning("image_registry_refused", extra={"registry": host, "port": port, "addresses": shown})
            raise refused(host)
        for place, address in enumerate(open_, start=1):
            # Each gets an equal part of what time is left: one that drops packets does not use up the others'.
            left = None if timeout is None else (timeout - (time.monotonic() - began)) / (len(open_) - place + 1)
            try:
                return await super().connect_tcp(
                    str(address), port, timeout=left, local_address=local_address, socket_options=socket_options
                )
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if place == len(open_):
                    raise
        raise AssertionError("unreachable: the last address connects or raises")


async def resolve(host: str, port: int) -> list[Address]:
    """The addresses of a name, in the order in which they should be tried."""
    infos = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return [ipaddress.ip_address(cast(str, info[4][0])) for info in infos]


def refused(host: str) -> InvalidArgument:
    return InvalidArgument(
        f"registry {host} is in a private network",
        why="tenants name images, and what only this host can reach is not theirs to ask",
        next=f'[images] private_registries = ["{host}"], if that registry is meant for them',
        status="registry_refused",
    )


def network_of(text: str) -> Network | None:
    """The network that a setting spells, or None when it is a name."""
    try:
        return ipaddress.ip_network(text, strict=False) if "/" in text else None
    except ValueError:
        return None


def _meanings(address: Address) -> list[Address]:
    """The address, and the IPv4 address that a translator on the way would make of it."""
    if isinstance(address, ipaddress.IPv4Address):
        return [address]
    if address.ipv4_mapped is not None:
        return [address.ipv4_mapped]
    found: list[Address] = [address]
    if address.sixtofour is not None:
        found.append(address.sixtofour)
    if address.teredo is not None:
        found.extend(address.teredo)
    if address in _NAT64:
        return [ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)]
    return found


def _is_public(address: Address) -> bool:
    if isinstance(address, ipaddress.IPv6Address) and address not in _UNICAST:
        return False  # all else is local, multicast or not given out
    return address.is_global and not address.is_multicast


def _is_own(address: Address) -> bool:
    """Whether packets to it stay here. Connecting a datagram socket sends nothing; it only asks the routing table."""
    with socket.socket(socket.AF_INET6 if address.version == 6 else socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((str(address), 9))
        except OSError:
            return False  # unreachable, then
        return ipaddress.ip_address(probe.getsockname()[0]) == address


def _spelt_out(host: str) -> Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None
