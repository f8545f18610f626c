"""What a program in a Machine may do (faults.md rows 23, 24): capabilities, system calls, /proc, /sys, devices."""

from __future__ import annotations

import base64
import os
import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caddisfly.model.machine import Machine
from tests.host.conftest import RunningAgent, Watcher, alive, pid_of
from tests.images.factories import TarFactory
from tests.isolation.syscalls import Call, outcome, program

X86 = pytest.mark.skipif(platform.machine() != "x86_64", reason="its programs are written in x86-64 machine code")
CAPABILITIES = {"chown": 0, "dac_override": 1, "fowner": 3, "fsetid": 4, "kill": 5, "setgid": 6, "setuid": 7}
CAPABILITIES |= {"setpcap": 8, "net_bind_service": 10, "sys_chroot": 18}
ALL = f"{sum(1 << number for number in CAPABILITIES.values()):016x}"
NONE = "0" * 16
NEWUSER, NEWNS, NEWNET = 0x10000000, 0x00020000, 0x40000000
FORBIDDEN: dict[str, Call] = {
    "unshare a user namespace": (272, NEWUSER),
    "unshare a mount namespace": (272, NEWNS),
    "clone into a user namespace": (56, NEWUSER | 17, 0, 0, 0, 0),
    "clone into a network namespace": (56, NEWNET | 17, 0, 0, 0, 0),
    "setns": (308, 0, 0),
    "mount": (165, "none", "/mnt", "tmpfs", 0, 0),
    "umount2": (166, "/proc", 2),
    "pivot_root": (155, "/", "/"),
    "fsopen": (430, "tmpfs", 0),
    "open_tree": (428, -100, "/", 1),
    "move_mount": (429, -100, "/", -100, "/mnt", 0),
    "ptrace": (101, 0, 0, 0, 0),
    "process_vm_readv": (310, 1, 0, 0, 0, 0, 0),
    "add_key": (248, "user", "a", "b", 1, -3),
    "keyctl": (250, 0, -3, 0),
    "request_key": (249, "user", "a", 0, 0),
    "bpf": (321, 0, 0, 0),
    "perf_event_open": (298, 0, 0, -1, -1, 0),
    "userfaultfd": (323, 1),
    "io_uring_setup": (425, 1, 0),
    "open_by_handle_at": (304, -100, 0, 0),
    "init_module": (175, 0, 0, ""),
    "finit_module": (313, 0, "", 0),
    "kexec_load": (246, 0, 0, 0, 0),
    "reboot": (169, 0xFEE1DEAD, 672274793, 0, 0),
    "swapon": (167, "/", 0),
    "acct": (163, 0),
    "quotactl": (179, 0, 0, 0, 0),
    "syslog": (103, 3, 0, 0),
    "iopl": (172, 3),
    "settimeofday": (164, 0, 0),
    "clock_settime": (227, 0, 0),
    "personality without address space randomization": (135, 0x0040000),
    "a socket to the hypervisor": (41, 40, 1, 0),
    "a socket to the kernel's ciphers": (41, 38, 5, 0),
}
ALLOWED: dict[str, Call] = {
    "a socket": (41, 2, 1, 0),
    "personality as it is": (135, 0xFFFFFFFF),
    "geteuid": (107,),
}


def files(programs: dict[str, bytes]) -> list[dict[str, Any]]:
    return [
        {"guest_path": f"/try/{number}", "raw_value": base64.b64encode(code).decode(), "mode": 0o755}
        for number, code in enumerate(programs.values())
    ]


async def tried(agent: RunningAgent, watcher: Watcher, programs: dict[str, bytes]) -> dict[str, str]:
    """What each program's last call gave, inside a Machine."""
    machine = await watcher.until(await agent.create(files=files(programs)), "started")
    line = f"for n in $(seq 0 {len(programs) - 1}); do /try/$n; echo $?; done 2>/dev/null"
    codes = (await agent.shell(machine, line)).stdout.split()
    return {name: outcome(int(code)) for name, code in zip(programs, codes, strict=True)}


@X86
async def test_system_calls_that_lead_out_are_refused(agent: RunningAgent, watcher: Watcher) -> None:
    wanted = {**dict.fromkeys(FORBIDDEN, "EPERM"), "clone3": "ENOSYS", **dict.fromkeys(ALLOWED)}
    calls: dict[str, Call] = {**FORBIDDEN, "clone3": (435, 0, 88), **ALLOWED}
    found = await tried(agent, watcher, {name: program(call) for name, call in calls.items()})
    assert {name: found[name] for name in wanted if wanted[name]} == {k: v for k, v in wanted.items() if v}
    for name in ALLOWED:
        assert found[name].isdecimal(), f"{name}: {found[name]}"


