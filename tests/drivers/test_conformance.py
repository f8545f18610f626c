"""The contract of drivers/driver.py, on every driver. Skips are by declared ability only."""

from __future__ import annotations

import asyncio
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from caddisfly.host.drivers.driver import (
    Command,
    CommandResult,
    Driver,
    Ended,
    NotSuspended,
    Pausable,
    Running,
    Sizable,
    Suspendable,
    TakesDrives,
    Unusable,
)
from caddisfly.model.errors import DeadlineExceeded, FailedPrecondition, InvalidArgument, Problem
from caddisfly.model.machine import Exit
from tests.conftest import eventually
from tests.drivers.conftest import Bench, soon


async def test_it_proves_itself(bench: Bench) -> None:
    found = await bench.driver.fingerprint()
    assert found.works
    assert found.version
    assert await bench.driver.known() == frozenset()


async def test_what_was_started_is_found_again_by_another(bench: Bench) -> None:
    sandbox = bench.sandbox()
    running = await bench.driver.start(sandbox)
    driver = await bench.restarted()
    assert await driver.recover(sandbox.id) == running
    assert await driver.known() == {sandbox.id}


async def test_starting_twice_runs_once(bench: Bench) -> None:
    sandbox = bench.sandbox()
    assert await bench.driver.start(sandbox) == await bench.driver.start(sandbox)


async def test_what_was_never_started_is_unknown(bench: Bench) -> None:
    assert await bench.driver.recover("e" * 14 + "-00000001") is None


async def test_a_signal_ends_it_and_the_exit_names_it(bench: Bench) -> None:
    sandbox = bench.sandbox()
    await bench.driver.start(sandbox)
    await bench.driver.signal(sandbox.id, signal.SIGTERM)
    exit: Exit = await soon(bench.driver.wait(sandbox.id))
    assert (exit.exit_code, exit.signal) == (143, 15)
    driver = await bench.restarted()
    found = await driver.recover(sandbox.id)
    assert isinstance(found, Ended)
    assert found.exit.exit_code == 143


async def test_no_signal_is_lost_that_comes_right_after_the_start(bench: Bench) -> None:
    for _ in range(3 if isinstance(bench.driver, TakesDrives) else 10):  # a kernel has to boot each time
        sandbox = bench.sandbox()
        await bench.driver.start(sandbox)
        await bench.driver.signal(sandbox.id, signal.SIGTERM)
        exit: Exit = await soon(bench.driver.wait(sandbox.id))
        assert exit.signal == 15
        await bench.driver.destroy(sandbox.id)


async def test_a_kill_needs_no_consent(bench: Bench) -> None:
    sandbox = bench.sandbox("trap '' TERM INT; while :; do sleep 1; done")
    await bench.driver.start(sandbox)
    await bench.driver.kill(sandbox.id)
    assert (await soon(bench.driver.wait(sandbox.id))).exit_code == 137


async def test_signalling_what_has_ended_is_no_error(bench: Bench) -> None:
    sandbox = bench.sandbox()
    await bench.driver.start(sandbox)
    await bench.driver.kill(sandbox.id)
    await soon(bench.driver.wait(sandbox.id))
    await bench.driver.signal(sandbox.id, signal.SIGTERM)
    await bench.driver.kill(sandbox.id)


async def test_destroying_ends_it_leaves_no_trace_and_may_be_repeated(bench: Bench) -> None:
    sandbox = bench.sandbox()
    await bench.driver.start(sandbox)
    await bench.driver.destroy(sandbox.id)
    assert await bench.driver.recover(sandbox.id) is None
    assert await bench.driver.known() == frozenset()
    await bench.driver.destroy(sandbox.id)


async def test_several_wait_for_one_end(bench: Bench) -> None:
    sandbox = bench.sandbox()
    await bench.driver.start(sandbox)
    waits = [asyncio.create_task(bench.driver.wait(sandbox.id)) for _ in range(3)]
    await asyncio.sleep(0)
    await bench.driver.kill(sandbox.id)
    assert {exit.exit_code for exit in await soon(asyncio.gather(*waits))} == {137}


async def test_the_programs_own_exit_code_comes_back(programs: Bench) -> None:
    sandbox = programs.sandbox("exit 42")
    await programs.driver.start(sandbox)
    exit: Exit = await soon(programs.driver.wait(sandbox.id))
    assert (exit.exit_code, exit.signal, exit.oom_killed, exit.error) == (42, -1, False, "")


async def test_a_program_may_handle_its_signal(programs: Bench) -> None:
    sandbox = programs.sandbox("trap 'exit 7' INT; echo ready; while :; do sleep 0.05; done")
    await programs.driver.start(sandbox)
    await eventually(lambda: sandbox.log.exists() and "ready" in sandbox.log.read_text())
    await programs.driver.signal(sandbox.id, signal.SIGINT)
    assert (await soon(programs.driver.wait(sandbox.id))).exit_code == 7


