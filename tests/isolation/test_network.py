"""Who reaches whom (faults.md row 22): tenants, networks of one tenant, the host, the world; over IPv4 and IPv6."""

from __future__ import annotations

import asyncio
import socket
import subprocess
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

import pytest

from caddisfly.bus.connection import Bus
from caddisfly.bus.projection import Projection
from caddisfly.model.machine import Machine
from tests.conftest import NatsServer, eventually
from tests.host.conftest import POOL, RunningAgent, Watcher, pid_of
from tests.isolation import outside as world
from tests.isolation.outside import Outside
from tests.isolation.wire import Listener, datagram, family_of, raw_sender, said, udp_receiver
from tests.leaks import traces

HERE = Path("/proc/self/ns/net")
GATEWAY = POOL.replace(".0.0/16", ".0.1")
SERVE = "exec nc -ll -p 8080 -e /bin/echo served"
CALLERS = ThreadPoolExecutor(32)
"""Who calls in vain waits; so many at once."""

Tenants = dict[str, Machine]


def namespace(machine: Machine) -> Path:
    return Path("/run/netns") / machine.run_id


def addresses(machine: Machine) -> tuple[str, str]:
    return machine.ipv4, machine.private_ip


@pytest.fixture(scope="module")
def tenants(shared_agent: RunningAgent, shared_nats: NatsServer) -> Iterator[Tenants]:
    """`a` and `b` share a network; `apart` has another one of the same organization; `stranger` is another's.

    Nothing here changes them, so one set serves all tests.
    """
    before = traces()
    yield asyncio.run(_started(shared_agent, shared_nats))

    async def cleared() -> None:
        await shared_agent.clear()
        await eventually(lambda: not traces() - before, timeout_s=5)

    asyncio.run(cleared())


async def _started(agent: RunningAgent, nats: NatsServer) -> Tenants:
    apps = {
        "a": agent.app,
        "b": agent.app,
        "apart": agent.app.model_copy(update={"network_id": 8, "name": "apart", "id": "app0000000000008"}),
        "stranger": agent.app.model_copy(
            update={"network_id": 9, "name": "strange", "id": "app0000000000009", "org_id": "org2", "org_slug": "rival"}
        ),
    }
    made = [await agent.create(SERVE, app=app) for app in apps.values()]
    async with watching(nats) as watcher:
        started = {name: await watcher.until(machine, "started") for name, machine in zip(apps, made, strict=True)}
    for machine in started.values():
        await eventually(lambda machine=machine: listens(agent, machine))
    return started


@asynccontextmanager
async def watching(nats: NatsServer) -> AsyncIterator[Watcher]:
    bus = Bus(url=nats.url, token=nats.token, name="watcher")
    bus.open()
    projection = Projection(bus)
    projection.start()
    await eventually(projection.ready.is_set)
    try:
        yield Watcher(projection)
    finally:
        await projection.stop()
        await bus.close()


def listens(agent: RunningAgent, machine: Machine) -> bool:
    directory = Path(f"/proc/{pid_of(agent, machine)}/net")
    return any(":1F90 " in (directory / name).read_text() for name in ("tcp", "tcp6"))


async def reaches(caller: Path, address: str, port: int = 8080) -> bool:
    return await asyncio.get_running_loop().run_in_executor(CALLERS, said, caller, address, port) is not None


async def test_only_machines_of_one_network_reach_each_other(tenants: Tenants) -> None:
    listeners = {
        (name, address): Listener(namespace(machine), address)
        for name, machine in tenants.items()
        for address in addresses(machine)
    }
    pairs = [
        (here, there, address, listener.port)
        for (there, address), listener in listeners.items()
        for here in tenants
        if here != there
    ]
    try:
        found = await asyncio.gather(*(reaches(namespace(tenants[here]), to, port) for here, _, to, port in pairs))
    finally:
        for listener in listeners.values():
            listener.close()
    reached = {(here, there, to) for (here, there, to, _), good in zip(pairs, found, strict=True) if good}
    assert reached == {
        (here, there, to) for here, there in (("a", "b"), ("b", "a")) for to in addresses(tenants[there])
    }


async def test_programs_inside_find_the_same(shared_agent: RunningAgent, tenants: Tenants) -> None:
    """The sockets of the other tests are made by root of the host; here an ordinary program tries."""
    a, b, stranger = tenants["a"], tenants["b"], tenants["stranger"]

    async def heard(caller: Machine, address: str) -> str:
        return (await shared_agent.shell(caller, f"nc -w 2 {address} 8080 </dev/null 2>&1")).stdout

    assert "served" in await heard(a, b.ipv4)
    assert "served" in await heard(a, b.private_ip)
    for address in addresses(stranger):
        assert "served" not in await heard(a, address)


def host_addresses() -> set[str]:
    lines = subprocess.run(["ip", "-o", "addr", "show"], capture_output=True, text=True, check=True).stdout.splitlines()
    return {fields[3].split("/")[0] for line in lines if (fields := line.split())[2] in ("inet", "inet6")}


