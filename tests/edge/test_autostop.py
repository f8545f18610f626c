"""Idle Machines stop by themselves, and no request notices: real workers, a real bus, a real agent."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from nats.js.errors import BucketNotFoundError, KeyNotFoundError
from websockets.asyncio.client import ClientConnection, connect
from websockets.asyncio.server import ServerConnection, serve

from caddisfly.bus import contract
from caddisfly.edge.autostop.ballot import Ballot
from caddisfly.edge.autostop.decider import Decider
from caddisfly.edge.autostop.messages import Leave, Stay
from caddisfly.edge.autostop.roster import Membership, members
from caddisfly.edge.worker import EdgeWorker
from caddisfly.host.drivers.driver import CommandResult
from caddisfly.model import states
from caddisfly.model.errors import Problem, Unavailable
from caddisfly.model.machine import Machine
from tests.conftest import NatsServer, eventually, free_port
from tests.edge.conftest import RawClient, ask
from tests.edge.hosts import Sleepers, sleepers
from tests.edge.test_worker import request, worker_process


@pytest.fixture
async def platform(nats: NatsServer, tmp_path: Path) -> AsyncIterator[Sleepers]:
    async with sleepers(nats, tmp_path) as made:
        yield made
        assert made.app_code.wrong == []


async def edges(platform: Sleepers, count: int = 2, **changes: Any) -> list[EdgeWorker]:
    """Workers that are on the roster, one of which leads."""
    made = [await platform.edge(**changes) for _ in range(count)]
    await eventually(lambda: on_the_roster(platform, made))
    if changes.get("autostop_pass_s") != 0:
        await eventually(lambda: any(leads(worker) for worker in made))
    return made


async def on_the_roster(platform: Sleepers, workers: list[EdgeWorker]) -> bool:
    return await members(platform.bus) >= {worker.name for worker in workers}


def leads(worker: EdgeWorker) -> bool:
    lead = worker._autostop._lead
    return lead.holds(lead.term)


async def passes(workers: list[EdgeWorker], count: int = 3) -> None:
    """Wait until so many passes have begun and ended since now."""
    before = sum(worker._autostop._decider.passes for worker in workers)
    await eventually(lambda: sum(worker._autostop._decider.passes for worker in workers) >= before + count)


def is_(platform: Sleepers, machine: Machine, state: str) -> Callable[[], bool]:
    return lambda: platform.host.state(machine) == state


async def test_an_idle_machine_stops_and_the_next_request_starts_it(platform: Sleepers) -> None:
    machine = await platform.host.create("web", platform.port)
    first, second = await edges(platform)
    await eventually(is_(platform, machine, states.STOPPED))
    stop = platform.host.machines[machine.id].newest("stop")
    assert stop is not None
    assert (stop.source, stop.request) == ("proxy", {"reason": "no request came for it"})
    for worker in (first, second, first):
        assert (await ask(worker, "web.localhost", method="POST", body=b"x"))[0] == 200
        await eventually(is_(platform, machine, states.STOPPED))


@pytest.mark.parametrize(
    ("memory_mb", "state", "reason"),
    [
        (512, states.SUSPENDED, "no request came for it"),
        (4096, states.STOPPED, "no request came for it; not suspended: unable to suspend machine: it has 4096 MiB"),
    ],
)
async def test_it_suspends_what_can_be_suspended(platform: Sleepers, memory_mb: int, state: str, reason: str) -> None:
    """A6, A7."""
    guest = {"cpu_kind": "shared", "cpus": 2, "memory_mb": memory_mb}
    machine = await platform.host.create("web", platform.port, autostop="suspend", config={"guest": guest})
    (worker,) = await edges(platform, 1)
    await eventually(is_(platform, machine, state))
    asked = next(event for event in platform.host.machines[machine.id].events if event.source == "proxy")
    assert str((asked.request or {})["reason"]).startswith(reason)
    assert (await ask(worker, "web.localhost", method="POST", body=b"x"))[0] == 200
    assert (platform.host.machines[machine.id].run_id == machine.run_id) == (state == states.SUSPENDED)


async def test_an_open_tunnel_keeps_the_last_machine(platform: Sleepers) -> None:
    """A4: however long it says nothing."""
    machine = await platform.host.create("web", platform.port)
    first, second = await edges(platform)
    client = await RawClient.open(second)
    client.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
    assert (await client.response())[0] == 101
    await passes([first, second])
    client.send(b"hello")
    assert await client.reader.readexactly(5) == b"hello"
    assert platform.host.state(machine) == states.STARTED
    client.close()
    await eventually(is_(platform, machine, states.STOPPED))


async def test_of_several_one_stays_until_it_has_nothing_to_do(platform: Sleepers) -> None:
    machines = [await platform.host.create("web", platform.port) for _ in range(4)]
    workers = await edges(platform)
    platform.app_code.takes_s = 3.0
    slow = asyncio.create_task(ask(workers[0], "web.localhost"))

    def running() -> list[Machine]:
        return [one for one in machines if platform.host.state(one) == states.STARTED]

    await eventually(lambda: len(running()) == 1)
    assert not slow.done()
    assert (await slow)[0] == 200
    await eventually(lambda: not running())


async def test_websockets_of_a_machine_too_many_are_told_that_it_goes(platform: Sleepers) -> None:
    """A15: with code 1001, between two of the large frames that the app sends without a pause."""

    async def chatter(connection: ServerConnection) -> None:
        while True:
            await connection.send(b"x" * 300_000)

    async with serve(chatter, "0.0.0.0", 0) as server:
        port = server.sockets[0].getsockname()[1]
        machines = [await platform.host.create("web", port) for _ in range(2)]
        (worker,) = await edges(platform, 1, autostop_pass_s=1.0)
        worker.edge.routes.trust()
        await ask(worker, "web.localhost")
        for candidate in worker.edge.routes.candidates():
            await worker.edge.wake.reach(candidate)
        host, edge_port = worker.addresses[0]
        options: dict[str, Any] = {
            "host": host,
            "port": edge_port,
            "compression": None,
            "proxy": None,
            "close_timeout": 0.1,
        }
        async with connect("ws://web.localhost/", **options) as one, connect("ws://web.localhost/", **options) as two:
            listening = {asyncio.create_task(whole_messages(client)): client for client in (one, two)}
            (ended,), (goes_on,) = await asyncio.wait(listening, return_when=asyncio.FIRST_COMPLETED, timeout=20)
            assert (await ended) > 0
            assert listening[ended].close_code == 1001
            await eventually(
                lambda: sorted(platform.host.state(one) for one in machines) == [states.STARTED, states.STOPPED]
            )
            await passes([worker], 1)
            assert not goes_on.done()
            goes_on.cancel()


async def whole_messages(client: ClientConnection) -> int:
    """How many came until the connection was closed."""
    count = 0
    async for message in client:
        assert len(message) == 300_000
        count += 1
    return count


async def test_a_session_in_it_keeps_it(platform: Sleepers, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Fly's users asked for: a console is not cut because no request comes."""
    machine = await platform.host.create("web", platform.port)
    assert platform.host.agent._sessions is not None
    monkeypatch.setattr(platform.host.agent._sessions, "count", lambda machine_id: 1)
    workers = await edges(platform)
    await passes(workers)
    assert platform.host.state(machine) == states.STARTED
    monkeypatch.setattr(platform.host.agent._sessions, "count", lambda machine_id: 0)
    await eventually(is_(platform, machine, states.STOPPED))


