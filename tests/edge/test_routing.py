"""Which app, which Machine, which port: and what is said when there is none."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import pytest

from caddisfly.model import ids, states
from caddisfly.model.check import CRITICAL, PASSING, Check
from tests.conftest import eventually
from tests.edge.conftest import Echo, Platform, RawClient, ask, service


@pytest.mark.parametrize("host", ["web.localhost", "WEB.localhost:8080", "web.localhost.", "web.localhost.:1"])
async def test_a_host_name_leads_to_its_app(platform: Platform, host: str) -> None:
    echo = Echo()
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(echo))
    worker = await platform.edge()

    status, headers, body = await ask(worker, host, path="/a?b=c")

    assert status == 200
    assert body.startswith(b"GET /a?b=c HTTP/1.1\r\nhost: " + host.encode())
    assert headers["x-app"] == "yes"


@pytest.mark.parametrize(
    "host", ["nobody.localhost", "web.example.com", "a.web.localhost", "localhost", "127.0.0.1", "[::1]"]
)
async def test_an_unknown_host_is_told_so(platform: Platform, host: str) -> None:
    await platform.app("web")
    worker = await platform.edge()
    status, headers, body = await ask(worker, host)
    assert status == 404
    assert headers["content-type"] == "text/plain; charset=utf-8"
    assert b"no app" in body.lower()
    assert headers["fly-request-id"].encode() in body


async def test_an_absolute_target_must_agree_with_host(platform: Platform) -> None:
    echo = Echo()
    await platform.app("web")
    await platform.app("other")
    await platform.machine("web", port=await platform.serve(echo))
    worker = await platform.edge()

    status, _, body = await ask(worker, "web.localhost", path="http://web.localhost/x?y")
    assert (status, body.split(b" ")[:2]) == (200, [b"GET", b"/x?y"])
    status, _, _ = await ask(worker, "web.localhost", path="http://other.localhost/x")
    assert status == 400


async def test_an_app_that_serves_nothing_here_says_so(platform: Platform) -> None:
    await platform.app("empty")
    await platform.app("udp")
    await platform.machine("udp", services=[{"protocol": "udp", "internal_port": 5000, "ports": [{"port": 80}]}])
    worker = await platform.edge()
    status, _, body = await ask(worker, "empty.localhost")
    assert (status, b"has no Machines" in body) == (503, True)
    status, _, body = await ask(worker, "udp.localhost")
    assert (status, b"serves nothing on port 80" in body) == (502, True)


async def test_an_app_appears_and_vanishes(platform: Platform) -> None:
    worker = await platform.edge()
    assert (await ask(worker, "late.localhost"))[0] == 404
    await platform.app("late")
    await platform.machine("late", port=await platform.serve(Echo()))
    assert (await ask(worker, "late.localhost"))[0] == 200
    await platform.catalog.remove("app.late")
    async with asyncio.timeout(5):
        while (await ask(worker, "late.localhost"))[0] != 404:
            pass


async def test_force_https_answers_without_waking(platform: Platform) -> None:
    await platform.app("web")
    await platform.machine("web", state=states.STOPPED, service={"port": {"force_https": True}})
    worker = await platform.edge(force_https=True)
    status, headers, _ = await ask(worker, "web.localhost:8080", path="/deep?er")
    assert (status, headers["location"]) == (301, "https://web.localhost/deep?er")
    assert platform.wakes == []


async def test_where_nothing_speaks_https_nobody_is_sent_there(platform: Platform) -> None:
    await platform.app("web")
    await platform.machine("web", port=await platform.serve(Echo()), service={"port": {"force_https": True}})
    worker = await platform.edge()
    assert (await ask(worker, "web.localhost"))[0] == 200


async def test_two_machines_share_and_a_cordoned_one_rests(platform: Platform) -> None:
    await platform.app("web")
    one, other = Echo(b"one "), Echo(b"two ")
    first = await platform.machine("web", port=await platform.serve(one))
    await platform.machine("web", port=await platform.serve(other))
    worker = await platform.edge()

    seen = Counter([(await ask(worker, "web.localhost"))[2][:3] for _ in range(60)])
    assert min(seen[b"one"], seen[b"two"]) > 5

    await platform.change(first, cordoned=True)
    assert {(await ask(worker, "web.localhost"))[2][:3] for _ in range(20)} == {b"two"}


async def test_a_soft_limit_fills_the_other_machine_first(platform: Platform) -> None:
    await platform.app("web")
    release = asyncio.Event()
    under_way: Counter[str] = Counter()

    def slow(name: str):  # type: ignore[no-untyped-def]
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            under_way[name] += 1
            await release.wait()
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

        return serve

    limits = {"concurrency": {"soft_limit": 3, "hard_limit": 100}}
    for name in "ab":
        await platform.machine("web", port=await platform.serve(slow(name)), service=dict(limits))
    worker = await platform.edge()
    tasks = [asyncio.create_task(ask(worker, "web.localhost")) for _ in range(6)]
    await eventually(lambda: sum(under_way.values()) == 6)
    assert under_way == {"a": 3, "b": 3}
    release.set()
    assert {(await task)[0] for task in tasks} == {200}


async def test_a_hard_limit_holds_requests_until_there_is_room(platform: Platform) -> None:
    await platform.app("web")
    most = now = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal most, now
        while True:
            await reader.readuntil(b"\r\n\r\n")
            now += 1
            most = max(most, now)
            await asyncio.sleep(0.01)
            now -= 1
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()

    port = await platform.serve(serve)
    await platform.machine("web", port=port, service={"concurrency": {"soft_limit": 1, "hard_limit": 2}})
    worker = await platform.edge()
    answers = await asyncio.gather(*(ask(worker, "web.localhost") for _ in range(20)))
    assert {status for status, _, _ in answers} == {200}
    assert most <= 2


async def test_a_full_app_is_answered_503_in_the_end(platform: Platform) -> None:
    await platform.app("web")

    async def never(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()

    port = await platform.serve(never)
    await platform.machine("web", port=port, service={"concurrency": {"hard_limit": 1}})
    worker = await platform.edge(full_deadline_s=0.2)
    first = await RawClient.open(worker)
    first.send(b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n")
    await eventually(lambda: any(one.load for one in worker.edge.routes.candidates()))
    status, headers, body = await ask(worker, "web.localhost")
    assert (status, b"PR04" in body, "retry-after" in headers) == (503, True, True)
    first.close()


async def test_a_new_run_never_gets_a_request_on_an_old_connection(platform: Platform) -> None:
    """Invariant I5."""
    await platform.app("web")
    old, new = Echo(b"old"), Echo(b"new")
    machine = await platform.machine("web", port=await platform.serve(old))
    worker = await platform.edge()
    client = await RawClient.open(worker)
    request = b"GET / HTTP/1.1\r\nHost: web.localhost\r\n\r\n"
    client.send(request)
    assert (await client.response())[2].startswith(b"old")

    services = [service(await platform.serve(new))]
    config = type(machine.config)({"image": "x", "services": services})
    await platform.change(machine, run_id=ids.ulid(), config=config)
    client.send(request)
    assert (await client.response())[2].startswith(b"new")
    assert len(old.heads) == 1
    client.close()


async def test_connections_are_pooled_for_requests_and_not_for_connections(platform: Platform) -> None:
    await platform.app("pooled")
    await platform.app("single")
    pooled, single = Echo(), Echo()
    await platform.machine("pooled", port=await platform.serve(pooled))
    port = await platform.serve(single)
    await platform.machine("single", port=port, service={"concurrency": {"type": "connections"}})
    worker = await platform.edge()
    for _ in range(3):
        await ask(worker, "pooled.localhost")
        await ask(worker, "single.localhost")
    assert (pooled.connections, single.connections) == (1, 3)
    assert b"\r\nconnection: close\r\n" in single.heads[0]


async def test_machines_that_refuse_are_passed_over(platform: Platform) -> None:
    """L9."""
    await platform.app("web")
    gone = await platform.serve(Echo())
    platform.servers[-1].close()
    await platform.machine("web", port=gone)
    await platform.machine("web", port=await platform.serve(Echo()))
    worker = await platform.edge()
    assert {(await ask(worker, "web.localhost"))[0] for _ in range(20)} == {200}


def failing(internal_port: int) -> Check:
    return Check(
        name="servicecheck-00-tcp-80",
        status=CRITICAL,
        output="connect: connection refused",
        updated_at="2026-01-01T00:00:00Z",
        readiness=True,
        internal_port=internal_port,
    )


async def test_a_machine_that_fails_its_checks_gets_requests_only_when_no_other_is_there(platform: Platform) -> None:
    await platform.app("web")
    well, ill = Echo(b"well"), Echo(b"ill")
    well_port, ill_port = await platform.serve(well), await platform.serve(ill)
    one = await platform.machine("web", port=well_port)
    other = await platform.machine("web", port=ill_port, checks=(failing(ill_port),))
    worker = await platform.edge()

    async def answers() -> set[bytes]:
        return {(await ask(worker, "web.localhost"))[2][:4].rstrip(b"G") for _ in range(20)}

    assert await answers() == {b"well"}
    await platform.change(one, state=states.STOPPED)
    assert await answers() == {b"ill"}, "one that may answer is better than none"
    await platform.change(one, state=states.STARTED)
    assert await answers() == {b"well"}
    await platform.put(replace(platform.machines[other.id], checks=(replace(failing(ill_port), status=PASSING),)))
    # Not at once: the one that had not answered for a while is tried beside the other first.
    await eventually(lambda: _gathers(answers, {b"well", b"ill"}))


@pytest.mark.parametrize("changes", [{"readiness": False}, {"internal_port": 1}, {"status": PASSING}])
async def test_checks_that_only_inform_or_are_anothers_change_nothing(
    platform: Platform, changes: dict[str, Any]
) -> None:
    await platform.app("web")
    one, other = Echo(b"a"), Echo(b"b")
    await platform.machine("web", port=await platform.serve(one))
    port = await platform.serve(other)
    await platform.machine("web", port=port, checks=(replace(failing(port), **changes),))
    worker = await platform.edge()

    async def answers() -> set[bytes]:
        return {(await ask(worker, "web.localhost"))[2][:1] for _ in range(20)}

    await eventually(lambda: _gathers(answers, {b"a", b"b"}))


async def _gathers(answers: Callable[[], Awaitable[set[bytes]]], wanted: set[bytes]) -> bool:
    return await answers() == wanted


async def test_a_lone_machine_that_refuses_is_502(platform: Platform) -> None:
    await platform.app("web")
    gone = await platform.serve(Echo())
    platform.servers[-1].close()
    await platform.machine("web", port=gone)
    worker = await platform.edge()
    status, _, body = await ask(worker, "web.localhost")
    assert (status, b"PC01" in body) == (502, True)
