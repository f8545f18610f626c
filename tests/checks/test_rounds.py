"""The rounds of one run, and how they follow a Machine, with a probe that answers what a test wants."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.checks import rounds as rounds_module
from caddisfly.host.checks.checks import Checks
from caddisfly.host.checks.memory import Memory
from caddisfly.host.checks.probe import Finding
from caddisfly.model.check import CRITICAL, NOT_YET, PASSING, Check, CheckConfig
from caddisfly.model.config import Config
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.journal.test_journal import a_machine

UP, DOWN = Finding(True, "up"), Finding(False, "connect: connection refused")


class Patient:
    """Stands for every Machine: what it is asked and what it answers."""

    def __init__(self) -> None:
        self.answer: Finding | Callable[[], Finding] = UP
        self.asked: list[tuple[str, str]] = []
        self.hangs = False

    async def probe(self, check: CheckConfig, address: str, run_id: str) -> Finding:
        self.asked.append((check.name, address))
        if self.hangs:
            await asyncio.Event().wait()
        return self.answer if isinstance(self.answer, Finding) else self.answer()


class Host:
    """An agent's checks, and what they have published."""

    def __init__(self, directory: Path) -> None:
        self.patient = Patient()
        self.machines: dict[str, Machine] = {}
        self.published: list[tuple[Check, ...]] = []
        self.memory = Memory(directory / "checks")
        self.checks = self.again()

    def again(self) -> Checks:
        """Another agent on the same host."""
        self.checks = Checks(self.memory, publish=self._publish, probe=self.patient.probe)
        return self.checks

    async def _publish(self, machine_id: str) -> None:
        self.published.append(self.show(self.machines[machine_id]))

    def show(self, machine: Machine) -> tuple[Check, ...]:
        """What everyone sees once the engine has this value."""
        self.machines[machine.id] = machine
        return self.checks.follow(machine).checks

    @property
    def newest(self) -> list[tuple[str, str]]:
        return [(check.status, check.output) for check in self.published[-1]] if self.published else []


@pytest.fixture
async def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Host]:
    monkeypatch.setattr(rounds_module, "_RETRY_FIRST_S", 0.01)
    monkeypatch.setattr(rounds_module, "_TELL_EVERY_S", 0.0)
    made = Host(tmp_path)
    yield made
    await made.checks.stop()


def started(*, interval_s: float = 0.02, grace_s: float = 0, count: int = 1, **changes: Any) -> Machine:
    wire = {f"c{number}": {"type": "tcp", "port": 80} for number in range(count)}
    config = QuickConfig({"image": "nginx", "checks": wire, "interval_s": interval_s, "grace_s": grace_s})
    machine = a_machine(state="started", run_id="run-1", config=config, **changes)
    return machine.with_event("start", "started", source="flyd")


class QuickConfig(Config):
    """A config with shorter times than clients may ask for."""

    @property
    def checks(self) -> tuple[CheckConfig, ...]:
        times = {name: self.wire[name] for name in ("interval_s", "grace_s")}
        return tuple(CheckConfig(name=name, type="tcp", port=80, **times) for name in self.wire["checks"])


async def test_a_started_machine_shows_every_check_at_once_as_not_run(host: Host) -> None:
    shown = host.show(started(count=2, grace_s=60))
    assert [(check.name, check.status, check.output) for check in shown] == [
        ("c0", CRITICAL, NOT_YET),
        ("c1", CRITICAL, NOT_YET),
    ]
    assert all(check.updated_at for check in shown)


async def test_status_follows_what_is_found(host: Host) -> None:
    machine = started()
    host.show(machine)
    await eventually(lambda: host.newest == [(PASSING, "up")])
    assert host.patient.asked[0] == ("c0", machine.ipv4)
    host.patient.answer = DOWN
    await eventually(lambda: host.newest == [(CRITICAL, "connect: connection refused")])
    host.patient.answer = UP
    await eventually(lambda: host.newest == [(PASSING, "up")])


async def test_thresholds_ask_for_several_in_a_row_and_a_sick_container_is_ended(tmp_path: Path) -> None:
    config = CheckConfig(
        name="a/up", type="tcp", port=1, interval_s=0.001, grace_s=0, container="a", passes=3, failures=2, stops=True
    )
    answers = iter([UP, UP, DOWN, UP, UP, UP, DOWN, UP, DOWN, DOWN, UP])
    seen: list[str] = []
    ended: list[str] = []
    done = asyncio.Event()

    async def probe(check: CheckConfig, address: str) -> Finding:
        seen.append(rounds.results[0].status)
        answer = next(answers, None)
        if answer is None:
            done.set()
            await asyncio.Event().wait()
        assert answer is not None
        return answer

    async def end(check: CheckConfig) -> None:
        ended.append(check.container)

    async def tell() -> None:
        """Nobody listens."""

    rounds = rounds_module.Rounds((config,), address="-", probe=probe, tell=tell, end=end)
    rounds.begin(up_for_s=10)
    await done.wait()
    rounds.end()
    await rounds.ended()
    assert seen == [*[CRITICAL] * 6, *[PASSING] * 4, *[CRITICAL] * 2]
    assert ended == ["a"]