@X86
async def test_other_ways_into_the_kernel_are_no_way_around_the_filter(agent: RunningAgent, watcher: Watcher) -> None:
    """x32 and 32-bit calls have numbers of their own, which a filter written for one architecture does not know."""
    x32 = 0x40000000
    found = await tried(
        agent,
        watcher,
        {
            "x32": program((x32 + 272, NEWUSER)),
            "32 bit": program((310, NEWUSER), ancient=True),
            "32 bit, harmless": program((20,), ancient=True),
        },
    )
    assert not [name for name, result in found.items() if result.isdecimal() and int(result) < 100], found


@X86
async def test_chroot_leads_nowhere(agent: RunningAgent, watcher: Watcher, canary: Path) -> None:
    """The oldest way out: change the root below the working directory, then walk up past it."""
    escape = program(
        (83, "/below", 0o755),
        (161, "/below"),
        (80, "../../../../../../../../../.."),
        (161, "."),
        (2, f".{canary}", 0),
    )
    stays = program((83, "/below", 0o755), (161, "/below"), (80, "../../.."), (161, "."), (2, "bin/busybox", 0))
    found = await tried(agent, watcher, {"out": escape, "in": stays})
    assert found["out"] == "ENOENT"
    assert found["in"].isdecimal(), "the walk itself works: it ends at the Machine's own root"


async def statuses(agent: RunningAgent, machine: Machine) -> list[dict[str, str]]:
    """What the kernel says of init, of the program, and of a command that is run beside them."""
    text = (await agent.shell(machine, "cat /proc/[0-9]*/status")).stdout
    found = [
        dict(line.split(":\t", 1) for line in f"Name:{one}".splitlines() if ":\t" in line)
        for one in text.split("Name:")[1:]
    ]
    assert len(found) >= 3
    return found


