"""Attached commands on the wire: who may, what is said when not, and a client that does not keep to the rules."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import nullcontext, suppress
from typing import Any

import httpx
import pytest
import uvicorn
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from caddisfly.bus.line import WINDOW
from caddisfly.control.rest import attach
from caddisfly.control.server import listening
from caddisfly.model.errors import InvalidArgument
from tests.conftest import eventually
from tests.control.api import UNAUTHORIZED, Api, wait
from tests.control.fake_host import FakeHost
from tests.machines_api.test_tenants import WEBSOCKETS, fill

Knock = Callable[..., Any]


class Server(uvicorn.Server):
    capture_signals = nullcontext  # type: ignore[assignment] # called without arguments


@pytest.fixture
async def url(api: Api) -> AsyncIterator[str]:
    """The same API behind a real server: the way of WebSockets leads through it."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server = Server(listening(api.asgi, grace_s=1, lifespan="off"))
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        await eventually(lambda: server.started)
        yield f"ws://127.0.0.1:{listener.getsockname()[1]}"
        server.should_exit = True
        await serving


@pytest.fixture
async def machine(fly: httpx.AsyncClient) -> str:
    made = (await fly.post("/v1/apps/demo/machines", json={"config": {"image": "nginx"}})).json()
    await wait(fly, "demo", made["id"], "started")
    return str(made["id"])


@pytest.fixture
def knock(url: str, fly: httpx.AsyncClient, machine: str) -> Knock:
    """A connection to the command of a Machine of `demo`, as its owner unless another header is given."""

    def knock(query: str = "", *, path: str = "", header: str | None = None) -> connect:
        given = fly.headers["authorization"] if header is None else header
        where = path or f"/v1/apps/demo/machines/{machine}/exec/stream"
        headers = {"authorization": given} if given else {}
        return connect(f"{url}{where}{query}", additional_headers=headers, proxy=None)

    return knock


async def refused(connection: connect) -> tuple[int, Any]:
    with pytest.raises(InvalidStatus) as refusal:
        await connection
    response = refusal.value.response
    assert response.headers["fly-request-id"].endswith("-ams")
    return response.status_code, json.loads(response.body or b"")


async def started(connection: ClientConnection) -> None:
    assert json.loads(await connection.recv()) == {"type": "started", "window": WINDOW}


async def closed(connection: ClientConnection) -> tuple[int, list[Any]]:
    """The code, and what was said before."""
    said: list[Any] = []
    with suppress(ConnectionClosed):
        while True:
            message = await asyncio.wait_for(connection.recv(), 10)
            said.append(json.loads(message) if isinstance(message, str) else message)
    assert connection.close_code is not None
    return connection.close_code, said


async def test_nothing_without_a_token_or_with_that_of_another_tenant(
    knock: Knock, theirs: httpx.AsyncClient, host: FakeHost, machine: str
) -> None:
    host.calls.clear()
    stranger = theirs.headers["authorization"]
    for path in WEBSOCKETS:
        ours = fill(path, app="demo", machine=machine)
        for header in ("", "Bearer nonsense"):
            code, said = await refused(knock(path=ours, header=header))
            assert code == 401
            assert "unauthenticated" in said["error"] or "no token" in said["error"]
        assert await refused(knock(path=ours, header=stranger)) == (403, UNAUTHORIZED)
        code, said = await refused(knock(path=fill(path, app="theirs", machine=machine), header=stranger))
        assert (code, said["error"]) == (404, "not_found: machine not found")
        code, _ = await refused(knock(path=fill(path, app="nope", machine=machine), header=stranger))
        assert code == 404
    assert host.calls == []


async def test_streams_go_both_ways_and_the_code_comes_last(knock: Knock, host: FakeHost, machine: str) -> None:
    async with knock("?command=sh&command=-c&command=a%20b&tty=1&cols=91&rows=33&user=bob") as connection:
        await started(connection)
        _, call = host.calls[-1]
        assert (call.machine_id, call.command, call.user) == (machine, ("sh", "-c", "a b"), "bob")
        assert (call.columns, call.rows) == (91, 33)
        await connection.send(b"\x00hello")
        assert await connection.recv() == b"\x01hello"
        await connection.send(json.dumps({"type": "resize", "columns": 5, "rows": 6}))
        await connection.send(json.dumps({"type": "signal", "signal": "SIGHUP"}))
        await eventually(lambda: len(host.urgent) == 2)
        assert host.urgent == [{"type": "resize", "columns": 5, "rows": 6}, {"type": "signal", "signal": "SIGHUP"}]
        await connection.send(b"\x00")
        assert await closed(connection) == (1000, [{"type": "exit", "exit_code": 7}])


