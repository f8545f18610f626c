"""Guests that go on from where another one stood: quickly, and as nobody else (docs/decisions/0021)."""

from __future__ import annotations

import platform
from pathlib import Path

import pytest

from caddisfly.bus.contract import AppRecord
from caddisfly.model.machine import Machine
from tests.host.conftest import RunningAgent, Watcher
from tests.microvm.conftest import BOOT_S, vmm_of
from tests.microvm.test_suspend import suspended, woken

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86_64 has what lets a guest stand still")

TELLS = (
    "cd /proc/sys/kernel/random; cat boot_id uuid; head -c 16 /dev/urandom | od -An -tx1; "
    "cat /sys/class/net/eth0/address; hostname; date +%s; while :; do sleep 1; done"
)
RANDOM = ("boot id", "uuid", "random bytes", "hardware address", "host name")


def app(organization: str) -> AppRecord:
    return AppRecord(
        id=f"app-{organization}", name=organization, org_id=organization, org_slug=organization, network_id=9
    )


async def begun(host: RunningAgent, watcher: Watcher, organization: str) -> Machine:
    made = await host.create(TELLS, app=app(organization))
    machine = await watcher.until(made, lambda now: now.state in ("started", "failed"), timeout_s=BOOT_S)
    assert machine.state == "started", [(event.type, event.request) for event in machine.events[:3]]
    return machine


def templates(host: RunningAgent) -> set[Path]:
    return set((host.settings.data_dir / "microvms" / "templates").glob("*/*.state"))


def cloned(host: RunningAgent, machine: Machine) -> bool:
    return b"-incoming" in Path(f"/proc/{vmm_of(host, machine.run_id)}/cmdline").read_bytes()


async def told(host: RunningAgent, machine: Machine) -> list[str]:
    """What the guest's program found out as it began."""
    done = await host.shell(machine, "true", timeout_s=60)
    assert done.exit_code == 0
    log = (host.settings.data_dir / "logs" / machine.id / "current.log").read_text()
    return [line.split(" ", 3)[3].strip() for line in log.splitlines()][: len(RANDOM) + 1]


async def test_the_next_of_a_shape_begins_where_the_first_stood_and_is_somebody_else(
    host: RunningAgent, watcher: Watcher
) -> None:
    before = templates(host)
    machines = [await begun(host, watcher, "first") for _ in range(3)]
    assert [cloned(host, machine) for machine in machines] == [False, True, True]
    assert len(templates(host) - before) == 1
    facts = [await told(host, machine) for machine in machines]
    for number, name in enumerate(RANDOM):
        assert len({fact[number] for fact in facts}) == len(machines), f"two have the same {name}"
    for machine, fact in zip(machines, facts, strict=True):
        assert machine.id == fact[4]
        started = machine.newest("start")
        assert started is not None
        assert abs(int(fact[5]) - started.timestamp / 1000) < 4, "its clock is right"


async def test_none_begins_where_one_of_another_organization_stood(host: RunningAgent, watcher: Watcher) -> None:
    first = await begun(host, watcher, "one")
    other = await begun(host, watcher, "other")
    again = await begun(host, watcher, "one")
    assert [cloned(host, machine) for machine in (first, other, again)] == [False, False, True]


async def test_a_template_that_nothing_starts_from_is_dropped_and_the_start_goes_well(
    host: RunningAgent, watcher: Watcher
) -> None:
    before = templates(host)
    await begun(host, watcher, "unlucky")
    (template,) = templates(host) - before
    with template.open("r+b") as file:
        file.truncate(1 << 20)
    machine = await begun(host, watcher, "unlucky")
    assert not cloned(host, machine)
    assert template.stat().st_size > 1 << 20, "it was made anew"
    assert cloned(host, await begun(host, watcher, "unlucky"))


async def test_one_that_began_there_is_suspended_and_resumed_like_any_other(
    host: RunningAgent, watcher: Watcher
) -> None:
    await begun(host, watcher, "sleepy")
    machine = await begun(host, watcher, "sleepy")
    assert cloned(host, machine)
    again = await woken(host, watcher, await suspended(host, watcher, machine))
    assert again.run_id == machine.run_id
    assert (await host.shell(again, "hostname", timeout_s=60)).stdout.strip() == machine.id
