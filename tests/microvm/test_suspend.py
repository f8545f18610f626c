"""microVMs that are suspended come back where they were: memory, clock, connections (reference machines-api, M10)."""

from __future__ import annotations

import asyncio
import time

from caddisfly.bus import contract
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher
from tests.host.paths import assert_path
from tests.microvm.conftest import BOOT_S, knock

ROUNDS = 4
COUNTS = (
    "mkdir -p /tmp/www; i=0; "
    "(while :; do i=$((i+1)); echo $i > /tmp/www/n.tmp; mv /tmp/www/n.tmp /tmp/www/n; sleep 0.05; done) & "
    "exec httpd -f -p '[::]:8080' -h /tmp/www"
)


async def count(machine: Machine) -> int:
    reader, writer = await asyncio.open_connection(machine.ipv4, 8080)
    writer.write(b"GET /n HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    number = answer.rpartition(b"\r\n\r\n")[2].strip()
    return int(number) if number.isdigit() else 0  # 404 until there is one


async def counts(machine: Machine) -> bool:
    try:
        return await count(machine) > 0
    except OSError:
        return False


async def suspended(host: RunningAgent, watcher: Watcher, machine: Machine) -> Machine:
    await host.ask(contract.SUSPEND_MACHINE, contract.MachineCall(machine_id=machine.id))
    return await watcher.until(machine, "suspended", timeout_s=BOOT_S)


async def woken(host: RunningAgent, watcher: Watcher, machine: Machine) -> Machine:
    await host.ask(contract.START_MACHINE, contract.MachineCall(machine_id=machine.id))
    now = await watcher.until(machine, lambda now: now.state in ("started", "failed"), timeout_s=BOOT_S)
    assert now.state == "started", now.events[:3]
    return now


async def test_a_counter_in_memory_never_goes_back(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await host.create(COUNTS), "started", timeout_s=BOOT_S)
    await eventually(lambda: counts(machine), timeout_s=BOOT_S)
    run = machine.run_id
    last = await count(machine)
    for _ in range(ROUNDS):
        asleep = await suspended(host, watcher, machine)
        assert not (host.settings.run_dir / "microvms" / run).exists(), "nothing of it is in memory"
        again = await woken(host, watcher, asleep)
        assert again.run_id == run, "it is the same run"
        now = await count(again)
        assert last <= now < last + 400
        last = now
    asked = await host.shell(machine, "date +%s", timeout_s=60)
    assert abs(int(asked.stdout) - time.time()) < 3
    assert_path(await watcher.until(machine, "started"))
    assert f'"id": "{machine.id}"' in await knock(host, machine, "GET")


async def test_a_connection_between_machines_lives_on(host: RunningAgent, watcher: Watcher) -> None:
    echoes = await watcher.until(await host.create("nc -ll -p 9000 -e cat"), "started", timeout_s=BOOT_S)
    speaks = f"mkfifo /in; exec 3<>/in; until nc {echoes.private_ip} 9000 < /in > /out; do sleep 0.2; done; exit 9"
    speaker = await watcher.until(await host.create(speaks), "started", timeout_s=BOOT_S)

    async def heard(words: str) -> bool:
        return (await host.shell(speaker, "cat /out", timeout_s=60)).stdout.split() == words.split()

    await host.shell(speaker, "echo before > /in", timeout_s=60)
    await eventually(lambda: heard("before"), timeout_s=BOOT_S)
    again = await woken(host, watcher, await suspended(host, watcher, echoes))
    assert again.run_id == echoes.run_id
    await host.shell(speaker, "echo after > /in", timeout_s=60)
    await eventually(lambda: heard("before after"), timeout_s=BOOT_S)
    await host.shell(speaker, "echo both > /in", timeout_s=60)
    assert await suspended(host, watcher, speaker)
    await woken(host, watcher, speaker)
    await eventually(lambda: heard("before after both"), timeout_s=BOOT_S)
    assert (await watcher.until(speaker, "started")).run_id == speaker.run_id, "the connection was never cut"


async def test_an_update_forgets_the_memory_and_starts_anew(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await host.create(COUNTS), "started", timeout_s=BOOT_S)
    await eventually(lambda: counts(machine), timeout_s=BOOT_S)
    asleep = await suspended(host, watcher, machine)
    config = {**asleep.config.wire, "env": {"NEW": "1"}}
    await host.ask(contract.UPDATE_MACHINE, contract.UpdateMachine(machine_id=machine.id, config=config))
    await watcher.until(machine, lambda now: now.instance_id != asleep.instance_id and not now.operation)
    again = await woken(host, watcher, machine)
    assert again.run_id != machine.run_id
    assert (await host.shell(again, "echo $NEW", timeout_s=60)).stdout == "1\n"


async def test_memory_that_was_changed_on_disk_is_not_taken_up(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await host.create(COUNTS), "started", timeout_s=BOOT_S)
    asleep = await suspended(host, watcher, machine)
    (file,) = (host.settings.data_dir / "snapshots" / asleep.run_id).glob("memory.zst")
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0xFF
    file.write_bytes(content)
    again = await woken(host, watcher, machine)
    assert again.run_id != machine.run_id, "a clean start"


async def test_an_agent_that_is_killed_leaves_it_suspended(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await host.create(COUNTS), "started", timeout_s=BOOT_S)
    await eventually(lambda: counts(machine), timeout_s=BOOT_S)
    before = await count(machine)
    await suspended(host, watcher, machine)
    host.kill()
    await host.restarted()
    again = await woken(host, watcher, machine)
    assert again.run_id == machine.run_id
    assert await count(again) >= before
