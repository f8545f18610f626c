"""Tenants name registries; the operator's network is not theirs to ask."""

from __future__ import annotations

import ipaddress
import json
import socket
from ipaddress import ip_address

import pytest

from caddisfly.host.images import outside
from caddisfly.host.images.outside import Address, Frontier, network_of
from caddisfly.host.images.store import ImageStore
from caddisfly.model.errors import InvalidArgument, Unavailable
from tests.images.conftest import OpenStore
from tests.images.factories import ImageParts, TarFactory
from tests.images.registry_server import FakeRegistry

Answers = dict[str, list[list[str]]]

INSIDE = [
    "10.0.0.7",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "127.0.0.1",
    "127.9.9.9",
    "169.254.169.254",
    "0.0.0.0",
    "0.1.2.3",
    "224.0.0.1",
    "240.0.0.1",
    "255.255.255.255",
    "192.0.0.8",
    "198.18.0.1",
    "::1",
    "::",
    "fe80::1",
    "fe80::1%lo",
    "fd00::1",
    "fdaa:0:1::2",
    "fec0::1",
    "ff02::1",
    "::ffff:10.0.0.7",
    "::ffff:127.0.0.1",
    "::127.0.0.1",
    "64:ff9b::7f00:1",
    "64:ff9b::a00:7",
    "2002:7f00:1::1",
    "2002:a00:7::1",
]


@pytest.mark.parametrize("address", INSIDE)
def test_what_is_inside_is_closed(address: str) -> None:
    assert not Frontier().open_to(ip_address(address), 443)


@pytest.mark.parametrize(
    "address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1", "64:ff9b::101:101"]
)
def test_what_is_outside_is_open(address: str) -> None:
    assert Frontier().open_to(ip_address(address), 5000)


def test_the_hosts_own_public_address_serves_what_everybody_is_served(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outside, "_is_own", lambda address: address == ip_address("93.184.216.34"))
    frontier = Frontier()
    assert frontier.open_to(ip_address("93.184.216.34"), 443)
    assert not frontier.open_to(ip_address("93.184.216.34"), 4222)


def test_what_is_own_is_known_by_the_routing_table() -> None:
    assert outside._is_own(ip_address("127.0.0.1"))
    assert not outside._is_own(ip_address("192.0.2.1"))


def test_a_listed_network_is_open() -> None:
    network = network_of("10.1.0.0/16")
    assert isinstance(network, ipaddress.IPv4Network)
    assert Frontier((network,)).open_to(ip_address("10.1.2.3"), 5000)
    assert not Frontier((network,)).open_to(ip_address("10.2.2.3"), 5000)
    assert network_of("registry.corp:5000") is None


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch) -> Answers:
    """What names resolve to, one answer for each time they are asked; the last one stays."""
    known: Answers = {}

    async def resolve(host: str, port: int) -> list[Address]:
        queue = known.get(host)
        if queue is None:
            return [ip_address(host)]
        return [ip_address(text) for text in (queue.pop(0) if len(queue) > 1 else queue[0])]

    monkeypatch.setattr(outside, "resolve", resolve)
    return known


def port_of(registry: FakeRegistry) -> str:
    return registry.host.rpartition(":")[2]


def parts() -> ImageParts:
    return ImageParts(TarFactory().file("f").tar())


@pytest.mark.parametrize("name", ["10.0.0.7:5000", "192.168.1.1", "[fd00::1]:5000", "100.64.0.1"])
async def test_a_private_address_is_no_registry(open_store: OpenStore, name: str) -> None:
    store = await open_store(local_registries=False)
    with pytest.raises(InvalidArgument, match="private network") as caught:
        await store.resolve(f"{name}/x:1")
    assert "private_registries" in caught.value.next
    assert caught.value.status == "registry_refused"


@pytest.mark.parametrize("spelling", ["127.1", "2130706433", "0x7f000001"])
async def test_other_spellings_of_loopback_are_seen_through(open_store: OpenStore, spelling: str) -> None:
    store = await open_store(local_registries=False)
    with pytest.raises(InvalidArgument, match="private network"):
        await store.resolve(f"{spelling}:5000/x:1")


