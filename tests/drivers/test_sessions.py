"""Commands with their streams open, on every driver that can keep them so."""

from __future__ import annotations

import asyncio
import hashlib
import os
import re
import subprocess
import time
from collections.abc import AsyncIterator, Callable
from contextlib import suppress

import pytest

from caddisfly.host.drivers.driver import STDERR, STDOUT, Attach, Attachable, Command, Running, Session, Window
from caddisfly.model.errors import InvalidArgument, Unavailable
from tests.conftest import eventually
from tests.drivers.conftest import Bench

Start = Callable[..., "asyncio.Future[Session]"]
MIB = 1 << 20


class Shell:
    """Sessions in one sandbox, closed in the end."""

    def __init__(self, bench: Bench, id: str) -> None:
        self.bench, self.id = bench, id
        self.sessions: list[Session] = []

    async def open(self, *argv: str, **wanted: object) -> Session:
        assert isinstance(self.bench.driver, Attachable)
        session = await self.bench.driver.attach(self.id, Attach(argv=argv, **wanted))  # type: ignore[arg-type]
        self.sessions.append(session)
        return session

    async def sh(self, line: str, **wanted: object) -> Session:
        return await self.open("/bin/sh", "-c", line, **wanted)

    async def said(self, line: str) -> str:
        command = Command(argv=("/bin/sh", "-c", line), timeout_s=20)
        return (await self.bench.driver.execute(self.id, command)).stdout.decode()


@pytest.fixture
async def shell(programs: Bench) -> AsyncIterator[Shell]:
    sandbox = programs.sandbox()
    await programs.driver.start(sandbox)
    made = Shell(programs, sandbox.id)
    yield made
    for session in made.sessions:
        await session.close()
    assert not list((programs.directory).glob("run-*/sandboxes/*/exec-*"))


async def output(session: Session, *, within_s: float = 30) -> dict[int, bytes]:
    """Everything until its end."""
    found = {STDOUT: b"", STDERR: b""}
    async with asyncio.timeout(within_s):
        while (piece := await session.read()) is not None:
            found[piece[0]] += piece[1]
    return found


async def until(session: Session, what: bytes, *, within_s: float = 10) -> bytes:
    """What a terminal shows until this pattern is in it."""
    shown = b""
    while not re.search(what, shown):
        try:
            piece = await asyncio.wait_for(session.read(), within_s)
        except TimeoutError:
            raise AssertionError(f"no {what!r} in {shown!r}") from None
        assert piece is not None, f"ended after {shown!r}"
        shown += piece[1]
    return shown


async def test_streams_are_apart_and_the_code_is_its_own(shell: Shell) -> None:
    session = await shell.sh("cat; echo $GREETING >&2; id -u; exit 3")
    await session.write(b"\x00\xff\r\n\x04")
    await session.end_input()
    assert await output(session) == {STDOUT: b"\x00\xff\r\n\x0465534\n", STDERR: b"hi\n"}
    assert await session.wait() == 3


async def test_a_terminal_has_the_size_it_is_given(shell: Shell) -> None:
    session = await shell.sh(
        "until stty size 2>/dev/null; do sleep 0.05; done; echo $TERM; test -t 0 && test -t 2 && echo all; "
        "trap 'stty size; exit 4' WINCH; echo ready; "
        "while :; do sleep 0.05; done",
        window=Window(columns=91, rows=33),
        term="vt220",
    )
    shown = await until(session, b"ready")
    assert shown.split() == [b"33", b"91", b"vt220", b"all", b"ready"]
    wait = asyncio.create_task(session.wait())
    for columns in range(100, 200):  # gVisor passes no signal on before its exec has been answered
        session.resize(Window(columns=columns, rows=50))
        if (await asyncio.wait((wait,), timeout=0.3))[0]:
            break
    assert (await output(session))[STDOUT].split() == [b"50", b"%d" % columns]
    assert wait.result() == 4


async def test_ctrl_c_reaches_what_runs_in_the_terminal_and_ctrl_d_ends_the_shell(shell: Shell) -> None:
    session = await shell.open("/bin/sh", window=Window(columns=80, rows=24))
    await session.write(b"PS1='> '\nsleep 4321\n")
    await eventually(lambda: _seen(shell, "sleep 4321"))
    await session.write(b"\x03")
    await until(session, rb"\^C\r+\n> ")  # what is typed before that, a shell may throw away
    await session.write(b"echo code $?\n")
    await until(session, rb"code 130\r+\n> ")
    await session.end_input()
    await output(session)
    assert await session.wait() == 0


