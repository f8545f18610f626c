"""The bus of memory and a real NATS, held against the same expectations."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from nats.aio.msg import Msg
from nats.errors import Error as NatsError

from caddisfly.bus.catalog import MACHINE, Publication
from caddisfly.bus.connection import Bus
from caddisfly.bus.memory import Exchange
from caddisfly.bus.projection import Projection
from caddisfly.model.errors import DeadlineExceeded, Unavailable
from tests.conftest import NatsServer, eventually
from tests.journal.test_journal import a_machine

Connect = Callable[[], Bus]


@pytest.fixture(params=["memory", "nats"])
async def connect(request: pytest.FixtureRequest) -> AsyncIterator[Connect]:
    made: list[Bus] = []
    if request.param == "nats":
        server: NatsServer = request.getfixturevalue("nats")
        options: Callable[[], dict[str, Any]] = lambda: {"url": server.url, "token": server.token}  # noqa: E731
    else:
        exchange = Exchange()
        options = lambda: {"url": "memory", "token": "", "client": exchange.client()}  # noqa: E731

    def one() -> Bus:
        made.append(Bus(name=f"test-{len(made)}", **options()))
        made[-1].open()
        return made[-1]

    yield one
    for bus in made:
        await bus.close()


async def connected(connect: Connect) -> Bus:
    bus = connect()
    await eventually(lambda: bus.connected)
    return bus


async def test_messages_reach_those_whose_subject_fits_in_their_order(connect: Connect) -> None:
    bus = await connected(connect)
    heard: list[tuple[str, str]] = []

    def note(name: str) -> Callable[[Msg], Any]:
        async def callback(message: Msg) -> None:
            heard.append((name, message.subject))

        return callback

    for name in ("a.b", "a.*", "a.>", "*.b", "b"):
        await bus.client.subscribe(name, cb=note(name))
    for subject in ("a.b", "a.b.c", "a", "a.c", "last"):
        await bus.publish(subject, b"")
    await bus.client.subscribe("end", cb=note("end"))
    await bus.publish("end", b"")
    await eventually(lambda: ("end", "end") in heard)
    await eventually(lambda: len(heard) == 8)
    assert sorted(heard) == [
        ("*.b", "a.b"),
        ("a.*", "a.b"),
        ("a.*", "a.c"),
        ("a.>", "a.b"),
        ("a.>", "a.b.c"),
        ("a.>", "a.c"),
        ("a.b", "a.b"),
        ("end", "end"),
    ]
    assert [subject for name, subject in heard if name == "a.>"] == ["a.b", "a.b.c", "a.c"]


async def test_requests_are_answered_or_refused(connect: Connect) -> None:
    asker, answerer = await connected(connect), await connected(connect)

    async def answer(message: Msg) -> None:
        await message.respond(message.data.upper())

    async def silence(message: Msg) -> None: ...

    with pytest.raises(Unavailable, match="nobody answers"):
        await asker.request("echo", b"hi", timeout_s=2)
    assert await asker.gather("echo", b"hi", enough=2, timeout_s=2) == []
    await answerer.client.subscribe("echo", cb=answer)
    await answerer.client.subscribe("void", cb=silence)

    async def echoes() -> bool:
        try:
            return await asker.request("echo", b"hi", timeout_s=2) == b"HI"
        except Unavailable:
            return False  # the server has not heard of the subscription yet

    await eventually(echoes)
    assert await asker.gather("echo", b"hi", enough=1, timeout_s=2) == [b"HI"]
    with pytest.raises(DeadlineExceeded):
        await asker.request("void", b"", timeout_s=0.1)


async def test_a_copy_follows_what_is_published(connect: Connect) -> None:
    owner, reader = await connected(connect), await connected(connect)
    publication = Publication(owner, owner="h1", owns=lambda key, value: key.startswith(MACHINE))
    machine = a_machine()
    publication.want(f"{MACHINE}.{machine.id}", machine.to_record())
    publication.start()
    projection = Projection(reader)
    projection.start()
    await eventually(lambda: machine.id in projection.machines)
    other = a_machine(id="f" * 14, name="other")
    assert await projection.wait_for(await publication.put(f"{MACHINE}.{other.id}", other.to_record()), timeout_s=5)
    assert set(projection.machines_of(machine.app_id)) == {machine.id, other.id}
    await publication.remove(f"{MACHINE}.{machine.id}")
    await eventually(lambda: machine.id not in projection.machines)
    late = Projection(reader)
    late.start()
    await eventually(late.ready.is_set)
    assert set(late.machines) == {other.id}
    for part in (projection, late, publication):
        await part.stop()


async def test_who_is_cut_off_is_not_heard_and_catches_up() -> None:
    exchange = Exchange()
    client = exchange.client()
    host = Bus(url="memory", token="", name="host", client=client)
    control = Bus(url="memory", token="", name="control", client=exchange.client())
    host.open()
    control.open()
    await eventually(lambda: host.connected and control.connected)

    async def answer(message: Msg) -> None:
        await message.respond(b"here")

    asked, go_on = asyncio.Event(), asyncio.Event()

    async def answer_late(message: Msg) -> None:
        asked.set()
        await go_on.wait()
        await message.respond(b"late")

    await host.client.subscribe("host", cb=answer)
    await host.client.subscribe("late", cb=answer_late)
    publication = Publication(host, owner="h1", owns=lambda key, value: True)
    publication.start()
    projection = Projection(control)
    projection.start()
    await eventually(projection.ready.is_set)
    assert await control.request("host", b"", timeout_s=1) == b"here"

    late = asyncio.create_task(control.request("late", b"", timeout_s=10))
    await asked.wait()
    client.cut()
    go_on.set()
    with pytest.raises(Unavailable, match="nobody answers"):
        await control.request("host", b"", timeout_s=1)
    with pytest.raises(Unavailable):
        await host.publish("beat", b"")
    with pytest.raises(NatsError):
        await client.request("host", b"")
    machine = a_machine()
    assert await publication.put(f"{MACHINE}.{machine.id}", machine.to_record()) == 0
    await asyncio.sleep(0)
    assert not projection.machines
    assert not late.done()

    await client.restore()
    await eventually(lambda: machine.id in projection.machines)
    assert await late == b"late"
    assert await control.request("host", b"", timeout_s=1) == b"here"
    for part in (projection, publication):
        await part.stop()
    await host.close()
    await control.close()
