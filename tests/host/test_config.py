"""Parts of a config on a real host: what takes effect, and what is said when it cannot."""

from __future__ import annotations

from caddisfly.bus import contract
from caddisfly.host.drivers.oci.cgroups import has_swap
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher


async def test_a_terminal_is_there_and_its_lines_are_plain(agent: RunningAgent, watcher: Watcher) -> None:
    init = {"exec": ["/bin/sh", "-c", "test -t 1 && echo terminal; exec sleep 1000"], "tty": True}
    machine = await watcher.until(await agent.create(init=init), "started")

    async def lines() -> list[str]:
        reply = await agent.ask(contract.READ_LOGS, contract.ReadLogs(machine_id=machine.id))
        return [line["message"] for line in reply.lines]

    async def told() -> bool:
        return await lines() == ["terminal"]

    await eventually(told)


async def test_what_a_config_asks_for_in_vain_is_said_on_its_first_event(agent: RunningAgent, watcher: Watcher) -> None:
    init = {"exec": ["/bin/sleep", "1000"], "swap_size_mb": 256, "kernel_args": ["quiet"]}
    machine = await agent.create(init=init)
    launch = machine.events[-1]
    assert launch.request is not None
    said = " ".join(launch.request["warnings"])
    assert "kernel_args" in said
    assert ("swap_size_mb" in said) is not has_swap()
    started = await watcher.until(machine, "started")
    config = {**started.config.wire, "init": {"exec": ["/bin/sleep", "1000"]}}
    reply = await agent.ask(contract.UPDATE_MACHINE, contract.UpdateMachine(machine_id=machine.id, config=config))
    assert "request" not in reply.record["events"][0]
    await watcher.until(machine, lambda now: now.state == "started" and now.run_id != started.run_id)
