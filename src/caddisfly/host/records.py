"""Calls that change only what is written about a Machine, or only read it: leases, metadata, cordon, versions, ps.

None of them starts work, so none waits for an operation that is under way.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace

from caddisfly.bus import contract
from caddisfly.bus.rpc import Dispatcher
from caddisfly.host import leases, processes
from caddisfly.host.drivers.driver import Driver, ListsProcesses, Sizable, behind
from caddisfly.host.journal.journal import Journal
from caddisfly.host.leases import Leases
from caddisfly.host.operations import lifecycle
from caddisfly.host.operations.engine import Engine
from caddisfly.model.errors import FailedPrecondition
from caddisfly.model.machine import Machine


class Records:
    """The handlers."""

    def __init__(self, *, journal: Journal, engine: Engine, driver: Driver, leases: Leases) -> None:
        self._journal, self._engine, self._driver, self._leases = journal, engine, driver, leases

    def register(self, dispatcher: Dispatcher) -> None:
        dispatcher.handle(contract.TAKE_LEASE, self.take_lease)
        dispatcher.handle(contract.RELEASE_LEASE, self.release_lease)
        dispatcher.handle(contract.SHOW_LEASE, self.show_lease)
        dispatcher.handle(contract.SET_METADATA, self.set_metadata)
        dispatcher.handle(contract.CORDON_MACHINE, self.cordon)
        dispatcher.handle(contract.SHOW_MEMORY, self.show_memory)
        dispatcher.handle(contract.SET_MEMORY, self.set_memory)
        dispatcher.handle(contract.RECLAIM_MEMORY, self.reclaim_memory)
        dispatcher.handle(contract.LIST_VERSIONS, self.versions)
        dispatcher.handle(contract.LIST_PROCESSES, self.processes)

    async def take_lease(self, request: contract.TakeLease) -> contract.MachineReply:
        def take(machine: Machine) -> Machine:
            return self._leases.take(
                lifecycle.must_exist(machine),
                nonce=request.nonce,
                owner=request.owner,
                ttl_s=request.ttl_s,
                description=request.description,
            )

        after, revision = await self._engine.change(request.machine_id, take)
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def release_lease(self, request: contract.MachineCall) -> contract.MachineReply:
        after, revision = await self._engine.change(
            request.machine_id, lambda machine: self._leases.release(lifecycle.must_exist(machine), nonce=request.nonce)
        )
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def show_lease(self, request: contract.MachineCall) -> contract.LeaseReply:
        machine = self._engine.get(request.machine_id)
        lease = self._leases.of(machine)
        if lease is None:
            raise leases.not_found(machine)
        return contract.LeaseReply(lease=lease.to_record())

    async def set_metadata(self, request: contract.SetMetadata) -> contract.MachineReply:
        def merge(machine: Machine) -> Machine:
            if request.machine_version and request.machine_version != machine.instance_id:
                raise FailedPrecondition(
                    "machine version is stale", why=f"it is {machine.instance_id}", next="read the machine again"
                )
            return replace(lifecycle.must_exist(machine), config=machine.config.with_metadata(request.metadata))

        after, revision = await self._engine.change(request.machine_id, merge)
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def cordon(self, request: contract.CordonMachine) -> contract.MachineReply:
        def mark(machine: Machine) -> Machine:
            self._leases.check(machine, request.nonce)
            return replace(lifecycle.must_exist(machine), cordoned=request.cordoned)

        after, revision = await self._engine.change(request.machine_id, mark)
        return contract.MachineReply(record=after.to_record(), revision=revision)

    async def show_memory(self, request: contract.MachineCall) -> contract.MemoryReply:
        machine, driver = self._sizable(request.machine_id)
        return await _memory(machine, driver)

    async def set_memory(self, request: contract.SetMemory) -> contract.MemoryReply:
        machine, driver = self._sizable(request.machine_id)
        self._leases.check(machine, request.nonce)
        await driver.limit_memory(machine.run_id, request.limit_mb)
        return await _memory(machine, driver)

    async def reclaim_memory(self, request: contract.ReclaimMemory) -> contract.Reclaimed:
        machine, driver = self._sizable(request.machine_id)
        self._leases.check(machine, request.nonce)
        return contract.Reclaimed(actual_mb=await driver.reclaim_memory(machine.run_id, request.amount_mb))

    def _sizable(self, machine_id: str) -> tuple[Machine, Sizable]:
        machine = self._engine.running(machine_id)
        driver = behind(self._driver, machine.run_id)
        if not isinstance(driver, Sizable):
            raise FailedPrecondition(
                "the memory of this machine cannot be changed while it runs",
                why=f"the {driver.name} driver cannot",
                next="update config.guest.memory_mb",
            )
        return machine, driver

    async def versions(self, request: contract.MachineCall) -> contract.VersionList:
        self._engine.get(request.machine_id)
        found = await self._journal.versions(request.machine_id)
        return contract.VersionList(versions=tuple(version.to_wire() for version in found))

    async def processes(self, request: contract.MachineCall) -> contract.ProcessList:
        machine = self._engine.running(request.machine_id)
        driver = behind(self._driver, machine.run_id)
        if isinstance(driver, ListsProcesses):
            found = await driver.list_processes(machine.run_id)
        else:
            found = await asyncio.to_thread(processes.look, await self._driver.processes(machine.run_id))
        return contract.ProcessList(processes=tuple(process.to_wire() for process in found))


async def _memory(machine: Machine, driver: Sizable) -> contract.MemoryReply:
    limit_mb = await driver.memory_limit(machine.run_id)
    used_mb = (await driver.stats(machine.run_id)).memory_bytes >> 20
    return contract.MemoryReply(limit_mb=limit_mb, available_mb=max(0, limit_mb - used_mb))
