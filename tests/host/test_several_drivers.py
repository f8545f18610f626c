"""Machines of two organizations on one real host, one in a container and one under gVisor."""

from __future__ import annotations

import platform
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from caddisfly.bus import contract
from caddisfly.bus.connection import Bus
from caddisfly.model.errors import Aborted, FailedPrecondition
from caddisfly.model.machine import Machine
from tests.conftest import NatsServer, eventually
from tests.host.conftest import RunningAgent, Watcher, alive, pid_of
from tests.host.paths import assert_path

CAREFUL = contract.AppRecord(id="app0000000000002", name="vault", org_id="org2", org_slug="careful", network_id=8)
SetTo = Callable[..., Awaitable[RunningAgent]]


@pytest.fixture
async def set_to(agent: RunningAgent) -> AsyncIterator[SetTo]:
    """Kills the shared agent and starts it with other settings; afterwards it is what it was."""
    before = agent.settings

    async def again(**settings: Any) -> RunningAgent:
        agent.kill()
        agent.settings = before.model_copy(update=settings)
        await agent.restarted()
        return agent

    yield again
    if agent.settings is not before:
        await again()


async def careful(agent: RunningAgent, *command: str, **config: Any) -> Machine:
    """One that control was told to keep under gVisor."""
    request = agent.request(*command, app=CAREFUL, **config).model_copy(update={"isolation": ("microvm", "gvisor")})
    return Machine.from_record((await agent.ask(contract.CREATE_MACHINE, request)).record)


async def kernel(agent: RunningAgent, machine: Machine) -> str:
    return (await agent.shell(machine, "cat /proc/version")).stdout


async def test_each_is_in_what_its_organization_must_have(agent: RunningAgent, watcher: Watcher) -> None:
    plain = await watcher.until(await agent.create(), "started")
    kept = await watcher.until(await careful(agent), "started")
    for machine, isolation, driver in ((plain, "container", "oci/crun"), (kept, "gvisor", "oci/runsc")):
        assert machine.to_wire()["isolation"] == isolation
        assert machine.events[0].request == {"isolation": isolation, "driver": driver}
        assert_path(machine)
    assert platform.release() in await kernel(agent, plain)
    assert "Linux version 4.4.0" in await kernel(agent, kept), "gVisor's own"
    memory = await agent.ask(contract.SHOW_MEMORY, contract.MachineCall(machine_id=plain.id))
    assert memory.limit_mb == 256
    await agent.ask(contract.LIST_PROCESSES, contract.MachineCall(machine_id=plain.id))
    status = await agent.ask(contract.HOST_STATUS, contract.Nothing())
    assert (status.isolation, status.drivers) == (("container", "gvisor"), ("oci/crun", "oci/runsc"))


async def test_another_setting_leaves_what_runs_where_it_is(
    agent: RunningAgent, set_to: SetTo, watcher: Watcher
) -> None:
    plain = await watcher.until(await agent.create(restart={"policy": "no"}), "started")
    kept = await watcher.until(await careful(agent, restart={"policy": "no"}), "started")
    pids = {machine.id: pid_of(agent, machine) for machine in (plain, kept)}
    await set_to(isolation="gvisor")
    for machine in (plain, kept):
        after = await watcher.until(machine, "started")
        assert (after.run_id, pid_of(agent, after)) == (machine.run_id, pids[machine.id])
        assert (await agent.shell(machine, "echo alive")).stdout == "alive\n"
    assert "Linux version 4.4.0" in await kernel(agent, await watcher.until(await agent.create(), "started"))
    with pytest.raises(FailedPrecondition, match="cannot run as a container"):
        await agent.ask(contract.RESTART_MACHINE, contract.StopMachine(machine_id=plain.id))
    assert alive(pids[plain.id])
    for machine in (plain, kept):
        await agent.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=0.1))
        await watcher.until(machine, "stopped")
        assert not alive(pids[machine.id])

    with pytest.raises(FailedPrecondition, match=r"cannot run as a container: .* its host now has only gvisor"):
        await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id=plain.id))
    await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id=kept.id))
    assert (await watcher.until(kept, "started")).driver == "oci/runsc"

    await set_to(isolation="container", runtime="runc")
    await agent.ask(contract.START_MACHINE, contract.MachineCall(machine_id=plain.id))
    again = await watcher.until(plain, "started")
    assert (again.isolation, again.driver) == ("container", "oci/runc"), "the class stays, the runtime need not"
    assert "Linux version 4.4.0" in await kernel(agent, kept)


async def test_what_a_host_does_not_offer_it_neither_bids_for_nor_takes(set_to: SetTo, shared_nats: NatsServer) -> None:
    agent = await set_to(isolation="container")
    bus = Bus(url=shared_nats.url, token=shared_nats.token, name="control")
    bus.open()
    await eventually(lambda: bus.connected)
    refusal = "the organization must have microvm or gvisor, and the host has container"
    for isolation, expected in (((), ("container", "")), (("microvm", "gvisor"), ("", refusal))):
        request = contract.BidRequest(app_id="a", regions=("lab",), memory_mb=64, cores=0.1, isolation=isolation)

        async def bid(request: contract.BidRequest = request) -> list[bytes]:
            return await bus.gather(contract.BIDS, request.model_dump_json().encode(), enough=1, timeout_s=2)

        # The agent answers on its socket some milliseconds before it has joined the bus.
        (answer,) = await eventually(bid)
        bidden = contract.Bid.model_validate_json(answer)
        assert (bidden.isolation, bidden.refusal) == expected
    await bus.close()
    with pytest.raises(Aborted, match="must have microvm or gvisor, and the host has container"):
        await careful(agent)
