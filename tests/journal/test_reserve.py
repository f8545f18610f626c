"""A full disk under the journal (fault 14): what ends something is still written, what begins something waits."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from caddisfly.host.journal.journal import Journal, Write
from caddisfly.host.journal.reserve import SIZE_BYTES
from caddisfly.model.errors import Unavailable
from tests.conftest import eventually
from tests.journal.test_journal import a_machine, an_operation, reread
from tests.small_disk import SmallDisk, small_disk


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "small", megabytes=40) as disk:
        yield disk


def reserve(disk: SmallDisk) -> Path:
    return disk.path / "journal.db.reserve"


async def test_stops_are_written_creates_refused_and_all_is_well_when_there_is_space_again(disk: SmallDisk) -> None:
    journal = Journal(disk.path / "journal.db")
    await journal.open()
    machine = a_machine()
    await journal.write(Write(machine=machine, fence=None))
    assert reserve(disk).stat().st_blocks * 512 == SIZE_BYTES
    disk.fill()
    stopping = replace(machine, operation="o")
    for number in range(500):  # far more than the log has room for without the reserve
        operation = an_operation(stopping)
        state = replace(stopping, operation=operation.id, updated_ms=number)
        await journal.write(Write(machine=state, fence=machine.operation, begin=operation))
        machine = replace(state, operation="")
        await journal.write(Write(machine=machine, fence=operation.id, end=operation.id))
    assert not reserve(disk).exists()
    other = a_machine()
    with pytest.raises(Unavailable, match="disk is full") as refused:
        await journal.write(Write(machine=other, fence=None))
    assert "stops and destroys still work" in refused.value.next
    disk.free()

    async def taken() -> bool:
        try:
            await journal.write(Write(machine=other, fence=None))
        except Unavailable:
            return False
        return True

    await eventually(taken)
    assert reserve(disk).exists()
    await journal.close()
    assert {kept.id for kept in (await reread(disk.path / "journal.db"))[0]} == {machine.id, other.id}


async def test_a_journal_opens_on_a_full_disk(disk: SmallDisk) -> None:
    first = Journal(disk.path / "journal.db")
    await first.open()
    machine = a_machine()
    await first.write(Write(machine=machine, fence=None))
    await first.close()
    disk.fill()
    second = Journal(disk.path / "journal.db")
    contents = await second.open()
    assert [found.id for found in contents.machines] == [machine.id]
    await second.write(Write(machine=replace(machine, name="renamed"), fence=""))
    await second.close()


async def test_without_space_for_the_reserve_nothing_new_begins(tmp_path: Path) -> None:
    with small_disk(tmp_path / "tiny", megabytes=4) as disk:
        journal = Journal(disk.path / "journal.db")
        await journal.open()
        with pytest.raises(Unavailable, match="disk is full"):
            await journal.write(Write(machine=a_machine(), fence=None))
        assert not reserve(disk).exists()
        await journal.close()