async def test_what_cannot_begin_is_an_answer_like_any_other(
    knock: Knock, host: FakeHost, fly: httpx.AsyncClient, machine: str
) -> None:
    for query, said in (
        ("?tty=maybe", "invalid tty"),
        ("?tty=1&cols=0", "invalid cols"),
        ("?tty=1&rows=99999", "invalid rows"),
        ("?command=a%00b", "NUL"),
    ):
        code, body = await refused(knock(query))
        assert code == 400
        assert said in body["error"]
    host.failing["machine.attach"] = InvalidArgument("cannot run 'nosuch'", why="not found")
    assert await refused(knock("?command=nosuch")) == (
        400,
        {"error": "invalid_argument: cannot run 'nosuch'", "why": "not found"},
    )
    del host.failing["machine.attach"]
    assert (await fly.get(f"/v1/apps/demo/machines/{machine}/exec/stream")).status_code == 400
    await fly.post(f"/v1/apps/demo/machines/{machine}/stop")
    await wait(fly, "demo", machine, "stopped")
    assert (await refused(knock()))[0] == 412


@pytest.mark.parametrize(
    "message",
    [
        b"",
        b"\x01to its output",
        "no json",
        "[]",
        '{"type":"reboot"}',
        '{"type":"resize","columns":0,"rows":1}',
        '{"type":"signal","signal":"SIGNOT"}',
        '{"type":"taken","bytes":"many"}',
        '{"type":"taken","bytes":1e999}',
    ],
)
async def test_a_message_that_is_none_ends_it(knock: Knock, host: FakeHost, message: str | bytes) -> None:
    async with knock() as connection:
        await started(connection)
        await connection.send(message)
        code, said = await closed(connection)
    assert code == 1008
    assert said[-1]["type"] == "error"
    await eventually(lambda: host.hung_up)


async def test_more_input_than_there_is_credit_for_ends_it(knock: Knock, host: FakeHost) -> None:
    host.reading.clear()
    async with knock() as connection:
        await started(connection)
        for _ in range(WINDOW // 32768):
            await connection.send(b"\x00" + bytes(32768))
        await connection.send(b"\x00one too many")
        code, said = await closed(connection)
    assert code == 1008
    assert "credit" in said[-1]["error"]


async def test_who_gives_no_credit_gets_no_more(knock: Knock, host: FakeHost) -> None:
    """The window is all that is under way, whatever the command prints."""
    async with knock() as connection:
        await started(connection)
        for _ in range(WINDOW // 32768):
            await connection.send(b"\x00" + bytes(32768))
        got = 0
        while got < WINDOW:
            got += len(await printed(connection)) - 1
        await connection.send(b"\x00more")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(printed(connection), 0.3)
        await connection.send(json.dumps({"type": "taken", "bytes": WINDOW}))
        assert await printed(connection) == b"\x01more"


async def printed(connection: ClientConnection) -> bytes:
    """The next output, credit left aside."""
    async with asyncio.timeout(10):
        while isinstance(message := await connection.recv(), str):
            continue
    return message


async def test_a_client_that_goes_is_hung_up(knock: Knock, host: FakeHost) -> None:
    host.reading.clear()
    connection = await knock()
    await started(connection)
    await connection.send(b"\x00unread")
    connection.transport.abort()
    host.reading.set()
    await eventually(lambda: host.hung_up)


async def test_a_token_that_is_revoked_ends_it(
    knock: Knock, api: Api, host: FakeHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(attach, "_ALLOWED_EVERY_S", 0.05)
    user = api.users["personal"]
    id, secret = await api.control.accounts.create_token(name="short-lived", user_id=user)
    async with knock(header=f"Bearer {secret}") as connection:
        await started(connection)
        await api.control.accounts.revoke_token(id)
        api.control.verifier.forget(id)
        code, said = await closed(connection)
    assert (code, said[-1]["error"]) == (4401, "unauthenticated")
    await eventually(lambda: host.hung_up)