async def test_fifty_megabytes_come_back_as_they_went(shell: Shell) -> None:
    session = await shell.open("/bin/cat")
    block = os.urandom(MIB)
    there, back = hashlib.sha256(), hashlib.sha256()

    async def feed() -> None:
        for number in range(50):
            data = number.to_bytes(4, "big") + block
            there.update(data)
            await session.write(data)
        await session.end_input()

    feeding = asyncio.create_task(feed())
    async with asyncio.timeout(60):
        while (piece := await session.read()) is not None:
            back.update(piece[1])
        await feeding
    assert back.digest() == there.digest()
    assert await session.wait() == 0


@pytest.mark.parametrize("window", [None, Window(columns=80, rows=24)])
async def test_hanging_up_ends_also_what_ignores_it(shell: Shell, window: Window | None) -> None:
    session = await shell.sh("trap '' HUP TERM INT; sleep 4321 & sleep 4321; echo", window=window)
    await eventually(lambda: _seen(shell, "sleep 4321"))
    began = time.monotonic()
    await session.close()
    assert time.monotonic() - began < 5
    await eventually(lambda: _gone(shell, "4321"), timeout_s=5)
    assert isinstance(await shell.bench.driver.recover(shell.id), Running)


async def test_one_that_nobody_reads_is_held_back_and_can_be_hung_up(shell: Shell) -> None:
    session = await shell.sh("head -c 100000000 /dev/zero; sleep 4321")
    await eventually(lambda: _seen(shell, "head"))
    await asyncio.wait_for(session.close(), 5)
    await eventually(lambda: _gone(shell, "head"), timeout_s=5)


async def test_what_it_leaves_in_the_background_does_not_hold_its_end(shell: Shell) -> None:
    if shell.bench.driver.name == "oci/runc":
        pytest.skip("runc itself waits for those who hold the streams")
    session = await shell.sh("sleep 6 & echo done")
    found = await output(session, within_s=4)
    assert found[STDOUT] == b"done\n"
    assert await session.wait() == 0


async def test_a_user_of_the_image_by_name_or_number(shell: Shell) -> None:
    session = await shell.sh("id -u; echo $HOME", user="root")
    assert (await output(session))[STDOUT] == b"0\n/root\n"
    with pytest.raises(InvalidArgument, match="nobody-known"):
        await shell.sh("id", user="nobody-known")


@pytest.mark.parametrize("window", [None, Window(columns=80, rows=24)])
async def test_a_program_that_is_not_there_says_so(shell: Shell, window: Window | None) -> None:
    with pytest.raises(InvalidArgument, match="nosuch"):
        await shell.open("nosuch", window=window)


async def test_the_next_agent_ends_what_the_one_before_began(shell: Shell) -> None:
    """As after a kill: the session is never closed, and its command ignores that its terminal is gone."""
    session = await shell.sh("trap '' HUP; sleep 4321; echo", window=Window(columns=80, rows=24))
    await eventually(lambda: _seen(shell, "sleep 4321"))
    await shell.bench.restarted()
    assert isinstance(await shell.bench.driver.recover(shell.id), Running)
    await eventually(lambda: _gone(shell, "4321"), timeout_s=5)
    with suppress(Unavailable):  # where the way to it went with the agent that had begun it
        assert await session.wait() != 0


async def test_one_that_was_only_about_to_begin_never_does(shell: Shell) -> None:
    """The agent was killed while the runtime was at work on it: there is a description, and no number yet."""
    if not shell.bench.driver.name.startswith("oci/"):
        pytest.skip("no runtime of this driver stands between")
    directory = next(shell.bench.directory.glob(f"run-*/sandboxes/{shell.id}"))
    left = directory / "exec-0123.json"
    left.write_text("{}")
    stalled = await asyncio.create_subprocess_exec("sh", "-c", "read line", f"--process={left}", stdin=subprocess.PIPE)
    await shell.bench.restarted()
    assert isinstance(await shell.bench.driver.recover(shell.id), Running)
    assert await asyncio.wait_for(stalled.wait(), 5) == -9
    assert not left.exists()


async def _seen(shell: Shell, what: str) -> bool:
    return what in await shell.said("ps -o args")


async def _gone(shell: Shell, what: str) -> bool:
    return what not in (await shell.said("ps -o args")).replace("ps -o args", "")
