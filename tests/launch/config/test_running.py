"""How what an app's Machines run is compared with its file."""

from __future__ import annotations

from typing import Any

from caddisfly.launch import config
from caddisfly.launch.config import running
from caddisfly.model.config import Config

FILE = """app = 'demo'
processes = { web = 'w', worker = 'k' }
env = { A = 1 }
caddisfly.groups.worker.count = 0
"""


def machine(group: str = "web", *, id: str = "m1", text: str = FILE, **changes: Any) -> dict[str, Any]:
    wire = config.machine_config(config.text(text), group, image="x") if group in ("web", "worker") else {"image": "x"}
    labels = {"fly_platform_version": "v2", "fly_process_group": group}
    stored = Config.parse({**wire, "metadata": {**labels, "fly_release_version": "7"}}).wire
    return {"id": id, "state": "started", "region": "ams", "config": dict(stored), **changes}


def groups(*machines: dict[str, Any], text: str = FILE) -> dict[str, running.GroupComparison]:
    return {one.group: one for one in running.compare(config.text(text), machines)}


def test_what_was_deployed_from_a_file_is_the_same() -> None:
    found = groups(machine())
    assert found["web"].same
    assert found["worker"].same  # wants none, has none
    assert found["web"].machines[0].running == found["web"].machines[0].wanted


def test_a_change_is_found_machine_by_machine() -> None:
    found = groups(machine(id="m2", text=FILE.replace("A = 1", "A = 2")), machine(id="m1"))["web"]
    assert [(one.id, one.same) for one in found.machines] == [("m1", True), ("m2", False)]
    assert not found.same


def test_the_size_of_a_machine_is_its_own_when_the_file_says_none() -> None:
    bigger = machine()
    bigger["config"]["guest"] = {"cpu_kind": "shared", "cpus": 2, "memory_mb": 1024}
    assert groups(bigger)["web"].same


def test_a_group_that_the_file_does_not_have_is_shown() -> None:
    found = groups(machine(), machine("cron", id="m2"))["cron"]
    assert not found.in_file
    assert not found.same


def test_a_count_that_is_not_met_is_a_difference() -> None:
    assert not groups(machine(), machine("worker", id="m2"))["worker"].same
    assert not groups()["web"].same


def test_machines_that_are_not_of_launch_and_those_that_come_and_go_do_not_count() -> None:
    foreign = machine(id="m2")
    foreign["config"]["metadata"] = {}
    release = machine("fly_app_release_command", id="m3")
    gone = machine(id="m4", state="destroyed")
    assert [one.id for one in groups(machine(), foreign, release, gone)["web"].machines] == ["m1"]


def test_a_machine_whose_host_is_silent_is_marked() -> None:
    assert not groups(machine(host_status="unreachable"))["web"].machines[0].known
