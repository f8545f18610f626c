"""Somebody else's firewall script takes our rules away while Machines run: many begin with `flush ruleset`."""

from __future__ import annotations

import asyncio
import signal
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.host.network.firewall import TABLE
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher
from tests.isolation.wire import Listener, inside, said

Three = tuple[Machine, Machine, Machine]


def nft(text: str) -> None:
    # Never `flush ruleset`: whoever runs this test may have rules of their own. The kernel says the same of both.
    subprocess.run(["nft", text], check=True, capture_output=True)


def namespace(machine: Machine) -> Path:
    return Path("/run/netns") / machine.run_id


async def reaches(caller: Machine, other: Listener, address: str) -> bool:
    return await asyncio.to_thread(said, namespace(caller), address, other.port, timeout_s=0.3) is not None


async def firewall(agent: RunningAgent) -> str:
    status = await agent.ask(contract.HOST_STATUS, contract.Nothing())
    return str(status.facts["firewall"])


@pytest.fixture
async def three(agent: RunningAgent, watcher: Watcher) -> Three:
    """Two of one network, and a stranger."""
    strange = agent.app.model_copy(
        update={"network_id": 9, "name": "strange", "id": "app0000000000009", "org_id": "org2", "org_slug": "rival"}
    )
    made = [await agent.create(app=app) for app in (agent.app, agent.app, strange)]
    a, b, stranger = [await watcher.until(machine, "started") for machine in made]
    return a, b, stranger


@pytest.fixture
def listeners(three: Three) -> Iterator[tuple[Listener, Listener]]:
    opened = tuple(Listener(namespace(machine), machine.ipv4) for machine in three[1:])
    yield opened[0], opened[1]
    for listener in opened:
        listener.close()


@pytest.mark.parametrize(
    ("command", "reason"),
    [
        (f"delete table inet {TABLE}", "the table was gone"),
        (f"flush table inet {TABLE}", "its rules were changed"),
        (f"insert rule inet {TABLE} forward accept", "its rules were changed"),
        (f"flush set inet {TABLE} member4", "3 Machines were missing in it"),
    ],
)
async def test_rules_that_somebody_takes_away_come_back(
    agent: RunningAgent, three: Three, listeners: tuple[Listener, Listener], command: str, reason: str
) -> None:
    a, b, stranger = three
    before = await firewall(agent)

    nft(command)

    await eventually(lambda: _told_anew(agent, before), timeout_s=5)
    assert reason in await firewall(agent)
    assert "network.firewall_touched" in agent.log
    assert await reaches(a, listeners[0], b.ipv4)
    assert not await reaches(a, listeners[1], stranger.ipv4)


async def _told_anew(agent: RunningAgent, before: str) -> bool:
    return await firewall(agent) != before


async def test_a_connection_from_meanwhile_does_not_outlive_their_return(
    agent: RunningAgent, three: Three, listeners: tuple[Listener, Listener]
) -> None:
    a, _, stranger = three
    before = await firewall(agent)
    assert agent.process is not None
    with (
        inside(namespace(stranger), lambda: socket.create_server((stranger.ipv4, 0))) as server,
        inside(namespace(a), socket.socket) as caller,
    ):
        server.settimeout(2)
        caller.settimeout(2)
        _forget_at_close(caller)
        agent.process.send_signal(signal.SIGSTOP)
        try:
            nft(f"delete table inet {TABLE}")
            await asyncio.to_thread(caller.connect, server.getsockname())
            heard, _ = server.accept()
            with heard:
                _forget_at_close(heard)
                caller.sendall(b"meanwhile")
                heard.settimeout(1)
                assert heard.recv(100) == b"meanwhile", "while there were no rules, it was heard"
                agent.process.send_signal(signal.SIGCONT)
                await eventually(lambda: _told_anew(agent, before), timeout_s=5)
                caller.sendall(b"afterwards")
                with pytest.raises(TimeoutError):
                    await asyncio.to_thread(heard.recv, 100)
        finally:
            agent.process.send_signal(signal.SIGCONT)


def _forget_at_close(end: socket.socket) -> None:
    """What is sent in vain would keep its namespace for minutes."""
    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.mark.parametrize("killed", [False, True])
async def test_links_are_shut_while_the_rules_cannot_be_put_back(
    agent: RunningAgent, three: Three, listeners: tuple[Listener, Listener], killed: bool
) -> None:
    """A table that its maker owns can be changed by nobody else. The next agent opens what one that died has shut."""
    a, b, stranger = three
    squatter = await asyncio.create_subprocess_exec("nft", "--interactive", stdin=asyncio.subprocess.PIPE)
    assert squatter.stdin is not None
    try:
        squatter.stdin.write(f"delete table inet {TABLE}; add table inet {TABLE} {{ flags owner; }}\n".encode())
        await squatter.stdin.drain()
        await eventually(lambda: all(not _is_up(machine) for machine in three), timeout_s=5)
        assert "all links are shut" in await firewall(agent)
        assert not await reaches(a, listeners[1], stranger.ipv4)
        if killed:
            agent.kill()
    finally:
        squatter.stdin.close()
        await squatter.wait()
    if killed:
        await agent.restarted()
    await eventually(lambda: all(_is_up(machine) for machine in three), timeout_s=10)
    for to in (b.ipv4, b.private_ip):
        await eventually(lambda to=to: _heard(a, b, to), timeout_s=10)
    assert not await reaches(a, listeners[1], stranger.ipv4)


async def _heard(caller: Machine, other: Machine, address: str) -> bool:
    listener = Listener(namespace(other), address)
    try:
        return await reaches(caller, listener, address)
    finally:
        listener.close()


def _is_up(machine: Machine) -> bool:
    flags = Path(f"/sys/class/net/cfm{machine.run_number:x}/flags").read_text()
    return bool(int(flags, 16) & 1)
