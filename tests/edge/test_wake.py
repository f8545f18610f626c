"""Sleeping apps: held requests, one wake, no 5xx on the way."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import pytest

from caddisfly.bus.contract import host_prefix
from caddisfly.model import states
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.machine import Machine
from tests.conftest import eventually, free_port
from tests.edge.conftest import Echo, Platform, ask


@pytest.mark.parametrize("state", [states.STOPPED, states.SUSPENDED, states.FAILED, states.CREATED])
async def test_a_request_wakes_a_machine(platform: Platform, state: str) -> None:
    await platform.app("web")
    machine = await platform.machine("web", port=await platform.serve(Echo()), state=state)
    worker = await platform.edge()
    status, _, _ = await ask(worker, "web.localhost", method="POST", body=b"x" * 1000)
    assert status == 200
    assert platform.wakes == [machine.id]


async def test_a_hundred_clients_at_once_cause_one_wake(platform: Platform) -> None:
    await platform.app("web")
    port = free_port()
    machine = await platform.machine("web", port=port, state=states.STOPPED)

    async def boot(machine: Machine) -> None:
        async def bind() -> None:
            await asyncio.sleep(0.3)  # the app takes its time after the Machine is started
            await platform.serve(Echo(), port=port)

        binding.append(asyncio.create_task(bind()))

    binding: list[asyncio.Task[None]] = []
    platform.on_wake = boot
    worker = await platform.edge()
    answers = await asyncio.gather(*(ask(worker, "web.localhost", path=f"/{n}") for n in range(100)))
    assert {status for status, _, _ in answers} == {200}
    assert platform.wakes == [machine.id]
    for number, (_, _, body) in enumerate(answers):
        assert body.startswith(b"GET /%d HTTP" % number)


async def test_a_wake_works_with_the_bus_down(platform: Platform) -> None:
    """Static stability (fault 7): running apps serve, sleeping ones wake, through the agent's own socket."""
    await platform.app("up")
    await platform.app("asleep")
    await platform.machine("up", port=await platform.serve(Echo()))
    await platform.machine("asleep", port=await platform.serve(Echo()), state=states.STOPPED)
    worker = await platform.edge()
    platform.nats.kill()
    await eventually(lambda: not worker.edge.bus.connected)

    assert (await ask(worker, "up.localhost"))[0] == 200
    assert (await ask(worker, "asleep.localhost"))[0] == 200
    assert (await ask(worker, "asleep.localhost"))[0] == 200
    assert len(platform.wakes) == 1


async def test_old_news_is_healed_with_the_bus_down(platform: Platform) -> None:
    """It says `started`, but the Machine stopped while the bus was away: its agent is asked."""
    await platform.app("web")
    port = await platform.serve(Echo())
    machine = await platform.machine("web", port=port)
    worker = await platform.edge()
    assert (await ask(worker, "web.localhost"))[0] == 200
    platform.nats.kill()
    await eventually(lambda: not worker.edge.bus.connected)
    platform.machines[machine.id] = replace(machine, state=states.STOPPED)  # which nobody hears of
    platform.servers.pop().close()
    for writer in list(platform._writers):
        writer.transport.abort()

    async def boot(machine: Machine) -> None:
        await platform.serve(Echo(), port=port)

    platform.on_wake = boot
    assert (await ask(worker, "web.localhost"))[0] == 200
    assert platform.wakes == [machine.id]


async def test_a_machine_that_stopped_in_this_moment_is_woken(platform: Platform) -> None:
    """L8: the catalog still says `started`; the host knows better. Nobody sees a 5xx."""
    await platform.app("web")
    port = free_port()
    machine = await platform.machine("web", port=port)
    worker = await platform.edge()
    platform.machines[machine.id] = replace(machine, state=states.STOPPED)

    async def boot(machine: Machine) -> None:
        await platform.serve(Echo(), port=port)

    platform.on_wake = boot
    assert (await ask(worker, "web.localhost"))[0] == 200
    assert platform.wakes == [machine.id]


async def test_a_machine_on_another_host_is_reached_and_woken_over_its_own_roads(platform: Platform) -> None:
    await platform.app("web")
    port = await platform.serve(Echo(), host="::1")
    await platform.dispatcher.serve_bus(platform.bus, host_prefix("0f0f0f0f"))
    far = {"host_id": "0f0f0f0f", "ipv4": "127.0.0.99", "private_ip": "::1"}
    machine = await platform.machine("web", port=port, state=states.STOPPED, **far)
    worker = await platform.edge()
    assert (await ask(worker, "web.localhost"))[0] == 200
    assert platform.wakes == [machine.id]


@pytest.mark.parametrize("state", [states.STARTING, states.RESTARTING, states.REPLACING])
async def test_a_machine_on_its_way_is_waited_for(platform: Platform, state: str) -> None:
    await platform.app("web")
    machine = await platform.machine("web", port=await platform.serve(Echo()), state=state)
    worker = await platform.edge()
    request = asyncio.create_task(ask(worker, "web.localhost"))
    await eventually(lambda: worker.edge.routes._waiters)
    await platform.change(machine, state=states.STARTED)
    assert (await request)[0] == 200
    assert platform.wakes == []