async def test_a_name_that_leads_inside_is_refused_before_anything_is_sent(
    open_store: OpenStore, registry: FakeRegistry, answers: Answers
) -> None:
    registry.push("x:1", parts())
    answers["cdn.example.org"] = [["127.0.0.1", "::1", "169.254.169.254"]]
    store = await open_store(local_registries=False)
    with pytest.raises(InvalidArgument, match=r"registry cdn\.example\.org is in a private network") as caught:
        await store.resolve(f"cdn.example.org:{port_of(registry)}/x:1")
    assert "127.0.0.1" not in str(caught.value.to_record()), "where it leads is not for tenants"
    assert registry.requests == []


async def test_a_name_that_changes_its_mind_gains_nothing(
    open_store: OpenStore, registry: FakeRegistry, answers: Answers
) -> None:
    """DNS rebinding: public when it is looked at, loopback when it is used. What was looked at is what is used."""
    registry.push("x:1", parts())
    answers["rebind.example.org"] = [["192.88.99.1"], ["127.0.0.1"]]
    store = await open_store(local_registries=False, connect_timeout_s=0.2, retry_attempts=1)
    with pytest.raises(Unavailable):
        await store.resolve(f"rebind.example.org:{port_of(registry)}/x:1")
    with pytest.raises(InvalidArgument, match="private network"):
        await store.resolve(f"rebind.example.org:{port_of(registry)}/x:1")
    assert registry.requests == []


async def test_of_several_addresses_only_the_outside_ones_are_tried(
    open_store: OpenStore, registry: FakeRegistry, answers: Answers
) -> None:
    answers["both.example.org"] = [["127.0.0.1", "192.88.99.1"]]
    store = await open_store(local_registries=False, connect_timeout_s=0.2, retry_attempts=1)
    with pytest.raises(Unavailable):
        await store.resolve(f"both.example.org:{port_of(registry)}/x:1")
    assert registry.requests == []


async def test_a_redirect_cannot_lead_inside_either(open_store: OpenStore, answers: Answers) -> None:
    """A tenant's registry may be real and redirect to what the host alone can reach."""
    lure, target = FakeRegistry(), FakeRegistry()
    try:
        image = parts()
        lure.push("x:1", image)
        target.blobs = image.blobs
        lure.redirect_to = f"http://inside.example.org:{port_of(target)}"
        answers["inside.example.org"] = [["10.0.0.7"]]
        store = await open_store(local_registries=True)
        with pytest.raises(InvalidArgument, match=r"inside\.example\.org is in a private network"):
            await store.resolve(f"{lure.host}/x:1")
        assert target.requests == []
    finally:
        lure.close()
        target.close()


@pytest.mark.parametrize(
    "setting",
    [
        {"private_registries": ["registry.corp:{port}"], "insecure_registries": ["registry.corp:{port}"]},
        {"insecure_registries": ["registry.corp:{port}"]},
        {"mirrors": {"registry.corp:{port}": "http://127.0.0.1:{port}"}},
    ],
)
async def test_what_the_operator_names_may_be_anywhere(
    open_store: OpenStore, registry: FakeRegistry, setting: dict[str, object], monkeypatch: pytest.MonkeyPatch
) -> None:
    real = socket.getaddrinfo

    def getaddrinfo(host: object, *args: object, **more: object) -> object:
        return real("127.0.0.1" if host in ("registry.corp", b"registry.corp") else host, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    registry.push("x:1", parts())
    changes = json.loads(json.dumps(setting).replace("{port}", port_of(registry)))
    store: ImageStore = await open_store(local_registries=False, **changes)
    resolved = await store.resolve(f"registry.corp:{port_of(registry)}/x:1")
    assert resolved.digest


async def test_a_network_of_the_operator_is_open_to_names_in_it(
    open_store: OpenStore, registry: FakeRegistry, answers: Answers
) -> None:
    registry.push("x:1", parts())
    answers["team.example.org"] = [["127.0.0.1"]]
    store = await open_store(local_registries=False, private_registries=["127.0.0.0/8"], retry_attempts=1)
    with pytest.raises(Unavailable):  # https to a server without it: let through, and not understood
        await store.resolve(f"team.example.org:{port_of(registry)}/x:1")


async def test_a_proxy_of_the_environment_is_not_sent_inside(
    open_store: OpenStore, registry: FakeRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("https_proxy", f"http://{registry.host}")
    monkeypatch.delenv("no_proxy", raising=False)
    store = await open_store(local_registries=False)
    with pytest.raises(InvalidArgument, match="private network"):
        await store.resolve("10.0.0.7:5000/x:1")
    assert registry.requests == []