async def test_output_goes_to_the_log_with_its_stream(programs: Bench) -> None:
    sandbox = programs.sandbox("echo out; echo err >&2")
    await programs.driver.start(sandbox)
    await soon(programs.driver.wait(sandbox.id))
    lines = {tuple(line.split(" ", 3)[1:]) for line in sandbox.log.read_text().splitlines()}
    assert lines == {("stdout", "F", "out"), ("stderr", "F", "err")}


async def test_a_console_can_be_a_terminal(programs: Bench) -> None:
    sandbox = programs.sandbox("test -t 0 && test -t 1 && echo terminal; echo err >&2; sleep 1000", tty=True)
    await programs.driver.start(sandbox)
    await eventually(lambda: sandbox.log.exists() and " err" in sandbox.log.read_text())
    pieces = [line.split(" ", 3)[1:] for line in sandbox.log.read_text().splitlines()]
    assert {stream for stream, _, _ in pieces} == {"stdout"}
    text = "".join(text + ("\n" if tag == "F" else "") for _, tag, text in pieces)  # a terminal writes as it likes
    assert text.split() == ["terminal", "err"]
    assert await programs.driver.execute(sandbox.id, Command(argv=("/bin/sh", "-c", "! test -t 0"), timeout_s=20)) == (
        CommandResult(exit_code=0, stdout=b"", stderr=b"")
    )
    await programs.driver.signal(sandbox.id, signal.SIGTERM)
    assert (await soon(programs.driver.wait(sandbox.id))).signal == 15


async def test_swap_is_a_limit_of_its_own(programs: Bench) -> None:
    limits = replace(programs.sandbox().limits, swap_mb=64)
    sandbox = programs.sandbox(limits=limits)
    await programs.driver.start(sandbox)
    driver = programs.driver
    assert isinstance(driver, Sizable)
    for memory_mb in (96, 128):
        await driver.limit_memory(sandbox.id, memory_mb)
        assert await driver.memory_limit(sandbox.id) == memory_mb
        if driver.name.startswith("oci/"):  # the others' kernels have their own
            for file in Path("/sys/fs/cgroup/memory/caddisfly").glob(f"{sandbox.id}/memory.memsw.limit_in_bytes"):
                assert int(file.read_text()) >> 20 == memory_mb + 64


async def test_orphans_are_reaped(programs: Bench) -> None:
    sandbox = programs.sandbox("(sleep 0.01 & ) ; while :; do sleep 1; done")
    await programs.driver.start(sandbox)
    command = Command(argv=("/bin/sh", "-c", "ps | grep -c '\\[sleep\\]'"), timeout_s=10)

    async def zombies() -> bool:
        return (await programs.driver.execute(sandbox.id, command)).stdout.strip() == b"0"

    await eventually(zombies)


async def test_a_command_has_its_own_streams_code_and_the_sandboxs_world(programs: Bench) -> None:
    sandbox = programs.sandbox()
    await programs.driver.start(sandbox)
    line = "echo $GREETING; pwd; id -u; hostname; cat; echo err >&2; exit 3"
    result = await programs.driver.execute(
        sandbox.id, Command(argv=("/bin/sh", "-c", line), stdin=b"fed\n", timeout_s=20)
    )
    assert result.stdout == b"hi\n/tmp\n65534\ntested\nfed\n"
    assert (result.stderr, result.exit_code) == (b"err\n", 3)


async def test_a_command_that_takes_too_long_is_killed(programs: Bench) -> None:
    sandbox = programs.sandbox()
    await programs.driver.start(sandbox)
    with pytest.raises(DeadlineExceeded):
        await programs.driver.execute(sandbox.id, Command(argv=("/bin/sleep", "4321"), timeout_s=1))
    ps = Command(argv=("/bin/ps",), timeout_s=20)

    async def gone() -> bool:
        return b"4321" not in (await programs.driver.execute(sandbox.id, ps)).stdout

    await eventually(gone)
    assert isinstance(await programs.driver.recover(sandbox.id), Running)


async def test_a_command_that_is_not_there_says_so(programs: Bench) -> None:
    sandbox = programs.sandbox()
    await programs.driver.start(sandbox)
    with pytest.raises(InvalidArgument, match="nosuch"):
        await programs.driver.execute(sandbox.id, Command(argv=("nosuch",), timeout_s=20))


async def test_a_flood_of_output_does_not_grow_the_agent(programs: Bench) -> None:
    sandbox = programs.sandbox()
    await programs.driver.start(sandbox)
    command = Command(argv=("/bin/sh", "-c", "head -c 20000000 /dev/zero"), timeout_s=30)
    result = await programs.driver.execute(sandbox.id, command)
    assert len(result.stdout) == 1 << 20
    assert result.exit_code == 0


async def test_a_root_that_cannot_run_leaves_no_trace(programs: Bench) -> None:
    sandbox = programs.sandbox(root=programs.directory / "nosuchroot")
    with pytest.raises(Problem):
        await programs.driver.start(sandbox)
    assert await programs.driver.known() == frozenset()


