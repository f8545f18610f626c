"""What the journal acknowledged is there after a crash; what it cannot accept changes nothing."""

from __future__ import annotations

import asyncio
import random
import sqlite3
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from caddisfly.host.journal.journal import Journal, Stale, Write
from caddisfly.host.journal.operation import Operation
from caddisfly.model import ids
from caddisfly.model.config import Config
from caddisfly.model.errors import AlreadyExists, Unavailable
from caddisfly.model.machine import ImageRef, Machine


def a_machine(**changes: object) -> Machine:
    made = Machine(
        id=ids.machine_id(),
        name=ids.generated_name(),
        app_name="demo",
        app_id="app1",
        org_id="org1",
        org_slug="personal",
        network_id=7,
        host_id="0a7b0018",
        region="lab",
        state="created",
        instance_id=ids.ulid(),
        config=Config.parse({"image": "nginx", "env": {"A": "ü\n"}}),
        image=ImageRef(registry="r", repository="library/nginx", tag="latest", digest="sha256:0", labels={"a": "b"}),
        private_ip="fdaa::1",
        ipv4="10.0.0.2",
        created_ms=1,
        updated_ms=2,
    ).with_event("launch", "created", source="user", request={"a": 1})
    return replace(made, **changes)  # type: ignore[arg-type]


def an_operation(machine: Machine) -> Operation:
    return Operation(
        id=ids.ulid(),
        machine_id=machine.id,
        kind="start",
        instance_id=machine.instance_id,
        steps=("a", "b"),
        args={"x": 1},
    )


@pytest.fixture
async def journal(tmp_path: Path) -> AsyncIterator[Journal]:
    opened = Journal(tmp_path / "journal.db")
    await opened.open()
    yield opened
    await opened.close()


async def reread(path: Path) -> tuple[tuple[Machine, ...], tuple[Operation, ...]]:
    """What another process finds."""
    other = Journal(path)
    contents = await other.open()
    await other.close()
    return contents.machines, contents.operations


async def test_a_machine_and_its_operation_come_back_as_they_were(journal: Journal, tmp_path: Path) -> None:
    machine = a_machine()
    operation = an_operation(machine)
    machine = replace(machine, operation=operation.id)
    await journal.write(Write(machine=machine, fence=None, begin=operation))
    await journal.progress(replace(operation, at=1))
    machines, operations = await reread(tmp_path / "journal.db")
    assert machines == (machine,)
    assert operations == (replace(operation, at=1),)


async def test_a_write_of_an_operation_that_lost_its_machine_changes_nothing(journal: Journal, tmp_path: Path) -> None:
    machine = a_machine(operation="now")
    await journal.write(Write(machine=machine, fence=None))
    with pytest.raises(Stale):
        await journal.write(Write(machine=replace(machine, state="stopped"), fence="before"))
    machines, _ = await reread(tmp_path / "journal.db")
    assert machines == (machine,)


async def test_a_name_is_taken_once_and_free_again_when_its_machine_is_gone(journal: Journal) -> None:
    first, second = a_machine(name="a"), a_machine(name="a")
    await journal.write(Write(machine=first, fence=None))
    with pytest.raises(AlreadyExists, match=first.id):
        await journal.write(Write(machine=second, fence=None))
    await journal.write(Write(machine=replace(first, state="destroyed"), fence=""))
    await journal.write(Write(machine=second, fence=None))


async def test_one_bad_write_in_a_burst_fails_alone(journal: Journal, tmp_path: Path) -> None:
    good = [a_machine() for _ in range(50)]
    bad = a_machine(name=good[0].name)
    writes = [journal.write(Write(machine=machine, fence=None)) for machine in [*good, bad]]
    results = await asyncio.gather(*writes, return_exceptions=True)
    assert [result for result in results if result is not None] == [results[-1]]
    assert isinstance(results[-1], AlreadyExists)
    machines, _ = await reread(tmp_path / "journal.db")
    assert {machine.id for machine in machines} == {machine.id for machine in good}


async def test_a_machine_has_one_operation(journal: Journal) -> None:
    machine = a_machine()
    await journal.write(Write(machine=machine, fence=None, begin=an_operation(machine)))
    with pytest.raises(sqlite3.IntegrityError):
        await journal.write(Write(machine=machine, fence="", begin=an_operation(machine)))


async def test_numbers_never_come_twice(journal: Journal, tmp_path: Path) -> None:
    numbers = await asyncio.gather(*(journal.next_number("run") for _ in range(20)))
    other = Journal(tmp_path / "journal.db")
    await other.open()
    assert await other.next_number("run") == 21
    await other.close()
    assert sorted(numbers) == list(range(1, 21))


async def test_flipped_bits_in_a_record_never_stop_the_start(tmp_path: Path) -> None:
    path = tmp_path / "journal.db"
    journal = Journal(path)
    await journal.open()
    machines = [a_machine() for _ in range(3)]
    for machine in machines:
        await journal.write(Write(machine=machine, fence=None))
    await journal.close()
    chance = random.Random(36)
    for _ in range(100):
        connection = sqlite3.connect(path)
        (record,) = connection.execute("SELECT record FROM machines WHERE id = ?", (machines[0].id,)).fetchone()
        at = chance.randrange(len(record))
        flipped = record[:at] + chr(ord(record[at]) ^ (1 << chance.randrange(7))) + record[at + 1 :]
        connection.execute("UPDATE machines SET record = ? WHERE id = ?", (flipped, machines[0].id))
        connection.commit()
        found, _ = await reread(path)
        assert {machine.id for machine in machines[1:]} <= {machine.id for machine in found}
        connection.execute("DELETE FROM machines WHERE id = ?", (machines[0].id,))
        row = (machines[0].id, "app1", machines[0].name, record)
        connection.execute(
            "INSERT INTO machines (id, app_id, name, alive, operation, record) VALUES (?, ?, ?, 1, '', ?)", row
        )
        connection.execute("DELETE FROM quarantine")
        connection.commit()
        connection.close()


async def test_a_file_that_is_no_journal_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "journal.db").write_bytes(b"not a database" * 100)
    with pytest.raises(Unavailable, match=r"journal\.db"):
        await Journal(tmp_path / "journal.db").open()


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / "journal.db")
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(Unavailable, match="newer version"):
        await Journal(tmp_path / "journal.db").open()


async def test_a_full_disk_is_an_error_that_passes(tmp_path: Path, journal: Journal) -> None:
    """The limit on pages stands in for a full disk: SQLite reports both alike."""
    machine = a_machine()
    await journal.write(Write(machine=machine, fence=None))
    await journal._do(lambda connection: connection.execute("PRAGMA max_page_count = 1"))
    big = replace(machine, config=Config.parse({"image": "x", "env": {"A": "x" * 100_000}}))
    with pytest.raises(Unavailable, match="cannot be written"):
        await journal.write(Write(machine=big, fence=""))
    await journal._do(lambda connection: connection.execute("PRAGMA max_page_count = 1000000"))
    await journal.write(Write(machine=big, fence=""))
