"""What must be sure before gVisor may be asked to write a sandbox to disk."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

import pytest

from caddisfly.host.drivers.driver import Command, CommandResult, NotSuspended
from caddisfly.host.drivers.oci import checkpoint
from caddisfly.host.drivers.oci.checkpoint import Quiet, Suspending
from caddisfly.host.network.connections import Connection

_TCP = "Tcp: RtoAlgorithm ActiveOpens PassiveOpens CurrEstab\nTcp: 1 {begun} 3 {established}\n"
_TABLE = "  sl  local_address rem_address   st tx_queue\n"
_TIME_WAIT_S = 120


@pytest.mark.parametrize(
    ("state", "closed_first", "left_s", "may_be_open"),
    [
        (3, False, 400_000, True),  # established
        (1, False, 100, True),  # its SYN has no answer yet
        (5, False, 400_000, True),  # half closed
        (6, False, 20, True),
        (7, False, 119, False),  # closed by the other side: nothing lingers
        (7, True, 119, True),  # closed by the Machine, just now
        (7, True, 59, True),
        (7, True, 57, False),  # a minute ago
        (8, False, 9, False),  # reset
    ],
)
def test_which_ends_may_still_be_there(state: int, closed_first: bool, left_s: int, may_be_open: bool) -> None:
    seen = Connection(own="a:1", other="b:2", state=state, closed_first=closed_first, left_s=left_s)
    assert seen.may_be_open(_TIME_WAIT_S) is may_be_open


class FakeRuntime:
    """Notes what it is asked."""

    command, options = Path("/bin/true"), ("--ok",)

    def __init__(self) -> None:
        self.asked: list[str] = []

    async def run(self, *args: str, timeout_s: float) -> str:
        self.asked.append(args[0])
        return "{}"


class FakeTraffic:
    def __init__(self, *found: tuple[str, ...], attempts: int = 0) -> None:
        self.found, self.hushed, self._attempts = list(found), False, attempts

    async def hush(self, id: str) -> None:
        self.hushed = True

    async def unhush(self, id: str) -> None:
        self.hushed = False

    async def attempts(self, id: str) -> int:
        assert self.hushed
        return self._attempts

    async def open_connections(self, id: str) -> tuple[str, ...]:
        return self.found.pop(0) if len(self.found) > 1 else self.found[0]


class Case:
    def __init__(self, directory: Path, traffic: FakeTraffic, inside: str, *, drain_s: float = 0.0) -> None:
        self.directory = directory
        self.runtime, self.traffic, self.inside = FakeRuntime(), traffic, inside
        self.suspending = Suspending(
            "one",
            directory=directory,
            runtime=self.runtime,  # type: ignore[arg-type]
            quiet=Quiet(traffic, drain_s),
            execute=self._execute,
            timeout_s=1,
        )

    async def _execute(self, id: str, command: Command) -> CommandResult:
        return CommandResult(exit_code=0, stdout=self.inside.encode(), stderr=b"")

    async def run(self) -> None:
        home = self.directory / "snapshot"
        home.mkdir()
        await self.suspending.run(home)


def inside(*, begun: int = 0, established: int = 0, rows: str = "") -> str:
    return _TCP.format(begun=begun, established=established) + _TABLE + rows


async def test_what_is_sure_is_written_and_paused_before(tmp_path: Path) -> None:
    case = Case(tmp_path, FakeTraffic(()), inside(rows="   0: 00000000:0050 00000000:0000 0A 0 0\n"))
    await case.run()
    assert case.runtime.asked == ["pause"]
    assert (tmp_path / "snapshot" / "complete").exists()
    assert not case.traffic.hushed
    assert not case.suspending.keep_running()


@pytest.mark.parametrize(
    ("traffic", "text", "why"),
    [
        (FakeTraffic(("a:80 to b:1, established",)), inside(), "a:80 to b:1"),
        (FakeTraffic((), ("a:80 to b:1, syn received",)), inside(), "syn received"),
        (FakeTraffic((), attempts=1), inside(), "in this moment"),
        (FakeTraffic(()), inside(established=2), "2 ends"),
        (FakeTraffic(()), inside(begun=1), "less than a minute ago"),
        (FakeTraffic(()), inside(rows="   0: 0200000A:0050 0300000A:1234 08 0 0\n"), "in state 08"),
        (FakeTraffic(()), "", "does not say"),
    ],
)
async def test_whatever_is_in_doubt_is_not_tried(tmp_path: Path, traffic: FakeTraffic, text: str, why: str) -> None:
    case = Case(tmp_path, traffic, text)
    with pytest.raises(NotSuspended, match="no open TCP connections") as caught:
        await case.run()
    assert why in caught.value.why
    assert not traffic.hushed
    assert case.runtime.asked.count("pause") == case.runtime.asked.count("resume"), "it runs on"
    assert not (tmp_path / "snapshot" / "complete").exists()


async def test_what_ends_in_time_is_waited_for(tmp_path: Path) -> None:
    case = Case(tmp_path, FakeTraffic(("a:80 to b:1, time wait",), ()), inside(), drain_s=5)
    await case.run()
    assert (tmp_path / "snapshot" / "complete").exists()


async def test_who_needs_it_meanwhile_has_it(tmp_path: Path) -> None:
    case = Case(tmp_path, FakeTraffic(("a:80 to b:1, established",)), inside(), drain_s=60)
    run = asyncio.create_task(case.run())
    await asyncio.sleep(0)
    assert case.suspending.keep_running()
    with pytest.raises(NotSuspended, match="needed"):
        await asyncio.wait_for(run, 5)


async def test_a_command_from_outside_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "exec-one.json").touch()
    with pytest.raises(NotSuspended) as caught:
        await Case(tmp_path, FakeTraffic(()), inside()).run()
    assert caught.value.why == "a command runs in it"


async def test_connections_that_it_began_a_minute_ago_are_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.monotonic()
    case = Case(tmp_path, FakeTraffic(()), inside(begun=3))
    assert case.suspending._inside(case.inside)
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now + 70)
    assert not case.suspending._inside(case.inside)
