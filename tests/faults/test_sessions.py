"""Somebody in a Machine, on a whole platform: what they see when a part of it dies, and what is left (faults.md)."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.person import Person
from tests.conftest import eventually
from tests.faults.platform import APP, IMAGE, Api, Platform

Sit = Callable[..., Person]
PROMPT = "# "
STUBBORN = "trap '' HUP INT TERM; sleep 54321; sleep 54321"
MIB = 1 << 20


def environment(platform: Platform) -> dict[str, str]:
    return {"HOME": str(platform.directory), "CADDIS_CONFIG": str(platform.file)}


def piped(platform: Platform, *words: str) -> subprocess.Popen[bytes]:
    """A command between two pipes of ours."""
    return subprocess.Popen(
        [sys.executable, "-m", "caddisfly", *words],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env={"PATH": os.environ["PATH"], **environment(platform)},
        cwd=platform.directory,
    )


@pytest.fixture
def sit(platform: Platform) -> Iterator[Sit]:
    there: list[Person] = []

    def down(*words: str, **more: Any) -> Person:
        there.append(Person(*words, env=environment(platform), cwd=platform.directory, **more))
        return there[-1]

    yield down
    for person in there:
        person.leaves()


@pytest.fixture
async def machine(platform: Platform, api: Api) -> dict[str, Any]:
    made = await api.create(line="exec sleep 100000")
    await api.state(made["id"], "started")
    return made


def running(what: str) -> list[int]:
    """Processes that are called so, wherever."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().replace(b"\0", b" ").strip() == what.encode():
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def nothing_is_left(platform: Platform) -> bool:
    return not running("sleep 54321") and not list(platform.run_dir.glob("sandboxes/*/exec-*"))


async def test_a_shell_as_one_expects_it(machine: dict[str, Any], sit: Sit) -> None:
    person = sit("ssh", "console", "-a", APP, size=(91, 33))
    person.reads(PROMPT)
    person.types("stty size; id -u; hostname\r")
    person.reads("33 91\r\n0\r\n" + machine["id"])
    person.reads(PROMPT)
    person.types("sleep 54321\r")
    await eventually(lambda: running("sleep 54321"))
    person.types("\x03")
    person.reads(PROMPT)
    assert not running("sleep 54321")
    person.types("exit 7\r")
    assert person.ends() == 7


async def test_fifty_megabytes_go_through_and_back(platform: Platform, machine: dict[str, Any]) -> None:
    block = os.urandom(MIB)
    there, back = hashlib.sha256(), hashlib.sha256()
    began = time.monotonic()
    with piped(platform, "ssh", "console", "-a", APP, "-C", "cat") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        stdin = process.stdin

        def feed() -> None:
            for number in range(50):
                data = number.to_bytes(4, "big") + block
                there.update(data)
                stdin.write(data)
            stdin.close()

        feeding = threading.Thread(target=feed)
        feeding.start()
        while data := process.stdout.read(MIB):
            back.update(data)
        feeding.join()
    assert process.returncode == 0
    assert back.digest() == there.digest()
    assert time.monotonic() - began < 30


async def test_a_client_that_is_killed_takes_its_command_with_it(
    platform: Platform, machine: dict[str, Any], sit: Sit
) -> None:
    person = sit("ssh", "console", "-a", APP, "--pty", "-C", f'sh -c "{STUBBORN}"')
    await eventually(lambda: running("sleep 54321"))
    person.is_killed()
    await eventually(lambda: nothing_is_left(platform), timeout_s=5)


@pytest.mark.parametrize("part", ["agent", "control"])
async def test_a_part_dies_in_a_session(
    platform: Platform, api: Api, machine: dict[str, Any], sit: Sit, part: str
) -> None:
    """The client is told, the command ends, the Machine does not notice."""
    pid = platform.machine_pid(machine)
    person = sit("ssh", "console", "-a", APP, "--pty", "-C", f'sh -c "{STUBBORN}"')
    await eventually(lambda: running("sleep 54321"))
    killed = platform.kill(part)
    assert person.ends(within_s=12) == 1
    assert b"Error:" in person.shown
    await platform.back(part, instead_of=killed)
    await eventually(lambda: nothing_is_left(platform), timeout_s=15)
    assert platform.machine_pid(machine) == pid
    await eventually(api.answers)
    again = sit("ssh", "console", "-a", APP, "-C", "echo back")
    assert again.ends() == 0