async def test_counters_count(programs: Bench) -> None:
    sandbox = programs.sandbox("i=0; while [ $i -lt 20000 ]; do i=$((i+1)); done; while :; do sleep 1; done")
    await programs.driver.start(sandbox)

    async def counted() -> bool:
        stats = await programs.driver.stats(sandbox.id)
        return stats.cpu_ns > 5_000_000 and stats.memory_bytes > 0 and stats.pids > 0

    await eventually(counted)


async def test_what_is_paused_stands_still_and_can_be_killed(programs: Bench) -> None:
    if "pause" not in programs.abilities:
        pytest.skip("this driver declares that it cannot pause")
    driver = programs.driver
    assert isinstance(driver, Pausable)
    sandbox = programs.sandbox("echo counting; i=0; while :; do i=$((i+1)); done")
    await driver.start(sandbox)
    await eventually(lambda: sandbox.log.exists() and "counting" in sandbox.log.read_text())
    await driver.pause(sandbox.id)
    used = (await driver.stats(sandbox.id)).cpu_ns
    assert (await driver.stats(sandbox.id)).cpu_ns == used
    await driver.pause(sandbox.id)
    assert isinstance(await driver.recover(sandbox.id), Running)
    await driver.unpause(sandbox.id)
    await eventually(lambda: _used(driver, sandbox.id, more_than=used))
    await driver.pause(sandbox.id)
    await driver.kill(sandbox.id)
    assert (await soon(driver.wait(sandbox.id))).exit_code == 137


async def _used(driver: Driver, id: str, *, more_than: int) -> bool:
    return (await driver.stats(id)).cpu_ns > more_than


@pytest.fixture
def suspends(bench: Bench, tmp_path: Path) -> tuple[Bench, Suspendable, Path]:
    """A driver that can suspend, and a directory for a snapshot."""
    if "suspend" not in bench.abilities:
        pytest.skip("this driver declares that it cannot suspend")
    assert isinstance(bench.driver, Suspendable)
    return bench, bench.driver, tmp_path


async def test_what_cannot_be_suspended_says_why(bench: Bench) -> None:
    if "suspend" in bench.abilities:
        pytest.skip("this driver declares that it can")
    if isinstance(bench.driver, Suspendable):
        with pytest.raises(FailedPrecondition, match="unable to suspend machine"):
            bench.driver.snapshot_build("e" * 14 + "-00000001")


async def test_what_is_suspended_goes_on_under_another_agent(suspends: tuple[Bench, Suspendable, Path]) -> None:
    bench, driver, directory = suspends
    sandbox = bench.sandbox("i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
    await bench.driver.start(sandbox)
    build = driver.snapshot_build(sandbox.id)
    if "programs" in bench.abilities:
        await eventually(lambda: sandbox.log.exists() and len(sandbox.log.read_text().splitlines()) > 2)
    await driver.suspend(sandbox.id, directory)
    await driver.suspend(sandbox.id, directory)
    assert list(directory.iterdir())
    if await driver.keep_running(sandbox.id):  # it still had its memory, and has been running since
        await driver.suspend(sandbox.id, directory)
    lines = sandbox.log.read_text()
    await bench.driver.destroy(sandbox.id)
    assert await bench.driver.recover(sandbox.id) is None
    assert sandbox.log.read_text() == lines, "nothing of it ran on"
    again = await bench.restarted()
    assert isinstance(again, Suspendable)
    assert again.snapshot_build(sandbox.id) == build
    running = await again.resume(sandbox, directory)
    assert await again.resume(sandbox, directory) == running
    assert await again.recover(sandbox.id) == running
    if "programs" in bench.abilities:
        counted = len(lines.splitlines())
        await eventually(lambda: len(sandbox.log.read_text().splitlines()) > counted + 2)
        numbers = [int(line.rsplit(" ", 1)[1]) for line in sandbox.log.read_text().splitlines()]
        assert numbers == list(range(1, len(numbers) + 1))
    await again.signal(sandbox.id, signal.SIGTERM)
    assert (await soon(again.wait(sandbox.id))).signal == 15


async def test_what_has_ended_cannot_be_suspended(suspends: tuple[Bench, Suspendable, Path]) -> None:
    bench, driver, directory = suspends
    sandbox = bench.sandbox()
    await bench.driver.start(sandbox)
    await bench.driver.kill(sandbox.id)
    await soon(bench.driver.wait(sandbox.id))
    with pytest.raises(Problem) as caught:
        await driver.suspend(sandbox.id, directory)
    assert not isinstance(caught.value, NotSuspended)


async def test_a_snapshot_that_is_no_good_leaves_no_trace(suspends: tuple[Bench, Suspendable, Path]) -> None:
    bench, driver, directory = suspends
    if "programs" not in bench.abilities:
        pytest.skip("what it writes cannot be broken")
    for name in ("checkpoint.img", "memory.zst"):
        (directory / name).write_bytes(b"rotten" * 1000)
    sandbox = bench.sandbox()
    with pytest.raises(Unusable):
        await driver.resume(sandbox, directory)
    assert await bench.driver.recover(sandbox.id) is None
    assert await bench.driver.known() == frozenset()
