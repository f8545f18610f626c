"""The files of snapshots: who may read them, what they must be, what becomes of them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.host import capacity
from caddisfly.host.capacity import Capacity
from caddisfly.host.drivers.driver import Unusable
from caddisfly.host.settings import HostSettings
from caddisfly.host.snapshots import Snapshots
from caddisfly.model.errors import Aborted
from tests.host.conftest import RunningAgent, Watcher
from tests.journal.test_journal import a_machine

KEY = "d" * 14 + "-00000001"


async def test_only_root_may_look_into_them(tmp_path: Path) -> None:
    home = Snapshots(tmp_path / "snapshots").make(KEY)
    assert {path.stat().st_mode & 0o777 for path in (home, home.parent)} == {0o700}


async def test_they_are_what_they_were_or_cannot_be_used(tmp_path: Path) -> None:
    snapshots = Snapshots(tmp_path)
    home = snapshots.make(KEY)
    (home / "memory").write_bytes(b"\1" * 100_000)
    (home / "disks").mkdir()
    (home / "disks" / "one").write_bytes(b"two")
    sha256, size = await snapshots.seal(KEY)
    assert size >= 100_000
    assert snapshots.make(KEY) == home, "what is there stays"
    await snapshots.check(KEY, sha256)
    (home / "disks" / "one").rename(home / "disks" / "other")
    with pytest.raises(Unusable, match="checksum"):
        await snapshots.check(KEY, sha256)
    await snapshots.remove(KEY)
    await snapshots.remove(KEY)
    with pytest.raises(Unusable, match="cannot be read"):
        await snapshots.check(KEY, sha256)
    assert snapshots.known() == set()


def test_a_disk_that_cannot_hold_a_memory_is_not_tried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capacity, "free_disk_mb", lambda _: 1024 + 300)
    counted = Capacity(HostSettings(data_dir=tmp_path, run_dir=tmp_path, disk_floor_mb=1024), cpus=1, memory_mb=4096)
    machine = a_machine(state="started")
    other = replace(a_machine(state="suspending"), id="f" * 14)
    counted.check_snapshot(machine, [machine])
    with pytest.raises(Aborted, match="insufficient disk space") as caught:
        counted.check_snapshot(machine, [machine, other])
    assert "may take 256 MiB, and 44 are to spare" in caught.value.why


async def test_what_belongs_to_nobody_goes_when_the_agent_starts(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(), "started")
    await agent.ask(contract.SUSPEND_MACHINE, contract.MachineCall(machine_id=machine.id))
    await watcher.until(machine, "suspended")
    directory = agent.settings.data_dir / "snapshots"
    (directory / KEY).mkdir()
    (directory / KEY / "checkpoint.img").write_bytes(b"of nobody")
    agent.stop()
    await agent.restarted()
    assert [entry.name for entry in directory.iterdir()] == [machine.run_id]
