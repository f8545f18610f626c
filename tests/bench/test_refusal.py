"""The bench has a computer to itself, or does nothing at all."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caddisfly.bench import computer
from caddisfly.host import computer as host_computer
from caddisfly.host.drivers.oci.cgroups import ControlGroups
from caddisfly.model.errors import FailedPrecondition


@pytest.fixture
def groups(tmp_path: Path) -> ControlGroups:
    """A tree of control groups with the remains of one Machine."""
    (tmp_path / "groups/caddisfly/e2865c1b900dd8-00000001").mkdir(parents=True)
    return ControlGroups("v2", root=tmp_path / "groups")


def test_it_looks_at_the_lock_that_agents_take() -> None:
    assert host_computer._LOCK == computer.AGENT_LOCK


def test_a_running_platform_is_left_alone(tmp_path: Path, groups: ControlGroups) -> None:
    lock = tmp_path / "agent.lock"
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        held.write("4711")
        held.flush()
        with pytest.raises(FailedPrecondition) as refused:
            computer.refuse_if_taken(lock=lock, groups=groups)
    assert "4711" in refused.value.why
    assert "caddis down" in refused.value.next


def test_machines_that_were_left_running_are_not_ended(tmp_path: Path, groups: ControlGroups) -> None:
    (tmp_path / "groups/caddisfly/e2865c1b900dd8-00000001/cgroup.procs").write_text("4711\n")
    with pytest.raises(FailedPrecondition, match="Machines run") as refused:
        computer.refuse_if_taken(lock=tmp_path / "agent.lock", groups=groups)
    assert "e2865c1b900dd8-00000001" in refused.value.why


def test_the_lock_of_an_agent_that_is_gone_and_empty_groups_are_no_reason(
    tmp_path: Path, groups: ControlGroups
) -> None:
    lock = tmp_path / "agent.lock"
    lock.write_text("4711")
    computer.refuse_if_taken(lock=lock, groups=groups)
    with lock.open() as free:  # and it was given back
        fcntl.flock(free, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_an_unknown_part_is_a_mistake_of_the_caller() -> None:
    command = [sys.executable, "-m", "caddisfly", "bench", "speed"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, "NO_COLOR": "1"})
    assert ended.returncode == 2
    assert "'speed' is none of create, wake, edge, memory, push, api, builds, deploys, many, dev, images" in " ".join(
        ended.stderr.split()
    )
