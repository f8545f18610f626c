"""The agent is killed over microVMs in all states, QEMU is killed while its guest writes."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

from caddisfly.bus import contract
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher, alive
from tests.microvm.conftest import BOOT_S, vmm_of
from tests.microvm.test_machines import exit_of

ENDS = "trap 'exit {code}' TERM; while :; do sleep 0.1; done"
ALL_S = 3 * BOOT_S
"""Ten guests on an emulated processor."""


async def begun(host: RunningAgent, watcher: Watcher, code: int) -> Machine:
    made = await host.create(ENDS.format(code=code), stop_config={"signal": "SIGTERM"}, restart={"policy": "no"})
    return await watcher.until(made, "started", timeout_s=ALL_S)


async def asked(host: RunningAgent, machine: Machine, method: contract.Method) -> None:  # type: ignore[type-arg]
    await host.ask(method, contract.MachineCall(machine_id=machine.id))


async def test_an_agent_that_is_killed_over_ten_in_all_states_finds_each_as_it_should_be(
    host: RunningAgent, watcher: Watcher
) -> None:
    running = [await begun(host, watcher, code) for code in (11, 12, 13, 14)]
    suspending, resuming = running[2:], [await begun(host, watcher, code) for code in (15, 16)]
    for machine in resuming:
        await asked(host, machine, contract.SUSPEND_MACHINE)
    for machine in resuming:
        await watcher.until(machine, "suspended", timeout_s=ALL_S)
    vmms = {machine.id: vmm_of(host, machine.run_id) for machine in running[:2]}
    booting = [
        await host.create(ENDS.format(code=code), stop_config={"signal": "SIGTERM"}, restart={"policy": "no"})
        for code in (17, 18, 19, 20)
    ]
    await asyncio.gather(
        *(asked(host, machine, contract.START_MACHINE) for machine in resuming),
        *(asked(host, machine, contract.SUSPEND_MACHINE) for machine in suspending),
    )
    await watcher.until(suspending[0], lambda now: now.state != "started", timeout_s=ALL_S)
    host.kill()
    await host.restarted()
    everyone = [*running[:2], *resuming, *booting]
    for machine in everyone:
        await watcher.until(machine, lambda now: now.state == "started" and not now.operation, timeout_s=ALL_S)
    assert {id: vmm_of(host, run) for id, run in ((one.id, one.run_id) for one in running[:2])} == vmms
    for machine in suspending:
        at_rest = await watcher.until(machine, lambda now: not now.operation, timeout_s=ALL_S)
        assert at_rest.state in ("suspended", "started"), at_rest.events[:3]
        if at_rest.state == "suspended":
            await asked(host, machine, contract.START_MACHINE)
            at_rest = await watcher.until(machine, "started", timeout_s=ALL_S)
        assert at_rest.run_id == machine.run_id, "its memory was not lost"
    codes = dict(zip([one.id for one in [*running, *resuming, *booting]], range(11, 21), strict=True))
    for id in codes:
        await host.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=id, timeout_s=30))
    for id, code in codes.items():
        stopped = await watcher.until(id, "stopped", timeout_s=ALL_S)
        assert exit_of(stopped)["exit_code"] == code
    for vmm in vmms.values():
        assert not alive(vmm)


async def test_a_qemu_that_is_killed_while_its_guest_writes_leaves_a_clean_file_system(
    host: RunningAgent, watcher: Watcher
) -> None:
    writes = (
        "[ -e /kept/old ] && echo again; mkdir -p /kept; echo 1 > /kept/old; sync; "
        "i=0; while :; do i=$((i+1)); echo $i > /kept/$((i % 50)); [ $((i % 20)) = 0 ] && sync; done"
    )
    made = await host.create(writes, rootfs={"persist": "always"}, restart={"policy": "always"})
    machine = await watcher.until(made, "started", timeout_s=BOOT_S)
    log = host.settings.data_dir / "logs" / machine.id / "current.log"
    for _ in range(2):
        await eventually(partial(_written, host, machine), timeout_s=BOOT_S)
        os.kill(vmm_of(host, machine.run_id), signal.SIGKILL)
        before = machine.run_id
        machine = await watcher.until(
            machine, lambda now, before=before: now.state == "started" and now.run_id != before, timeout_s=BOOT_S
        )
        assert "ended by signal 9" in str(exit_of(machine)["error"])
        found = await host.shell(machine, "cat /kept/old; dmesg | grep -c 'EXT4-fs error'", timeout_s=60)
        assert found.stdout == "1\n0\n"
    assert log.read_text().count(" again") == 2
    await host.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=10))
    await watcher.until(machine, "stopped", timeout_s=BOOT_S)
    (drive,) = (host.settings.data_dir / "images" / "fs" / "roots").glob(f"{machine.id}*/upper.ext4")
    checked = await asyncio.to_thread(
        subprocess.run, ["e2fsck", "-fn", drive], capture_output=True, check=False, text=True, timeout=30
    )
    assert checked.returncode == 0, checked.stdout


async def _written(host: RunningAgent, machine: Machine) -> bool:
    """Whether it is in the middle of it: more on the disk than it began with."""
    status = Path(f"/proc/{vmm_of(host, machine.run_id)}/io").read_text()
    return int(status.split("write_bytes: ")[1].split()[0]) > 1 << 20