async def test_a_machine_that_stops_is_waited_for_and_then_woken(platform: Platform) -> None:
    await platform.app("web")
    machine = await platform.machine("web", port=await platform.serve(Echo()), state=states.STOPPING)
    worker = await platform.edge()
    request = asyncio.create_task(ask(worker, "web.localhost"))
    await eventually(lambda: worker.edge.routes._waiters)
    await platform.change(machine, state=states.STOPPED)
    assert (await request)[0] == 200
    assert platform.wakes == [machine.id]


async def test_a_young_machine_may_refuse_at_first(platform: Platform) -> None:
    """A11, without a wake by us: its start is recent, its port is not bound yet."""
    await platform.app("web")
    port = free_port()
    machine = await platform.machine("web", port=port)
    await platform.start_machine(machine)
    worker = await platform.edge()
    request = asyncio.create_task(ask(worker, "web.localhost"))
    await eventually(lambda: worker.edge.wake._probes)
    await platform.serve(Echo(), port=port)
    assert (await request)[0] == 200
    assert platform.wakes == []


async def test_an_app_that_never_binds_its_port_is_503(platform: Platform) -> None:
    await platform.app("web")
    await platform.machine("web", port=free_port(), state=states.STOPPED)
    worker = await platform.edge(wake_deadline_s=0.5)
    status, headers, body = await ask(worker, "web.localhost")
    assert status == 503
    assert headers["retry-after"] == "5"
    assert b"PM05" in body
    assert b"0.0.0.0" in body
    assert headers["fly-request-id"].encode() in body


async def test_a_failed_wake_says_why(platform: Platform) -> None:
    await platform.app("web")
    await platform.machine("web", state=states.STOPPED)

    async def refuse(machine: Machine) -> None:
        raise FailedPrecondition("no space left", why="the disk is full", next="free some")

    platform.on_wake = refuse
    worker = await platform.edge()
    status, headers, body = await ask(worker, "web.localhost")
    assert (status, b"PM07" in body, b"the disk is full" in body, b"free some" in body) == (503, True, True, True)
    assert "retry-after" in headers
    assert len(platform.wakes) == 1


async def test_a_wake_that_hangs_ends_at_the_deadline(platform: Platform) -> None:
    await platform.app("web")
    await platform.machine("web", state=states.STOPPED)

    async def hang(machine: Machine) -> None:
        await asyncio.Event().wait()

    platform.on_wake = hang
    worker = await platform.edge(wake_deadline_s=0.3)
    status, _, body = await ask(worker, "web.localhost")
    assert (status, b"PM03" in body) == (503, True)


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"state": states.STOPPED, "service": {"autostart": False}}, b"PM08"),
        ({"state": states.DESTROYING}, b"PM08"),
        ({"state": states.STARTED, "cordoned": True}, b"PR04"),
        ({"state": states.STOPPED, "cordoned": True}, b"PR04"),
    ],
)
async def test_what_may_not_be_woken_is_503(platform: Platform, changes: dict[str, Any], code: bytes) -> None:
    await platform.app("web")
    await platform.machine("web", **changes)
    worker = await platform.edge()
    status, _, body = await ask(worker, "web.localhost")
    assert (status, code in body, platform.wakes) == (503, True, [])
    assert changes["state"].encode() in body


async def test_a_second_machine_is_woken_when_the_first_has_enough_to_do(platform: Platform) -> None:
    await platform.app("web")
    release = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        await release.wait()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        await writer.drain()

    limits = {"concurrency": {"soft_limit": 2}}
    await platform.machine("web", port=await platform.serve(serve), service=dict(limits))
    port = await platform.serve(serve)
    second = await platform.machine("web", port=port, service=dict(limits), state=states.STOPPED)
    worker = await platform.edge()
    tasks = [asyncio.create_task(ask(worker, "web.localhost")) for _ in range(4)]
    await eventually(lambda: platform.wakes)
    release.set()
    assert {(await task)[0] for task in tasks} == {200}
    assert platform.wakes == [second.id]


async def test_a_client_that_leaves_does_not_stop_the_wake(platform: Platform) -> None:
    await platform.app("web")
    go = asyncio.Event()

    async def slowly(machine: Machine) -> None:
        await go.wait()

    platform.on_wake = slowly
    await platform.machine("web", port=await platform.serve(Echo()), state=states.STOPPED)
    worker = await platform.edge()
    impatient = asyncio.create_task(ask(worker, "web.localhost"))
    await eventually(lambda: platform.wakes)
    impatient.cancel()
    patient = asyncio.create_task(ask(worker, "web.localhost"))
    await eventually(lambda: len(worker.edge.clients) == 1)
    go.set()
    assert (await patient)[0] == 200
    assert len(platform.wakes) == 1
