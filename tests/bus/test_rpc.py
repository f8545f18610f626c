"""A call behaves alike on both roads: typed replies, typed errors, deadlines."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from pydantic import BaseModel

from caddisfly.bus.connection import Bus
from caddisfly.bus.rpc import BusCaller, Caller, Dispatcher, LocalCaller, Method
from caddisfly.model.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    Internal,
    InvalidArgument,
    Unavailable,
    Unimplemented,
)
from tests.conftest import NatsServer, eventually


class Question(BaseModel):
    text: str


class Answer(BaseModel):
    text: str


ECHO = Method("test.echo", Question, Answer, 2)
REFUSE = Method("test.refuse", Question, Answer, 2)
CRASH = Method("test.crash", Question, Answer, 2)
HANG = Method("test.hang", Question, Answer, 0.2)
MISSING = Method("test.missing", Question, Answer, 2)


async def echo(question: Question) -> Answer:
    return Answer(text=question.text)


async def refuse(question: Question) -> Answer:
    raise FailedPrecondition("not now", why="it is closed", next="come back")


async def crash(question: Question) -> Answer:
    raise ZeroDivisionError


async def hang(question: Question) -> Answer:
    await asyncio.Event().wait()
    raise AssertionError


@pytest.fixture(params=["bus", "unix"])
async def caller(request: pytest.FixtureRequest, nats: NatsServer, tmp_path: Path) -> AsyncIterator[Caller]:
    dispatcher = Dispatcher()
    dispatcher.handle(ECHO, echo)
    dispatcher.handle(REFUSE, refuse)
    dispatcher.handle(CRASH, crash)
    dispatcher.handle(HANG, hang)
    if request.param == "unix":
        server = await dispatcher.serve_unix(tmp_path / "agent.sock")
        yield LocalCaller(tmp_path / "agent.sock")
        server.close()
    else:
        bus = Bus(url=nats.url, token=nats.token, name="test")
        bus.open()
        await eventually(lambda: bus.connected)
        await dispatcher.serve_bus(bus, "host.test")
        yield BusCaller(bus, "host.test")
        await bus.close()
    await dispatcher.close()


async def test_a_call_brings_its_answer(caller: Caller) -> None:
    assert (await caller.call(ECHO, Question(text="ä\n"))).text == "ä\n"


async def test_calls_do_not_wait_for_each_other(caller: Caller) -> None:
    slow = asyncio.create_task(caller.call(HANG, Question(text="x")))
    assert (await caller.call(ECHO, Question(text="quick"))).text == "quick"
    with pytest.raises(DeadlineExceeded):
        await slow


async def test_an_error_arrives_as_the_error_it_was(caller: Caller) -> None:
    with pytest.raises(FailedPrecondition) as caught:
        await caller.call(REFUSE, Question(text="x"))
    assert (caught.value.what, caught.value.why, caught.value.next) == ("not now", "it is closed", "come back")


async def test_a_bug_in_a_handler_is_an_internal_error_and_the_next_call_works(caller: Caller) -> None:
    with pytest.raises(Internal):
        await caller.call(CRASH, Question(text="x"))
    assert (await caller.call(ECHO, Question(text="still here"))).text == "still here"


async def test_an_unknown_method_says_so(caller: Caller) -> None:
    with pytest.raises(Unimplemented):
        await caller.call(MISSING, Question(text="x"))


async def test_nobody_there_is_unavailable_at_once(nats: NatsServer, tmp_path: Path) -> None:
    bus = Bus(url=nats.url, token=nats.token, name="test")
    bus.open()
    await eventually(lambda: bus.connected)
    with pytest.raises(Unavailable):
        await BusCaller(bus, "host.nobody").call(ECHO, Question(text="x"))
    with pytest.raises(Unavailable):
        await LocalCaller(tmp_path / "none.sock").call(ECHO, Question(text="x"))
    await bus.close()


async def test_a_call_that_arrives_after_its_deadline_has_no_effect() -> None:
    called = []
    dispatcher = Dispatcher()

    async def remember(question: Question) -> Answer:
        called.append(question.text)
        return Answer(text="")

    dispatcher.handle(ECHO, remember)
    late = json.dumps({"deadline": time.time() - 1, "args": {"text": "x"}}).encode()
    answer = json.loads(await dispatcher.dispatch(ECHO.name, late))
    assert answer["error"]["code"] == DeadlineExceeded.code
    assert called == []


@pytest.mark.parametrize("payload", [b"", b"{}", b'{"deadline":"x"}', b'{"deadline":9e12,"args":{"no":1}}', b"\xff"])
async def test_a_malformed_call_is_refused(payload: bytes) -> None:
    dispatcher = Dispatcher()
    dispatcher.handle(ECHO, echo)
    answer = json.loads(await dispatcher.dispatch(ECHO.name, payload))
    assert answer["error"]["code"] == InvalidArgument.code