async def test_a_command_in_it_keeps_it(platform: Sleepers, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = await platform.host.create("web", platform.port)
    begun, end = asyncio.Event(), asyncio.Event()

    async def execute(*_: object) -> CommandResult:
        begun.set()
        await end.wait()
        return CommandResult(exit_code=0, stdout=b"", stderr=b"")

    monkeypatch.setattr(platform.host.agent._pods, "execute", execute)
    exec_ = contract.ExecMachine(machine_id=machine.id, command=("sleep", "1"))
    command = asyncio.create_task(platform.host.caller.call(contract.EXEC_MACHINE, exec_))
    await begun.wait()
    call = contract.MachineCall(machine_id=machine.id, source="proxy")
    with pytest.raises(Problem, match="a command runs in it"):
        await platform.host.caller.call(contract.GRANT_REST, call)
    end.set()
    await command
    assert (await platform.host.caller.call(contract.GRANT_REST, call)).grant


async def test_a_worker_that_does_not_answer_has_not_agreed(platform: Sleepers) -> None:
    machine = await platform.host.create("web", platform.port)
    silent = Membership(platform.bus, "0f0f0f0f-7", joined=lambda: None)
    silent.start()
    await eventually(lambda: on_the_roster_is(platform, "0f0f0f0f-7"))
    (worker,) = await edges(platform, 1)
    decider = worker._autostop._decider
    with pytest.raises(Unavailable, match="0f0f0f0f-7"):
        await decider.look(decider._lead.term)
    assert platform.host.state(machine) == states.STARTED
    await silent.stop()
    await eventually(is_(platform, machine, states.STOPPED))


async def on_the_roster_is(platform: Sleepers, name: str) -> bool:
    return name in await members(platform.bus)


@pytest.mark.parametrize("when", ["before", "after"])
async def test_a_request_that_comes_after_all_have_agreed(
    platform: Sleepers, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """Before its host has decided it keeps the Machine; after that it waits and wakes it. It never notices."""
    machine = await platform.host.create("web", platform.port)
    asked = Decider._asked
    outcomes: list[object] = []
    workers: list[EdgeWorker] = []

    async def with_a_request(self: Decider, *args: Any, **options: Any) -> str:
        if when == "before":
            outcomes.append((await ask(workers[1], "web.localhost", method="POST", body=b"x"))[0])
        try:
            return await asked(self, *args, **options)
        except Problem as problem:
            outcomes.append(str(problem))
            raise
        finally:
            if when == "after":
                outcomes.append((await ask(workers[1], "web.localhost", method="POST", body=b"x"))[0])

    monkeypatch.setattr(Decider, "_asked", with_a_request)
    workers += await edges(platform)
    await eventually(lambda: len(outcomes) == (2 if when == "before" else 1))
    assert outcomes[0] == 200
    again = platform.host.machines[machine.id].run_id
    if when == "before":
        assert "needs the machine" in str(outcomes[1])
        assert again == machine.run_id
    else:
        assert again != machine.run_id


async def test_a_stop_without_a_grant_is_refused(platform: Sleepers) -> None:
    """A decider that was frozen, a host that forgot: nothing happens without leave that stands."""
    machine = await platform.host.create("web", platform.port)
    caller = platform.host.caller
    call = contract.MachineCall(machine_id=machine.id, source="proxy")
    stale = (await caller.call(contract.GRANT_REST, call)).grant
    newer = (await caller.call(contract.GRANT_REST, call)).grant
    for grant in ("", "0" * 16, stale):
        with pytest.raises(Problem, match="somebody needs"):
            await caller.call(contract.STOP_MACHINE, contract.StopMachine(**call.model_dump() | {"grant": grant}))
    await caller.call(contract.WAKE_MACHINE, call)
    with pytest.raises(Problem, match="somebody needs"):
        await caller.call(contract.SUSPEND_MACHINE, contract.MachineCall(**call.model_dump() | {"grant": newer}))
    assert platform.host.state(machine) == states.STARTED


async def test_a_new_worker_asks_the_host_first(platform: Sleepers) -> None:
    """It was not asked about a stop that is under way: its first request takes the leave for that away."""
    machine = await platform.host.create("web", platform.port)
    call = contract.MachineCall(machine_id=machine.id, source="proxy")
    grant = (await platform.host.caller.call(contract.GRANT_REST, call)).grant
    (worker,) = await edges(platform, 1, autostop_pass_s=0)
    assert (await ask(worker, "web.localhost"))[0] == 200
    with pytest.raises(Problem, match="somebody needs"):
        await platform.host.caller.call(
            contract.STOP_MACHINE, contract.StopMachine(**call.model_dump() | {"grant": grant})
        )


async def test_a_decider_calls_off_only_what_it_asked_for(platform: Sleepers) -> None:
    """Another one may be about to use what this worker agreed to since."""
    machine = await platform.host.create("web", platform.port)
    (worker,) = await edges(platform, 1, autostop_pass_s=0)
    ballot, routes = Ballot(worker.edge, worker.name), worker.edge.routes
    for grant in ("older", "newer"):
        vote = await ballot.leave(Leave(machine_id=machine.id, run_id=machine.run_id, grant=grant))
        assert vote.refusal == ""
    await ballot.stay(Stay(machine_id=machine.id, grant="older"))
    assert routes.leaves(machine.id, "newer")
    await ballot.stay(Stay(machine_id=machine.id, grant="newer"))
    assert not routes.leaves(machine.id, "newer")


@pytest.mark.parametrize("action", ["stop", "suspend"])
async def test_under_load_nothing_fails_however_often_it_sleeps(platform: Sleepers, action: str) -> None:
    """Requests that must not be repeated, in bursts with pauses that are just about a pass."""
    service = {"autostop": action, "concurrency": {"soft_limit": 3}}
    machines = [await platform.host.create("web", platform.port, **dict(service)) for _ in range(3)]
    workers = await edges(platform)
    platform.app_code.takes_s = 0.005
    statuses: list[int] = []
    chance = random.Random(1)

    async def client() -> None:
        for _ in range(chance.randrange(1, 6)):
            answer = await ask(chance.choice(workers), "web.localhost", method="POST", body=b"x")
            statuses.append(answer[0])
            await asyncio.sleep(chance.uniform(0, 0.05))

    for _ in range(12):
        await asyncio.gather(*(client() for _ in range(chance.randrange(1, 12))))
        await asyncio.sleep(chance.uniform(0.1, 0.8))  # people, who read
    assert set(statuses) == {200}
    events = [event.type for one in machines for event in platform.host.machines[one.id].events]
    assert events.count(action) > 5, "this load hardly ever let a Machine go"


async def test_a_bus_that_was_away_loses_nothing(platform: Sleepers) -> None:
    machine = await platform.host.create("web", platform.port)
    workers = await edges(platform)
    await eventually(is_(platform, machine, states.STOPPED))
    platform.nats.kill()
    await eventually(lambda: not any(worker.edge.bus.connected for worker in workers))
    assert [(await ask(worker, "web.localhost", method="POST", body=b"x"))[0] for worker in workers] == [200, 200]
    platform.nats.start()
    await eventually(is_(platform, machine, states.STOPPED))
    assert (await ask(workers[0], "web.localhost", method="POST", body=b"x"))[0] == 200


async def test_a_decider_that_is_killed_is_followed_by_another(platform: Sleepers) -> None:
    """Within seconds, and nothing fails but what the dead worker had."""
    port = free_port()
    async with AsyncExitStack() as stack:
        workers = {n: await stack.enter_async_context(worker_process(platform, port, number=n)) for n in "01"}
        victim = (await eventually(lambda: decider(platform)))[-1]
        machine = await platform.host.create("web", platform.port)
        await eventually(lambda: answered(port))  # by workers that have heard of it
        workers[victim].kill()
        await workers[victim].wait()
        assert await request(port) == 200
        await stack.enter_async_context(worker_process(platform, port, number=victim))
        assert await request(port) == 200
        await eventually(is_(platform, machine, states.STOPPED))
        assert {await request(port) for _ in range(3)} == {200}


async def answered(port: int) -> bool:
    return {await request(port) for _ in range(10)} == {200}


async def decider(platform: Sleepers) -> str:
    """The name of the worker that leads now; empty when none does."""
    try:
        entry = await (await platform.bus.jetstream.key_value("edge-decider")).get("decider")
    except (BucketNotFoundError, KeyNotFoundError):
        return ""
    return (entry.value or b"").decode()
