"""SQLite as a journal: nothing is acknowledged, and no side effect begins, before it is on disk.

WAL with `synchronous=FULL` costs one fsync for each commit. All writes go through one thread that commits whatever is
waiting in one go, so a burst of a hundred creates pays for a few fsyncs, not for a hundred. In memory the agent is the
only owner of these records, so the journal is read once, at start; each later write still carries the operation it
belongs to, and a write for an operation that is no longer the Machine's is refused (`Stale`): a zombie changes nothing.

A record that cannot be read (a flipped bit, a newer version's shape) is moved to `quarantine` and reported; the other
Machines are adopted as if it were not there.
"""

from __future__ import annotations

import asyncio
import json
import logging
import queue
import re
import sqlite3
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caddisfly.host.builds.build import Build
from caddisfly.host.journal import sealed
from caddisfly.host.journal.operation import Operation
from caddisfly.host.journal.reserve import Reserve
from caddisfly.model.errors import AlreadyExists, FailedPrecondition, Final, Problem, Unavailable
from caddisfly.model.machine import Machine, Version

log = logging.getLogger(__name__)

SCHEMA_VERSION = 4
_SCHEMA = """
CREATE TABLE machines (
    id TEXT PRIMARY KEY, app_id TEXT NOT NULL, name TEXT NOT NULL, alive INTEGER NOT NULL, operation TEXT NOT NULL,
    record TEXT NOT NULL
);
CREATE UNIQUE INDEX machine_names ON machines (app_id, name) WHERE alive = 1;
CREATE TABLE operations (id TEXT PRIMARY KEY, machine_id TEXT NOT NULL, record TEXT NOT NULL);
CREATE UNIQUE INDEX one_operation_per_machine ON operations (machine_id);
CREATE TABLE counters (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
CREATE TABLE quarantine (id TEXT PRIMARY KEY, kind TEXT NOT NULL, record TEXT NOT NULL, reason TEXT NOT NULL);
"""
_SCHEMA_2 = """
CREATE TABLE versions (
    machine_id TEXT NOT NULL, version TEXT NOT NULL, config TEXT NOT NULL, PRIMARY KEY (machine_id, version)
) WITHOUT ROWID;
"""
_SCHEMA_3 = """
CREATE TABLE builds (id TEXT PRIMARY KEY, record TEXT NOT NULL);
"""
_STEPS = (_SCHEMA, _SCHEMA_2, _SCHEMA_3, sealed.SCHEMA)
"""What each version added: a journal of version n lacks all but the first n."""
_VERSIONS_KEPT = 50
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


class Stale(Final):
    """The write belongs to an operation that is no longer this Machine's."""

    code = "aborted"


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """One atomic change. `fence` is the operation that the Machine must still have; None for a new Machine."""

    machine: Machine
    fence: str | None
    begin: Operation | None = None
    end: str = ""


@dataclass(frozen=True, slots=True)
class Contents:
    machines: tuple[Machine, ...]
    operations: tuple[Operation, ...]
    quarantined: frozenset[str]
    """Ids of Machines whose record cannot be read. What runs for them is left alone: the operator decides."""
    builds: tuple[Build, ...] = ()
    """Oldest first."""
    quarantined_images: frozenset[str] = frozenset()
    """Digests that can still be made out in those records: what a Machine needs when it is put back."""


_Work = tuple[Callable[[sqlite3.Connection], Any], Callable[[Any, BaseException | None], None]]
_Outcome = tuple[Any, BaseException | None]


