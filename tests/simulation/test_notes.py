"""The simulated notes answer as the files do, and a pod keeps its promises when they cannot be written."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from caddisfly.host.drivers.driver import Bind, Limits, Member, Sandbox
from caddisfly.host.drivers.mock import MockDriver
from caddisfly.host.drivers.notes import FileNotes, Notes, State
from caddisfly.host.drivers.pods import Pods
from caddisfly.model.duration import Duration
from caddisfly.model.errors import Retryable, Unavailable
from caddisfly.model.program import STARTED, RestartPolicy, StopConfig
from tests.simulation.disk import Disk, SimNotes

_ID = f"{'a' * 14}-00000001"
_STATE = State(begun=True, stopping=15, patience_s=5.0, parts={"a": (3, 2), "b": (1, 0)})


def _sandbox(*members: Member, netns: Path | None = Path("/run/netns/one")) -> Sandbox:
    return Sandbox(
        id=_ID,
        root=Path("/roots/one"),
        argv=("/bin/app", "--quick"),
        env=("A=1",),
        cwd="/",
        uid=1,
        gid=2,
        gids=(3, 4),
        hostname="one",
        netns=netns,
        binds=(Bind(source=Path("/host/file"), target="/etc/file"),),
        limits=Limits(cores=0.5, weight=100, memory_mb=256, pids=100),
        log=Path("/logs/one.log"),
        members=members,
    )


def _member(name: str, *, after: tuple[tuple[str, str], ...] = (), stop: StopConfig | None = None) -> Member:
    policy = RestartPolicy("on-failure", 3)
    sandbox = _sandbox(netns=None)
    return Member(name=name, sandbox=sandbox, restart=policy, stop=stop, after=after, essential=False)


_PLAN = _sandbox(
    _member("a", stop=StopConfig("SIGTERM", Duration.of_seconds(2))), _member("b", after=(("a", STARTED),))
)


@pytest.fixture
def disk() -> Disk:
    return Disk(pytest.fail)


@pytest.fixture(params=["files", "simulated"])
def notes(request: pytest.FixtureRequest, tmp_path: Path, disk: Disk) -> Notes:
    return FileNotes(tmp_path / "pods") if request.param == "files" else SimNotes(disk)


def test_what_was_written_is_read_again(notes: Notes) -> None:
    assert notes.known() == frozenset()
    notes.begin(_PLAN)
    assert notes.plan(_ID) == _PLAN
    assert notes.state(_ID) is None
    notes.keep(_ID, State(begun=False, stopping=0, patience_s=None, parts={"a": (1, 0), "b": (0, 0)}))
    notes.keep(_ID, _STATE)
    assert notes.state(_ID) == _STATE
    assert notes.has(_ID)
    assert notes.known() == {_ID}


def test_what_is_forgotten_is_gone(notes: Notes) -> None:
    notes.begin(_PLAN)
    notes.keep(_ID, _STATE)
    notes.forget(_ID)
    assert (notes.plan(_ID), notes.state(_ID), notes.has(_ID), notes.known()) == (None, None, False, frozenset())
    notes.forget(_ID)
    with pytest.raises(Unavailable):
        notes.keep(_ID, _STATE)


def test_what_could_not_be_written_is_when_it_is_tried_again(tmp_path: Path) -> None:
    home = tmp_path / "pods"
    home.touch()
    notes = FileNotes(home)
    with pytest.raises(Retryable, match=str(home)):
        notes.begin(_PLAN)
    home.unlink()
    notes.begin(_PLAN)
    assert notes.plan(_ID) == _PLAN


def test_a_plan_that_an_agent_died_over_is_none_and_leaves_a_trace(tmp_path: Path) -> None:
    notes = FileNotes(tmp_path)
    notes.begin(_PLAN)
    file = tmp_path / _ID / "plan.json"
    file.write_text(file.read_text()[:100])
    assert notes.plan(_ID) is None
    assert notes.has(_ID)


def test_the_files_of_the_agent_before_are_read(tmp_path: Path) -> None:
    notes = FileNotes(tmp_path)
    notes.begin(_PLAN)
    state = '{"begun": true, "stopping": 15, "patience_s": 5.0, "parts": {"a": [3, 2], "b": [1, 0]}}'
    (tmp_path / _ID / "state.json").write_text(state)
    assert notes.state(_ID) == _STATE


async def test_a_pod_that_could_not_be_noted_as_begun_begins_when_there_is_room(disk: Disk) -> None:
    class Filling(SimNotes):
        """Full in the moment in which all its programs run."""

        def keep(self, id: str, state: State) -> None:
            disk.full = disk.full or (state.begun and not refused)
            if disk.full:
                refused.append(id)
            super().keep(id, state)

    refused: list[str] = []
    pods = Pods(MockDriver(), notes=Filling(disk))
    plan = _sandbox(_member("a"), _member("b"))
    with pytest.raises(Unavailable, match="no space"):
        await pods.start(plan)
    disk.full = False
    await pods.start(plan)
    await pods.kill(_ID)
    assert (await asyncio.wait_for(pods.wait(_ID), 5)).exit_code == 137
    await pods.close()


async def test_a_pod_can_be_stopped_on_a_host_that_is_full(disk: Disk) -> None:
    pods = Pods(MockDriver(), notes=SimNotes(disk))
    await pods.start(_sandbox(_member("a"), _member("b")))
    disk.full = True
    await pods.stop(_ID, signal.SIGTERM)
    await asyncio.wait_for(pods.wait(_ID), 5)
    assert pods.states(_ID) == (("a", "stopped"), ("b", "stopped"))
    await pods.close()
