"""Both clients, attached to commands on `caddis dev`."""

from __future__ import annotations

import asyncio
import os
import threading

import pytest

from caddisfly.client import AsyncClient, Client, FinalError, NotFoundError, PreconditionError
from caddisfly.client.attach import STDERR, STDOUT, SessionLost
from caddisfly.pytest_plugin import CaddisApp, CaddisDev

MUCH = 4 << 20
"""Several times what may be under way."""


def test_what_is_written_and_printed(caddis_app: CaddisApp) -> None:
    machines, id = caddis_app.client.machines, caddis_app.create()["id"]
    data = os.urandom(MUCH)
    with machines.attach(caddis_app.name, id, ["cat"]) as session:
        assert session.exit_code is None
        feeding = threading.Thread(target=lambda: (session.write(data), session.end_input()))
        feeding.start()
        assert b"".join(piece for number, piece in session if number == STDOUT) == data
        feeding.join()
        assert session.exit_code == 0
        session.write(b"too late")
    with machines.attach(caddis_app.name, id, ["stty", "size"]) as session:
        assert list(session) == [(STDERR, b"stty: standard input: Not a tty\n")]
        assert session.exit_code == 1


async def test_the_same_asynchronously(caddis_dev: CaddisDev, caddis_app: CaddisApp) -> None:
    id, data = caddis_app.create()["id"], os.urandom(MUCH)
    async with AsyncClient(caddis_dev.url, token=caddis_dev.token) as client:
        async with await client.machines.attach(caddis_app.name, id, ["cat"]) as session:

            async def feed() -> None:
                await session.write(data)
                await session.end_input()

            feeding = asyncio.create_task(feed())
            assert b"".join([piece async for _, piece in session]) == data
            await feeding
            assert session.exit_code == 0
        async with await client.machines.attach(caddis_app.name, id, window=(91, 33)) as session:
            await session.resize(120, 50)
            await session.write(b"stty size\rsleep 1000\r")
            shown = b""
            while b"50 120" not in shown:
                piece = await session.read()
                assert piece is not None
                shown += piece[1]
            await session.signal("SIGTERM")
            async for _ in session:
                continue
            assert session.exit_code == 143


def test_what_cannot_begin_is_an_error_as_of_any_call(caddis_dev: CaddisDev, caddis_app: CaddisApp) -> None:
    machines, machine = caddis_app.client.machines, caddis_app.create()
    with pytest.raises(NotFoundError):
        machines.attach(caddis_app.name, "nosuch")
    with pytest.raises(FinalError, match="no container 'nosuch'"):
        machines.attach(caddis_app.name, machine["id"], container="nosuch")
    machines.stop(caddis_app.name, machine["id"])
    machines.wait(caddis_app.name, machine["id"], "stopped")
    with pytest.raises(PreconditionError, match="not running"):
        machines.attach(caddis_app.name, machine["id"])
    with Client("http://127.0.0.1:1", token="x") as nowhere, pytest.raises(Exception, match="does not answer"):
        nowhere.machines.attach("app", "machine")


def test_a_machine_that_lasts_as_long_as_its_session(caddis_app: CaddisApp) -> None:
    machines, id = caddis_app.client.machines, caddis_app.create()["id"]
    with machines.attach(caddis_app.name, id, ["true"], stop_after=True) as session:
        assert session.read() is None
    machines.wait(caddis_app.name, id, "stopped", timeout_s=10)


def test_a_machine_that_ends_takes_its_sessions_with_it(caddis_app: CaddisApp) -> None:
    machines, id = caddis_app.client.machines, caddis_app.create()["id"]
    with machines.attach(caddis_app.name, id, ["sleep", "1000"]) as session:
        machines.stop(caddis_app.name, id)
        assert list(session) == []
        assert session.exit_code == 137


def test_a_host_that_is_lost_loses_its_sessions(caddis_app: CaddisApp) -> None:
    machines, machine = caddis_app.client.machines, caddis_app.create()
    with machines.attach(caddis_app.name, machine["id"], ["sleep", "1000"]) as session:
        caddis_app.create(act="host-loss=60s", region=machine["region"], wait="")
        with pytest.raises(SessionLost):
            session.read()
