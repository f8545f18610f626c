"""The apps' secrets on this host: sealed in the journal, open only in the moment a Machine is started.

They come with the call that makes a Machine or updates it, and are kept before the Machine is said to need them. A set
goes when nothing needs it any more: no Machine, and no update that may yet be undone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager

from caddisfly.bus import contract
from caddisfly.bus.sealing import Box
from caddisfly.host.journal.journal import Journal
from caddisfly.host.journal.operation import Operation
from caddisfly.model.machine import Machine

_Set = tuple[str, int]
"""Of an app's id and a version."""


class Vault:
    """One for the agent."""

    def __init__(self, journal: Journal, *, key: str) -> None:
        self._journal, self._key = journal, key
        self._expected: Counter[_Set] = Counter()

    @asynccontextmanager
    async def keeping(self, app_id: str, given: contract.SecretSet | None) -> AsyncIterator[int]:
        """Have them here for a Machine that is recorded inside the block. Gives their version; 0 for none."""
        if given is None:
            yield 0
            return
        expected = (app_id, given.version)
        self._expected[expected] += 1
        try:
            await self._journal.keep_secrets(app_id, given.version, given.values)
            yield given.version
        finally:
            self._expected[expected] -= 1

    async def open(self, machine: Machine) -> Mapping[str, str]:
        """The values by name. Raises `FailedPrecondition` and `Internal` when they cannot be had."""
        if not machine.secrets_version:
            return {}
        sealed = await self._journal.secrets(machine.app_id, machine.secrets_version)
        return Box(self._key).open_all(sealed, app_id=machine.app_id)

    async def forget_unneeded(self, machines: Iterable[Machine], operations: Iterable[Operation]) -> None:
        """Drop what neither these Machines nor these operations could need."""
        apps = {machine.id: machine.app_id for machine in machines}
        needed = {(machine.app_id, machine.secrets_version) for machine in machines if machine.alive}
        for operation in operations:
            before = operation.args.get("previous", {}).get("secrets_version", 0)
            needed.add((apps.get(operation.machine_id, ""), before))
        needed |= {one for one, count in self._expected.items() if count}
        await self._journal.forget_secrets(frozenset(needed))