async def test_nothing_is_published_while_nothing_changes(host: Host) -> None:
    host.show(started(interval_s=0.001))
    await eventually(lambda: len(host.patient.asked) > 50)
    assert len(host.published) == 1


async def test_an_output_that_always_changes_is_published_seldom(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    count = iter(range(1_000_000))
    host.patient.answer = lambda: Finding(True, f"{next(count)}")
    host.show(started(interval_s=0.001))
    await eventually(lambda: len(host.patient.asked) > 50)
    assert len(host.published) == 1
    monkeypatch.setattr(rounds_module, "_OUTPUT_EVERY_S", 0.0)
    await eventually(lambda: len(host.published) > 3)
    assert len({check.updated_at for (check,) in host.published}) == 1, "updated_at moves with the status"


async def test_within_its_grace_a_machine_is_not_asked(host: Host) -> None:
    host.show(started(grace_s=0.3))
    await asyncio.sleep(0.1)
    assert host.patient.asked == []
    await eventually(lambda: host.newest == [(PASSING, "up")])


async def test_a_first_failure_says_why_and_a_pass_is_found_soon(host: Host) -> None:
    host.patient.answer = DOWN
    host.show(started(interval_s=60))
    await eventually(lambda: host.newest == [(CRITICAL, "connect: connection refused")])
    host.patient.answer = UP
    await eventually(lambda: host.newest == [(PASSING, "up")], timeout_s=5)


async def test_a_check_that_hangs_holds_up_no_other(host: Host) -> None:
    host.patient.hangs = True
    host.show(started(count=2))
    await eventually(lambda: {name for name, _ in host.patient.asked} == {"c0", "c1"})
    host.patient.hangs = False
    host.show(started())
    await eventually(lambda: host.newest == [(PASSING, "up")])


async def test_a_bug_in_a_probe_is_a_failed_check_and_no_end_of_checking(host: Host) -> None:
    def broken() -> Finding:
        raise RuntimeError("a bug")

    host.patient.answer = broken
    host.show(started())
    await eventually(lambda: "RuntimeError" in str(host.newest))
    host.patient.answer = UP
    await eventually(lambda: host.newest == [(PASSING, "up")])


@pytest.mark.parametrize("state", ["stopping", "restarting", "replacing", "suspending", "destroying"])
async def test_who_is_no_longer_started_is_not_asked(host: Host, state: str) -> None:
    machine = started(interval_s=0.001)
    host.show(machine)
    await eventually(lambda: host.newest == [(PASSING, "up")])
    assert host.show(replace(machine, state=state)) == ()
    await asyncio.sleep(0)
    before = len(host.patient.asked)
    await asyncio.sleep(0.05)
    assert len(host.patient.asked) == before
    assert host.memory.recall("run-1") == ()


async def test_another_run_begins_anew(host: Host) -> None:
    machine = started()
    host.show(machine)
    await eventually(lambda: host.newest == [(PASSING, "up")])
    host.patient.hangs = True
    (check,) = host.show(replace(machine, run_id="run-2"))
    assert (check.status, check.output) == (CRITICAL, NOT_YET)
    assert host.memory.recall("run-2") == ()


async def test_other_changes_of_a_machine_leave_its_rounds_alone(host: Host) -> None:
    machine = started()
    host.show(machine)
    await eventually(lambda: host.newest == [(PASSING, "up")])
    (check,) = host.show(replace(machine, cordoned=True))
    assert check.status == PASSING, "a cordoned Machine is checked"


async def test_what_was_found_outlives_the_agent(host: Host) -> None:
    machine = started(interval_s=0.05)
    host.show(machine)
    await eventually(lambda: host.newest == [(PASSING, "up")])
    await host.checks.stop()
    host.patient.answer = DOWN
    host.again()
    (check,) = host.show(machine)
    assert check.status == PASSING
    await eventually(lambda: host.newest == [(CRITICAL, "connect: connection refused")])


async def test_what_was_found_of_other_checks_or_cannot_be_read_is_not_believed(host: Host, tmp_path: Path) -> None:
    machine = started()
    host.show(machine)
    await eventually(lambda: host.newest == [(PASSING, "up")])
    await host.checks.stop()
    host.again()
    host.patient.hangs = True
    assert [check.status for check in host.show(started(count=2))] == [CRITICAL, CRITICAL]
    await host.checks.stop()
    (tmp_path / "checks" / "run-1").write_text('[{"name"')
    host.again()
    assert [check.status for check in host.show(machine)] == [CRITICAL]
    host.checks.sweep(())
    assert list((tmp_path / "checks").iterdir()) == []


async def test_a_record_whose_checks_make_no_sense_is_shown_without(host: Host) -> None:
    machine = started()
    wire = {"image": "nginx", "checks": {"up": {"port": 80}}, "services": [{"checks": ["x"]}]}
    assert host.show(replace(machine, config=Config(wire))) == ()