async def test_an_idle_session_outlives_the_bus(platform: Platform, machine: dict[str, Any], sit: Sit) -> None:
    person = sit("ssh", "console", "-a", APP)
    person.reads(PROMPT)
    killed = platform.kill("bus")
    await platform.back("bus", instead_of=killed)
    async with platform.api() as api:
        await eventually(api.answers)
    person.types("echo $((6 * 7))\r")
    person.reads("42")
    person.types("exit\r")
    assert person.ends() == 0


async def test_a_flood_that_nobody_reads_grows_nothing(platform: Platform, machine: dict[str, Any], sit: Sit) -> None:
    before = {part: memory_mb(platform, part) for part in ("control", "agent", "bus")}
    with piped(platform, "ssh", "console", "-a", APP, "-C", "yes") as process:
        try:
            (pid,) = await eventually(lambda: running("yes"))
            await eventually(lambda: "S" in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0])
            await eventually(lambda: waits(pid))
            grown = {part: memory_mb(platform, part) - before[part] for part in before}
        finally:
            process.kill()
    assert max(grown.values()) < 16, grown
    await eventually(lambda: not running("yes"), timeout_s=5)


async def waits(pid: int) -> bool:
    """Whether a process has used no processor time for a while."""
    stat = Path(f"/proc/{pid}/stat")
    before = stat.read_text().rpartition(")")[2].split()[11:13]
    deadline = time.monotonic() + 0.3
    await eventually(lambda: time.monotonic() > deadline)
    return before == stat.read_text().rpartition(")")[2].split()[11:13]


def memory_mb(platform: Platform, part: str) -> int:
    lines = Path(f"/proc/{platform.pid(part)}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) // 1024


async def test_a_console_machine_comes_and_goes(platform: Platform, api: Api, sit: Sit) -> None:
    person = sit("console", "-a", APP, "-i", IMAGE, "-e", "GREETING=hello")
    person.reads(PROMPT)
    assert len(await api.list()) == 1
    person.types("echo $GREETING $FLY_PROCESS_GROUP\r")
    person.reads("hello fly_app_console")
    person.is_killed()
    await eventually(lambda: gone(api), timeout_s=20, every_s=0.1)


async def gone(api: Api) -> bool:
    return not await api.list()


async def test_what_a_command_says_is_in_no_log(platform: Platform, machine: dict[str, Any]) -> None:
    done = await platform.command("ssh", "console", "-a", APP, "-C", "echo sw0rdfish")
    assert done.stdout == "sw0rdfish\n"
    for part in ("control", "agent", "bus"):
        assert "sw0rdfish" not in platform.log(part)


async def test_files_go_in_and_out_whole(platform: Platform, machine: dict[str, Any]) -> None:
    there, back = platform.directory / "there", platform.directory / "back"
    there.write_bytes(os.urandom(5 * MIB + 1))

    async def sftp(*words: str) -> tuple[int, str]:
        done = await platform.command("ssh", "sftp", *words, "-a", APP)
        return done.returncode, done.stdout + done.stderr

    assert await sftp("put", str(there), "/tmp", "-m", "640") == (0, f"{5 * MIB + 1} bytes written to /tmp\n")
    listed = (await platform.command("ssh", "console", "-a", APP, "-C", "ls -ln /tmp")).stdout
    assert listed.splitlines()[-1].startswith("-rw-r-----")
    assert "caddis-" not in listed, "what it was called while it was not whole"
    assert (await sftp("get", "/tmp/there", str(back)))[0] == 0
    assert back.read_bytes() == there.read_bytes()
    assert "already there" in (await sftp("get", "/tmp/there", str(back)))[1]
    there.write_bytes(b"anew")
    code, said = await sftp("put", str(there), "/tmp/there")
    assert (code, "--force" in said) == (1, True)
    assert (await sftp("put", str(there), "/tmp/there", "-f"))[0] == 0
    assert (await sftp("get", "/tmp/there", "-")) == (0, "anew")
    code, said = await sftp("get", "/nosuch", str(platform.directory / "none"))
    assert (code, "No such file" in said) == (1, True)
    assert not list(platform.directory.glob("*none*"))
    code, said = await sftp("put", str(there), "/no/such/directory")
    assert (code, "cannot be written" in said) == (1, True)
    assert "tar -c" in (await sftp("put", str(platform.data_dir), "/tmp"))[1]