async def test_machines_do_not_reach_the_host_which_reaches_them(tenants: Tenants, outside: Outside) -> None:
    """Every address of every interface, its own end of the Machine's link among them."""
    machine = tenants["a"]
    every = host_addresses() | {GATEWAY, "fe80::1"}
    assert {world.HOST4, world.HOST6} < every
    for address in addresses(machine):
        assert await reaches(HERE, address), "the host reaches its Machines"
    with ExitStack() as stack:
        ports = {}
        for family, anywhere in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            listener = Listener(HERE, anywhere)
            stack.callback(listener.close)
            ports[family] = listener.port
        assert await reaches(HERE, GATEWAY, ports[socket.AF_INET])
        assert await reaches(HERE, world.HOST6, ports[socket.AF_INET6])
        found = await asyncio.gather(
            *(reaches(namespace(machine), address, ports[family_of(address)]) for address in every)
        )
    assert {address for address, good in zip(every, found, strict=True) if good} == set()


async def test_the_host_answers_no_datagrams(tenants: Tenants) -> None:
    """A resolver or a metrics port of the host that listens on UDP hears nothing from Machines."""
    machine = tenants["a"]
    for source, target in ((machine.ipv4, GATEWAY), (machine.private_ip, tenants["b"].private_ip)):
        here = HERE if target == GATEWAY else namespace(tenants["b"])
        with udp_receiver(here, target) as receiver, raw_sender(namespace(machine), family_of(source)) as sender:
            packet = datagram(source, target, receiver.getsockname()[1], b"hello")
            sender.sendto(packet, (target, 0))
            if target == GATEWAY:
                # What the host sends itself later arrives, so the earlier one is not on its way any more.
                with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as own:
                    own.sendto(b"own", receiver.getsockname())
                assert receiver.recv(100) == b"own"
            else:
                assert receiver.recv(100) == b"hello", "the same packet to a neighbour arrives"


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
async def test_a_forged_source_goes_nowhere(tenants: Tenants, outside: Outside, family: socket.AddressFamily) -> None:
    """A Machine that lies about its address speaks to nobody, even where the address it took would be heard."""
    index = 0 if family == socket.AF_INET else 1
    a, b, stranger = (addresses(tenants[name])[index] for name in ("a", "b", "stranger"))
    server, host = ((world.SERVER4, world.HOST4), (world.SERVER6, world.HOST6))[index]
    with (
        udp_receiver(namespace(tenants["b"]), b) as receiver,
        raw_sender(namespace(tenants["a"]), family) as neighbour,
        raw_sender(namespace(tenants["stranger"]), family) as liar,
    ):
        port = receiver.getsockname()[1]
        for forged in (a, b, host, server):
            liar.sendto(datagram(forged, b, port, f"as {forged}".encode()), (b, 0))
        liar.sendto(datagram(stranger, b, port, b"as itself"), (b, 0))
        neighbour.sendto(datagram(b, b, port, b"as its neighbour"), (b, 0))
        neighbour.sendto(datagram(a, b, port, b"honest"), (b, 0))
        assert receiver.recv(100) == b"honest", "nothing that was sent before it arrived"
    with udp_receiver(world.NAMESPACE, server) as receiver, raw_sender(namespace(tenants["a"]), family) as liar:
        port = receiver.getsockname()[1]
        for forged in (b, stranger, host, "203.0.113.7" if index == 0 else "2001:db8:ffff::7"):
            liar.sendto(datagram(forged, server, port, b"forged"), (server, 0))
        liar.sendto(datagram(a, server, port, b"honest"), (server, 0))
        text, who = receiver.recvfrom(100)
        assert (text, who[0]) == (b"honest", host)


async def test_link_local_is_refused(tenants: Tenants, outside: Outside) -> None:
    port = outside.port(world.METADATA)
    assert await reaches(HERE, world.METADATA, port), "the host reaches its cloud's metadata"
    assert not await reaches(namespace(tenants["a"]), world.METADATA, port)


async def test_the_world_is_reached_under_the_hosts_address(
    shared_agent: RunningAgent, tenants: Tenants, outside: Outside
) -> None:
    for server, host in ((world.SERVER4, world.HOST4), (world.SERVER6, world.HOST6)):
        for name in ("a", "stranger"):
            heard = await asyncio.to_thread(said, namespace(tenants[name]), server, outside.port(server))
            assert heard == host
    inside = await shared_agent.shell(tenants["a"], f"nc -w 2 {world.SERVER4} {outside.port(world.SERVER4)} </dev/null")
    assert inside.stdout == world.HOST4


async def test_the_world_does_not_reach_machines(tenants: Tenants, outside: Outside) -> None:
    machine = tenants["a"]
    outside.route(POOL)
    outside.route("fdaa::/16")
    found = await asyncio.gather(*(reaches(world.NAMESPACE, address) for address in addresses(machine)))
    assert found == [False, False]
