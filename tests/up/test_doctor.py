"""Doctor tries things for real and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from caddisfly.up import commands, doctor_kvm
from caddisfly.up.doctor_kernel import layout
from caddisfly.up.examination import Ran, bench
from tests.conftest import free_port


def traces() -> dict[str, set[str]]:
    """What a careless doctor would leave: directories, groups, mounts, loop devices, links, tables, processes."""

    def said(*argv: str) -> set[str]:
        lines = subprocess.run(argv, capture_output=True, text=True, check=False).stdout.splitlines()
        return {line for line in lines if "caddis-doctor" in line or "caddis0" in line}

    groups = {name for _, names, _ in os.walk("/sys/fs/cgroup") for name in names if name.startswith("caddis-doctor")}
    return {
        "directories": {path.name for path in Path("/var/tmp").glob("caddis-doctor-*")},
        "groups": groups,
        "mounts": {line for line in Path("/proc/mounts").read_text().splitlines() if "caddis-doctor" in line},
        "loops": said("losetup", "-a"),
        "links": said("ip", "-o", "link"),
        "tables": said("nft", "list", "tables"),
        "processes": said("ps", "axww", "-o", "args"),
    }


def test_it_looks_and_leaves_nothing(tmp_path: Path) -> None:
    import typer

    file = tmp_path / "caddisfly.toml"
    file.write_text(
        f'[platform]\ndata_dir = "{tmp_path}/data"\nrun_dir = "{tmp_path}/run"\n[bus]\nport = {free_port()}\n'
        f"[registry]\nport = {free_port()}\n"
        f'[control]\nlisten_port = {free_port()}\n[edge]\nhttp_listen = ["127.0.0.1:{free_port()}"]\n'
    )
    program = typer.Typer()
    commands.register(program)
    before = traces()
    outcome = CliRunner().invoke(program, ["doctor", "--json", "--config", str(file)])
    assert traces() == before
    checks = {check["name"]: check for check in json.loads(outcome.stdout)}
    assert outcome.exit_code == (1 if any(check["result"] == "fail" for check in checks.values()) else 0)
    for name in ("root", "memory limit", "overlay", "network", "firewall", "conmon", "runc"):
        assert checks[name]["result"] == "ok", checks[name]
    assert checks["control groups"]["found"].startswith(layout())
    assert all(check["next"] for check in checks.values() if check["result"] != "ok")


def test_the_boot_sector_boots_and_is_heard() -> None:
    """Under emulation, which works everywhere: what KVM is judged by must itself be right."""
    with bench() as place:
        ran = doctor_kvm.boot(place, "tcg", timeout_s=60)
    assert doctor_kvm.booted(ran), ran


def test_a_command_that_hangs_is_given_up() -> None:
    with bench() as place:
        ran = place.run(["sh", "-c", "sleep 600 & sleep 600"], timeout_s=0.3)
    assert ran.code == -1
    assert "gave up" in ran.last_line


@pytest.mark.parametrize(("output", "last"), [("a\nb\n\n", "b"), ("", "exit code 3")])
def test_the_last_line_is_what_is_shown(output: str, last: str) -> None:
    assert Ran(3, output).last_line == last
