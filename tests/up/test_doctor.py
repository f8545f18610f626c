"""Doctor tries things for real and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path

import pytest
from typer.testing import CliRunner

from caddisfly.up import commands, doctor_builds, doctor_isolation, doctor_kernel, doctor_kvm
from caddisfly.up.doctor_kernel import layout
from caddisfly.up.examination import Check, Ran, bench
from caddisfly.up.settings import load
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
    for name in ("root", "memory limit", "overlay", "network", "firewall", "conmon", "runc", "builds"):
        assert checks[name]["result"] == "ok", checks[name]
    assert checks["control groups"]["found"].startswith(layout())
    assert "container by" in checks["isolation"]["found"]
    assert all(check["next"] for check in checks.values() if check["result"] != "ok")


def _found(**results: str) -> list[Check]:
    return [Check(name=name, result=result, found=f"{name} is {result}") for name, result in results.items()]  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("host", "found", "result", "said"),
    [
        (
            "",
            {"crun": "ok", "runsc": "ok", "KVM": "warn"},
            "ok",
            "container by crun; gvisor by runsc for organizations",
        ),
        ("", {"crun": "warn", "runc": "ok", "KVM": "ok"}, "ok", "microvm by KVM; container by runc for organizations"),
        (
            'runtime = "runc"',
            {"crun": "ok", "runc": "warn", "runsc": "ok"},
            "ok",
            "gvisor by runsc; no microvm (see KVM)",
        ),
        ('runtime = "runsc"', {"crun": "ok", "runsc": "ok"}, "ok", "gvisor by runsc; [host]"),
        ('isolation = "microvm"', {"KVM": "warn"}, "ok", "microvm by emulation, which is slow"),
        (
            'isolation = "microvm"\nvmm = "firecracker"',
            {"KVM": "warn"},
            "fail",
            "[host] isolation is microvm; no microvm",
        ),
        ('isolation = "gvisor"', {"crun": "ok", "runsc": "warn"}, "fail", "[host] isolation is gvisor; no gvisor"),
    ],
)
def test_it_says_what_machines_will_run_in(
    tmp_path: Path, host: str, found: dict[str, str], result: str, said: str
) -> None:
    file = tmp_path / "caddisfly.toml"
    file.write_text(f'[platform]\ndata_dir = "{tmp_path}/data"\nrun_dir = "{tmp_path}/run"\n[host]\n{host}\n')
    check = doctor_isolation.verdict(_found(**found), load(file, environment={}))
    assert check.result == result
    assert check.found.startswith(said)


@pytest.mark.parametrize("closed", ["", "home", "home/data"])
def test_a_directory_that_builds_cannot_pass_is_named(closed: str) -> None:
    with tempfile.TemporaryDirectory(prefix="caddis-doctor-", dir="/var/tmp") as name:
        top = Path(name).resolve()
        top.chmod(0o755)
        (top / "home" / "data").mkdir(parents=True)
        if closed:
            (top / closed).chmod(0o700)
        file = top / "caddisfly.toml"
        file.write_text(f'[platform]\ndata_dir = "{top}/home/data"\nrun_dir = "{top}/run/caddisfly"\n')
        with bench() as place:
            data, run = doctor_builds.directories(place, load(file))
    assert run.result == "ok", run
    assert data.result == ("fail" if closed else "ok"), data
    if closed:
        assert f"{top / closed} has mode 0700" in data.found
        assert f"chmod o+x {top / closed}" in data.next


@pytest.mark.parametrize("missing", ["", "buildah", "runc"])
def test_what_builds_need_is_named_with_its_version(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, says in (("buildah", "buildah version 1.28.2 (image-spec 1.1.0)"), ("runc", "runc version 1.1.5+ds1")):
        if name != missing:
            (programs / name).write_text(f"#!/bin/sh\necho '{says}'\n")
            (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(programs))
    file = tmp_path / "caddisfly.toml"
    file.write_text("")
    with bench() as place:
        (check,) = doctor_builds.tools(place, load(file))
    if missing:
        assert (check.result, check.found) == ("warn", f"{missing}: {missing} is not installed")
    else:
        assert (check.result, check.found) == ("ok", "buildah 1.28.2, runc 1.1.5+ds1")


def test_a_host_that_does_not_build_needs_nothing_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    file = tmp_path / "caddisfly.toml"
    file.write_text("[builds]\nenabled = false\n")
    with bench() as place:
        settings = load(file)
        found = [*doctor_builds.tools(place, settings), *doctor_builds.directories(place, settings)]
    assert {check.result for check in found} == {"ok"}


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


def test_it_says_when_nothing_stands_between_machines(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after a firewall script that flushed everything while no agent ran."""
    table = f"caddistest{os.getpid()}"
    monkeypatch.setattr(doctor_kernel, "TABLE", table)
    assert doctor_kernel.rules_of_machines([]) == []
    (gone,) = doctor_kernel.rules_of_machines(["cfm1", "cfm2"])
    assert (gone.result, "2 Machines are plugged in, and nothing stands between them" in gone.found) == ("fail", True)
    assert "the agent makes them anew" in gone.next
    subprocess.run(["nft", "add", "table", "inet", table], check=True)
    try:
        (there,) = doctor_kernel.rules_of_machines(["cfm1"])
    finally:
        subprocess.run(["nft", "delete", "table", "inet", table], check=True)
    assert there.result == "ok"