async def test_root_inside_has_ten_capabilities(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(), "started")
    for found in await statuses(agent, machine):
        shown = {name: found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")}
        assert shown == {"CapInh": NONE, "CapPrm": ALL, "CapEff": ALL, "CapBnd": ALL, "CapAmb": NONE}
        assert (found["NoNewPrivs"], found["Seccomp"]) == ("1", "2")


async def test_an_image_for_nobody_runs_as_nobody(
    agent: RunningAgent, watcher: Watcher, image: Callable[..., Any]
) -> None:
    name = await image("nobody:1", User="nobody")
    machine = await watcher.until(await agent.create(image=name), "started")
    for found in await statuses(agent, machine):
        assert found["Uid"].split() == ["65534"] * 4
        assert found["Gid"].split() == ["65534"] * 4
        assert found["Groups"].split() == []
        assert {found[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {NONE}
    assert (await agent.shell(machine, "cat /proc/1/environ; touch /etc/x")).exit_code != 0


@X86
async def test_a_setuid_program_gives_nothing(agent: RunningAgent, watcher: Watcher, image: Callable[..., Any]) -> None:
    layer = TarFactory().file("bin/whoami-really", program((107,)), mode=0o6755).tar()
    name = await image("setuid:1", layer, User="7")
    machine = await watcher.until(await agent.create(image=name), "started")
    reply = await agent.shell(machine, "stat -c %a /bin/whoami-really; /bin/whoami-really; echo $?")
    assert reply.stdout.split() == ["6755", "7"]


async def test_proc_and_sys_tell_and_take_nothing(agent: RunningAgent, watcher: Watcher) -> None:
    machine = await watcher.until(await agent.create(), "started")
    refused = {
        "echo 1 > /proc/sys/kernel/panic": "a sysctl",
        "echo '|/tmp/x' > /proc/sys/kernel/core_pattern": "the handler of core files",
        "echo /tmp/x > /proc/sys/kernel/modprobe": "the loader of modules",
        "echo 1 > /proc/sys/net/ipv4/ip_forward": "a sysctl of its own network",
        "echo b > /proc/sysrq-trigger": "sysrq",
        "echo 0 > /proc/irq/default_smp_affinity": "interrupts",
        "echo 1 > /sys/kernel/mm/ksm/run": "sysfs",
        "echo /tmp/x > /sys/kernel/uevent_helper": "the handler of devices",
        "touch /sys/x": "files in sysfs",
        "head -c 1 /proc/kcore | grep -q .": "kernel memory",
        "head -c 1 /proc/kmsg | grep -q .": "kernel messages",
        "dmesg | grep -q .": "kernel messages by call",
        "grep -q . /proc/keys": "keys",
        "grep -q . /proc/timer_list": "timers",
        "grep -q . /proc/interrupts": "interrupt counters",
        "grep -q . /proc/sched_debug": "the host's processes",
        "ls /proc/bus /proc/acpi /proc/scsi /proc/asound | grep -v : | grep -q .": "buses",
        "ls /sys/firmware | grep -q .": "firmware",
        "ls /sys/fs/cgroup | grep -q .": "control groups",
        "mkdir /sys/fs/cgroup/x": "a control group of its own",
        "ls /sys/kernel/debug /sys/kernel/tracing /sys/fs/bpf | grep -v : | grep -q .": "tracing",
        "mount -t tmpfs none /mnt": "mount",
        "mount -o remount,rw /sys": "a remount",
        "umount /sys/firmware": "an unmask",
        "date -s 2000-01-01; test $(date +%Y) = 2000": "the clock",
        "hostname other": "the host name",
        "ip addr add 10.0.0.1/8 dev eth0": "addresses",
        "ip link set eth0 down": "links",
        "echo x > /etc/resolv.conf": "a file that the host lends",
        "echo x > /fly/init": "the init that the host lends",
        "echo x > /.fly/x": "the directory of the agent's door",
        "nice -n -5 true 2>&1 | grep -q . && exit 1; renice -n -5 -p 1": "priority over neighbours",
    }
    lines = "".join(f"({line}) >/dev/null 2>&1; echo $?\n" for line in refused)
    codes = (await agent.shell(machine, lines)).stdout.split()
    assert [what for what, code in zip(refused.values(), codes, strict=True) if code == "0"] == []


async def test_there_are_no_devices_of_the_host(
    agent: RunningAgent, watcher: Watcher, image: Callable[..., Any]
) -> None:
    layer = TarFactory().device("dev-of-memory", major=1, minor=1).device("disk", major=254, minor=0, block=True).tar()
    machine = await watcher.until(await agent.create(image=await image("devices:1", layer)), "started")
    devices = set((await agent.shell(machine, "find /dev -mindepth 1 -maxdepth 1")).stdout.split())
    assert {name.removeprefix("/dev/") for name in devices} <= {
        *("console", "core", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin"),
        *("stdout", "tty", "urandom", "zero"),
    }
    for line in ("mknod /tmp/disk b 254 0", "mknod /dev/disk b 254 0", "head -c 1 /disk", "head -c 1 /dev-of-memory"):
        assert (await agent.shell(machine, line)).exit_code != 0, line
    found = (await agent.shell(machine, "find / -xdev -type b -o -xdev -type c")).stdout.split()
    assert [path for path in found if not path.startswith("/dev/")] == []


async def test_a_machine_sees_and_touches_no_one_elses_processes_and_files(
    agent: RunningAgent, watcher: Watcher, canary: Path
) -> None:
    kept = await agent.create(env={"PASSWORD": "pearl"}, files=[{"guest_path": "/pearl", "raw_value": "cGVhcmw="}])
    kept = await watcher.until(kept, "started")
    curious = await watcher.until(await agent.create(), "started")
    seen = (await agent.shell(curious, "for p in /proc/[0-9]*; do echo $p; cat $p/environ $p/cmdline; done")).stdout
    assert "pearl" not in seen
    assert "pytest" not in seen
    assert seen.count("/proc/") < 8
    host_pid = pid_of(agent, kept)
    for number in (os.getpid(), host_pid):
        assert (await agent.shell(curious, f"kill -9 {number}")).exit_code != 0
        assert (await agent.shell(curious, f"ls /proc/{number}/root/")).exit_code != 0
    assert alive(host_pid)
    looked = await agent.shell(curious, f"cat {canary} /proc/1/root{canary} /proc/self/cwd/../../../..{canary}")
    assert looked.stdout == ""
    assert (await agent.shell(curious, "find / -xdev -name pearl")).stdout == ""
    assert (await agent.shell(curious, "ipcs; ls /dev/mqueue /dev/shm | grep -v :")).stdout.count("0x") == 0
