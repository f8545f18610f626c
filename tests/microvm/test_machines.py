"""Machines as virtual machines, through the agent: what the containers do, these do too."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
from pathlib import Path

import pytest

from caddisfly.bus import contract
from caddisfly.model.errors import Problem
from caddisfly.model.machine import Machine
from tests.conftest import eventually
from tests.host.conftest import RunningAgent, Watcher, alive
from tests.host.paths import assert_path
from tests.microvm.conftest import BOOT_S, knock, vmm_of

NEAR = "TCP6:[fe80::2]:80,bindtodevice=eth0"
VALUE = '{"value": "web"}'
SERVE = "mkdir -p /tmp/www && echo -n hello > /tmp/www/index.html && exec httpd -f -p '[::]:8080' -h /tmp/www"


async def page(machine: Machine) -> bytes:
    reader, writer = await asyncio.open_connection(machine.ipv4, 8080)
    writer.write(b"GET /index.html HTTP/1.0\r\n\r\n")
    answer = await reader.read()
    writer.close()
    return answer


async def serves(machine: Machine) -> bool:
    try:
        return b"hello" in await page(machine)
    except OSError:
        return False


def exit_of(machine: Machine) -> dict[str, object]:
    event = machine.newest("exit")
    assert event is not None
    assert event.request is not None
    found: dict[str, object] = event.request["exit_event"]
    return found


async def test_it_has_a_kernel_of_its_own_serves_and_ends_as_told(host: RunningAgent, watcher: Watcher) -> None:
    made = await host.create(
        f"trap 'exit 7' TERM; ({SERVE}) & wait",
        env={"GREETING": "it's $HOME"},
        stop_config={"signal": "SIGTERM"},
        files=[{"guest_path": "/etc/motd", "raw_value": "aGVsbG8="}],
        restart={"policy": "no"},
    )
    machine = await watcher.until(made, "started", timeout_s=BOOT_S)
    assert (machine.isolation, machine.driver) == ("microvm", "microvm/qemu")
    await eventually(lambda: serves(machine), timeout_s=BOOT_S)
    asked = await host.shell(
        machine,
        "cat /proc/version; echo $GREETING; cat /etc/motd; hostname; grep -c x /proc/mounts; id -u",
        timeout_s=60,
    )
    assert os.uname().release not in asked.stdout
    for said in ("cloud-amd64" if os.uname().machine == "x86_64" else "cloud-arm64", "it's $HOME", "hello", made.id):
        assert said in asked.stdout
    listed = (await host.ask(contract.LIST_PROCESSES, contract.MachineCall(machine_id=machine.id))).processes
    assert {one["command"].split(" ")[0] for one in listed} == {"/bin/sh", "httpd"}, "the Machine's, and none of ours"
    server = next(one for one in listed if one["command"].startswith("httpd"))
    assert server["listen_sockets"] == [{"proto": "tcp", "address": "[::]:8080"}]
    assert (server["directory"], server["rss"] > 0, server["rtime"] > 0) == ("/tmp/www", True, True)
    assert_path(machine)
    vmm = vmm_of(host, machine.run_id)
    status = Path(f"/proc/{vmm}/status").read_text()
    assert "Uid:\t0\t" not in status
    assert "CapEff:\t0000000000000000" in status
    assert "Seccomp:\t2" in status
    await host.ask(contract.STOP_MACHINE, contract.StopMachine(machine_id=machine.id, timeout_s=10))
    stopped = await watcher.until(machine, "stopped", timeout_s=BOOT_S)
    assert exit_of(stopped)["exit_code"] == 7
    assert not alive(vmm)


async def test_an_agent_that_is_killed_finds_it_again(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await host.create(SERVE, metadata={"role": "web"}), "started", timeout_s=BOOT_S)
    await eventually(lambda: serves(machine), timeout_s=BOOT_S)
    vmm = vmm_of(host, machine.run_id)
    await assert_speaks_for_itself_alone(host, machine)
    host.kill()
    assert await serves(machine), "it does not notice"
    await host.restarted()
    after = await watcher.until(machine, "started")
    assert (after.run_id, vmm_of(host, after.run_id)) == (machine.run_id, vmm)
    assert (await host.shell(machine, "echo alive", timeout_s=60)).stdout == "alive\n"
    assert (await knock(host, machine, "GET", "/metadata/role")).endswith(VALUE)


async def assert_speaks_for_itself_alone(host: RunningAgent, machine: Machine) -> None:
    """`/.fly/api`: it reaches its own Machine, cannot be touched from inside, and is not reached without its word."""
    answers = await asyncio.gather(*(knock(host, machine, "GET", "/metadata/role") for _ in range(4)))
    assert [answer.rpartition("\r\n")[2] for answer in answers] == [VALUE] * 4
    assert (await knock(host, machine, "GET", "/v1/apps/demo/machines/0123456789abcd")).startswith("HTTP/1.1 403 ")
    assert (await knock(host, machine, "GET", at=NEAR)) == "", "the way there is not open to who has no word"
    assert (await knock(host, machine, "CONNECT", "/v1", at=NEAR)) == ""
    tried = "rm -f /.fly/api; touch /.fly/x; chmod 777 /.fly; ls -l -a /.fly"
    listed = (await host.shell(machine, tried, timeout_s=60)).stdout.split("\n")
    assert [line.split()[0] + line.split()[-1] for line in listed[1:-1]] == [
        "drwxr-xr-x.",
        "drwxr-xr-x..",
        "srw-rw-rw-api",
    ]
    number = int(machine.run_id.rpartition("-")[2], 16)
    scope = socket.if_nametoindex(f"cfm{number:x}")
    with socket.socket(socket.AF_INET6) as outside:
        outside.settimeout(1)
        # What would answer a user of the host does not come past the firewall.
        with pytest.raises(TimeoutError):
            outside.connect(("fe80::2", 80, 0, scope))


async def test_a_vmm_that_is_killed_is_a_crash_and_its_policy_applies(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(
        await host.create("i=0; while :; do i=$((i+1)); echo $i > /tmp/n; sync; done", restart={"policy": "always"}),
        "started",
        timeout_s=BOOT_S,
    )
    os.kill(vmm_of(host, machine.run_id), signal.SIGKILL)
    again = await watcher.until(
        machine, lambda now: now.state == "started" and now.run_id != machine.run_id, timeout_s=BOOT_S
    )
    assert "ended by signal 9" in str(exit_of(again)["error"])
    assert (await host.shell(again, "cat /tmp/n >/dev/null && echo clean", timeout_s=60)).exit_code in (0, 1)


async def test_a_kernel_that_panics_says_so(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(
        await host.create("sleep 1000", restart={"policy": "no"}, init={"exec": ["/bin/sh", "-c", "sleep 1000"]}),
        "started",
        timeout_s=BOOT_S,
    )
    with pytest.raises(Problem):
        await host.shell(machine, "echo c > /proc/sysrq-trigger", timeout_s=30)
    stopped = await watcher.until(machine, "stopped", timeout_s=BOOT_S)
    assert "kernel panic" in str(exit_of(stopped)["error"])


async def test_what_it_prints_is_in_its_log(host: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(
        await host.create("echo to out; echo to err >&2; exit 3", restart={"policy": "no"}), "stopped", timeout_s=BOOT_S
    )
    assert exit_of(machine)["exit_code"] == 3
    log = (host.settings.data_dir / "logs" / machine.id / "current.log").read_text()
    assert " stdout F to out" in log
    assert " stderr F to err" in log


async def test_several_programs_are_refused_in_words(host: RunningAgent) -> None:
    with pytest.raises(Problem, match="a microVM runs one program"):
        await host.create("true", processes=[{"cmd": ["a"]}, {"cmd": ["b"]}])