class Journal:
    """The one writer of a host's records."""

    def __init__(self, path: Path, *, durable: bool = True) -> None:
        """Not `durable` is for records that need not survive a power cut, such as those of a simulation."""
        self._path, self._durable = path, durable
        self._reserve = Reserve(path.with_name(f"{path.name}.reserve") if durable else None)
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def open(self) -> Contents:
        """Open, migrate, and read everything. Raises `Unavailable` when the file cannot be used."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        opened: asyncio.Future[Contents] = asyncio.get_running_loop().create_future()
        self._thread = threading.Thread(
            target=self._run, args=(opened, asyncio.get_running_loop()), name="journal", daemon=True
        )
        self._thread.start()
        return await opened

    async def close(self) -> None:
        self._queue.put(None)
        if self._thread is not None:
            await asyncio.to_thread(self._thread.join)

    async def write(self, change: Write) -> None:
        """Make one change durable. Raises `Stale` or `AlreadyExists`; `Unavailable` on a full or broken disk.

        A full disk refuses new Machines first, and what ends something last (see `reserve`).
        """

        def write(connection: sqlite3.Connection) -> None:
            if change.fence is None:
                self._reserve.require()
            _write(connection, change)

        await self._do(write)

    async def progress(self, operation: Operation) -> None:
        """Remember which step an operation is at. Nobody needs to wait for it: steps are idempotent."""
        await self._do(
            lambda connection: connection.execute(
                "UPDATE operations SET record = ? WHERE id = ?", (json.dumps(operation.to_record()), operation.id)
            )
        )

    async def next_number(self, counter: str) -> int:
        """A number never given before by this journal. Durable before it is returned."""

        def step(connection: sqlite3.Connection) -> int:
            row = connection.execute(
                "INSERT INTO counters VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET value = value + 1 RETURNING value",
                (counter,),
            ).fetchone()
            return int(row[0])

        number: int = await self._do(step)
        return number

    async def forget(self, machine_id: str) -> None:
        """Drop a Machine that has been destroyed for long enough."""

        def drop(connection: sqlite3.Connection) -> None:
            connection.execute("DELETE FROM machines WHERE id = ?", (machine_id,))
            connection.execute("DELETE FROM versions WHERE machine_id = ?", (machine_id,))

        await self._do(drop)

    async def write_build(self, build: Build) -> None:
        """Make a build's record durable. It has one writer, so there is nothing to fence."""
        await self._do(
            lambda connection: connection.execute(
                "INSERT INTO builds VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record",
                (build.id, json.dumps(build.to_record())),
            )
        )

    async def forget_build(self, build_id: str) -> None:
        await self._do(lambda connection: connection.execute("DELETE FROM builds WHERE id = ?", (build_id,)))

    async def versions(self, machine_id: str) -> list[Version]:
        """The versions of a Machine, newest first, the last 50."""

        def read(connection: sqlite3.Connection) -> list[tuple[str, str]]:
            return connection.execute(
                "SELECT version, config FROM versions WHERE machine_id = ? ORDER BY version DESC", (machine_id,)
            ).fetchall()

        found: list[tuple[str, str]] = await self._do(read)
        return [Version(version=version, config=json.loads(config)) for version, config in found]

    async def keep_secrets(self, app_id: str, version: int, values: Mapping[str, str]) -> None:
        """A sealed set that a Machine is about to need. Keeping it twice keeps it once."""
        await self._do(lambda connection: sealed.keep(connection, app_id, version, values))

    async def secrets(self, app_id: str, version: int) -> dict[str, str]:
        """A sealed set, by name. Raises `FailedPrecondition` for one that is not here."""
        found: dict[str, str] | None = await self._do(lambda connection: sealed.read(connection, app_id, version))
        if found is None:
            raise FailedPrecondition(
                "the machine's secrets are not on its host",
                why=f"there is no set {version} of its app",
                next="update the machine: it gets the newest ones",
            )
        return found

    async def forget_secrets(self, needed: frozenset[tuple[str, int]]) -> None:
        """Drop every set but these, each an app's id and a version."""
        await self._do(lambda connection: sealed.forget_others(connection, needed))

    async def _do(self, work: Callable[[sqlite3.Connection], Any]) -> Any:
        loop = asyncio.get_running_loop()
        future: asyncio.Future[Any] = loop.create_future()

        def finish(value: Any, error: BaseException | None) -> None:
            if future.cancelled():
                return
            if error is not None:
                future.set_exception(error)
            else:
                future.set_result(value)

        def done(value: Any, error: BaseException | None) -> None:
            loop.call_soon_threadsafe(finish, value, error)

        self._queue.put((work, done))
        return await future

    def _run(self, opened: asyncio.Future[Contents], loop: asyncio.AbstractEventLoop) -> None:
        try:
            connection, contents = self._open()
        except (sqlite3.Error, OSError) as error:
            reason = Unavailable(
                f"the journal {self._path} cannot be used",
                why=str(error),
                next="caddis doctor; restore it from a backup",
            )
            loop.call_soon_threadsafe(opened.set_exception, reason)
            return
        loop.call_soon_threadsafe(opened.set_result, contents)
        self._reserve.restore()
        while self._commit(connection):
            pass
        connection.close()

    def _open(self) -> tuple[sqlite3.Connection, Contents]:
        try:
            connection = _connect(self._path, durable=self._durable)
            return connection, _load(connection)
        except sqlite3.Error as error:
            if not (_may_be_full(error) and self._reserve.give_up()):
                raise
        connection = _connect(self._path, durable=self._durable)
        return connection, _load(connection)

    def _commit(self, connection: sqlite3.Connection) -> bool:
        """Commit everything that waits, in one transaction. False when told to stop."""
        batch = [self._queue.get()]
        while not self._queue.empty():
            batch.append(self._queue.get())
        works = [item for item in batch if item is not None]
        self._reserve.restore()
        try:
            outcomes = _transaction(connection, works)
        except sqlite3.Error as error:
            log.error("journal.commit_failed", extra={"reason": str(error)})
            outcomes = self._with_the_reserve(connection, works, error)
        for (_, done), (value, problem) in zip(works, outcomes, strict=True):
            done(value, problem)
        return None not in batch

    def _with_the_reserve(
        self, connection: sqlite3.Connection, works: list[_Work], error: sqlite3.Error
    ) -> list[_Outcome]:
        if _may_be_full(error) and self._reserve.give_up():
            try:
                return _transaction(connection, works)
            except sqlite3.Error as again:
                error = again
        failed = Unavailable("the host's journal cannot be written", why=str(error), next="free disk space")
        return [(None, failed) for _ in works]


def _may_be_full(error: sqlite3.Error) -> bool:
    """SQLite names a full disk when it writes; when it opens or syncs, all it says is that this failed."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in (
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CANTOPEN,
    )


def _transaction(connection: sqlite3.Connection, works: list[_Work]) -> list[_Outcome]:
    """All of it in one commit, or, when that cannot be done, nothing and the error."""
    try:
        connection.execute("BEGIN IMMEDIATE")
        outcomes = [_attempt(connection, work) for work, _ in works]
        connection.execute("COMMIT")
    except sqlite3.Error:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    return outcomes


def _attempt(connection: sqlite3.Connection, work: Callable[[sqlite3.Connection], Any]) -> _Outcome:
    """Run one piece of a batch so that its failure undoes it alone."""
    connection.execute("SAVEPOINT work")
    try:
        value = work(connection)
    except (Problem, sqlite3.IntegrityError) as error:
        connection.execute("ROLLBACK TO work")
        connection.execute("RELEASE work")
        return None, error
    connection.execute("RELEASE work")
    return value, None


def _write(connection: sqlite3.Connection, change: Write) -> None:
    machine = change.machine
    row = (machine.app_id, machine.name, machine.alive, machine.operation, json.dumps(machine.to_record()), machine.id)
    if change.fence is None:
        try:
            connection.execute(
                "INSERT INTO machines (app_id, name, alive, operation, record, id) VALUES (?, ?, ?, ?, ?, ?)", row
            )
        except sqlite3.IntegrityError as error:
            raise _name_taken(connection, machine) from error
    else:
        touched = connection.execute(
            "UPDATE machines SET app_id = ?, name = ?, alive = ?, operation = ?, record = ? "
            "WHERE id = ? AND operation = ?",
            (*row, change.fence),
        ).rowcount
        if not touched:
            raise Stale(f"machine {machine.id} has another operation than {change.fence or 'none'}")
    if change.end:
        connection.execute("DELETE FROM operations WHERE id = ?", (change.end,))
    if change.begin is not None:
        connection.execute(
            "INSERT INTO operations VALUES (?, ?, ?)",
            (change.begin.id, change.begin.machine_id, json.dumps(change.begin.to_record())),
        )
        _remember_version(connection, machine)


def _remember_version(connection: sqlite3.Connection, machine: Machine) -> None:
    """A version begins with an operation, so this is where each one passes. Ids of versions sort by age."""
    added = connection.execute(
        "INSERT OR IGNORE INTO versions VALUES (?, ?, ?)",
        (machine.id, machine.instance_id, json.dumps(dict(machine.config.wire))),
    ).rowcount
    if added:
        connection.execute(
            "DELETE FROM versions WHERE machine_id = ?1 AND version NOT IN "
            "(SELECT version FROM versions WHERE machine_id = ?1 ORDER BY version DESC LIMIT ?2)",
            (machine.id, _VERSIONS_KEPT),
        )


def _name_taken(connection: sqlite3.Connection, machine: Machine) -> AlreadyExists:
    row = connection.execute(
        "SELECT id FROM machines WHERE app_id = ? AND name = ? AND alive = 1", (machine.app_id, machine.name)
    ).fetchone()
    return AlreadyExists(
        f"unique machine name violation, machine ID {row[0] if row else machine.id} already exists "
        f'with name "{machine.name}"'
    )


def _connect(path: Path, *, durable: bool) -> sqlite3.Connection:
    path.touch(mode=0o600)
    path.chmod(0o600)  # configs of tenants, with what they keep in their environment
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute(f"PRAGMA synchronous = {'FULL' if durable else 'OFF'}")
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > SCHEMA_VERSION:
        raise sqlite3.DatabaseError(f"written by a newer version (schema {version}, this one knows {SCHEMA_VERSION})")
    if version < SCHEMA_VERSION:
        steps = " ".join(_STEPS[version:])
        connection.executescript(f"BEGIN; {steps} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")
    return connection


def _load(connection: sqlite3.Connection) -> Contents:
    machines = _readable(connection, "machines", Machine.from_record)
    known = {machine.id for machine in machines}
    operations = [
        operation
        for operation in _readable(connection, "operations", Operation.from_record)
        if operation.machine_id in known
    ]
    quarantined = connection.execute("SELECT id, record FROM quarantine WHERE kind = 'machines'").fetchall()
    return Contents(
        tuple(machines),
        tuple(operations),
        frozenset(id for id, _ in quarantined),
        tuple(_readable(connection, "builds", Build.from_record)),
        frozenset(digest for _, record in quarantined for digest in _DIGEST.findall(str(record))),
    )


def _readable(connection: sqlite3.Connection, table: str, parse: Callable[[dict[str, Any]], Any]) -> list[Any]:
    found = []
    for id, text in connection.execute(f"SELECT id, record FROM {table} ORDER BY rowid").fetchall():
        try:
            found.append(parse(json.loads(text)))
        except (ValueError, KeyError, TypeError) as error:
            log.error("journal.quarantined", extra={"kind": table, "id": id, "reason": repr(error)})
            connection.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?)", (id, table, text, repr(error)))
            connection.execute(f"DELETE FROM {table} WHERE id = ?", (id,))
    return found
