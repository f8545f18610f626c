"""The whole platform, up and down, as an operator does it."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.host.images import kernel
from caddisfly.up import presence
from tests.conftest import free_port
from tests.up.conftest import wait_until


class Box:
    """A settings file of its own, and `caddis` in front of it."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.run_dir = directory / "run"
        self.ports = {name: free_port() for name in ("bus", "control", "registry", "edge")}
        self.file = directory / "caddisfly.toml"
        self.file.write_text(
            f'[platform]\ndata_dir = "{directory}/data"\nrun_dir = "{self.run_dir}"\nedge_workers = 2\n'
            f"[bus]\nport = {self.ports['bus']}\n[control]\nlisten_port = {self.ports['control']}\n"
            f"[registry]\nport = {self.ports['registry']}\n"
            f'[edge]\nhttp_listen = ["127.0.0.1:{self.ports["edge"]}"]\n[images]\nstore_size_gb = 2\n'
        )

    def caddis(self, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
        names = ("PATH", "LANG")
        environment = {name: os.environ[name] for name in names if name in os.environ}
        environment |= {"HOME": str(self.directory), "CADDIS_CONFIG": str(self.file)}
        argv = [sys.executable, "-m", "caddisfly", *words]
        return subprocess.run(
            argv,
            input=typed,
            capture_output=True,
            text=True,
            timeout=150,
            check=False,
            env=environment,
            cwd=self.directory,
        )

    def status(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(self.caddis("status", "--json").stdout)
        return found

    def pids(self) -> dict[str, int]:
        return {part["name"]: part["pid"] for part in self.status()["parts"]}


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    made = Box(tmp_path)
    try:
        yield made
    finally:
        done = made.caddis("down")
        for point, _ in reversed(kernel.mounts_below(tmp_path)):  # a host keeps its stores mounted
            kernel.unmount(point)
    assert done.returncode == 0, done.stderr
    assert not presence.held(made.run_dir)


def test_up_status_and_down(box: Box) -> None:
    up = box.caddis("up", "--detach")
    assert up.returncode == 0, up.stderr
    for part in ("bus", "control", "agent", "registry", "edge@0", "edge@1"):
        assert f"{part:<8} ready in" in up.stderr

    found = box.status()
    assert found["running"]
    assert {part["state"] for part in found["parts"]} == {"ready"}
    assert all(part["pss_kb"] > 0 for part in found["parts"])
    assert found["host"]["machines"] == {}
    assert found["api_url"] == f"http://127.0.0.1:{box.ports['control']}"

    apps = box.caddis("apps", "list", "--json")  # the first user is logged in
    assert (apps.returncode, json.loads(apps.stdout)) == (0, [])

    again = box.caddis("up")
    assert again.returncode == 1
    assert again.stderr.startswith("Error: the platform is running already\n")
    assert str(found["parts"][0]["pid"]) in again.stderr

    pids = box.pids()
    os.kill(pids["up"], signal.SIGKILL)  # parts follow, and the next `up` finds everything free
    wait_until(lambda: not any(presence.Process.of(pid) for pid in pids.values()))
    assert box.caddis("up", "-d").returncode == 0
    pids = box.pids()

    down = box.caddis("down")
    assert (down.returncode, down.stdout) == (0, "Stopped, with 0 running Machines.\n")
    assert not any(presence.Process.of(pid) for pid in pids.values())
    assert box.caddis("status").returncode == 1
    assert box.caddis("down").stdout == "The platform was not running.\n"


def test_a_port_in_use_starts_nothing(box: Box) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", box.ports["edge"]))
        other.listen()
        up = box.caddis("up", "-d")
    assert up.returncode == 1
    assert up.stderr.startswith(f"Error: port {box.ports['edge']} on 127.0.0.1 is not free, the edge needs it\n")
    assert f"(pid {os.getpid()}) listens there" in up.stderr
    assert "[edge] http_listen" in up.stderr
    assert presence.read(box.run_dir) == {}


def test_a_wrong_setting_starts_nothing(box: Box) -> None:
    with box.file.open("a") as file:
        file.write("[host]\nruntim = 'runc'\n")
    up = box.caddis("up", "-d")
    assert up.returncode == 2
    assert "caddisfly.toml:16: unknown key 'runtim' in [host]; did you mean 'runtime'?" in up.stderr.replace(
        "\n       ", ""
    )
    box.file.write_text(box.file.read_text().replace("runtim =", "runtime ="))


def test_units_are_shown_without_systemd(box: Box) -> None:
    shown = box.caddis("install", "--print").stdout
    for name in ("caddisfly-bus", "caddisfly-control", "caddisfly-agent", "caddisfly-edge@"):
        assert f"# /etc/systemd/system/{name}.service\n" in shown
    agent = shown.split("caddisfly-agent.service\n")[1].split("# /etc")[0]
    assert "KillMode=process" in agent
    assert f"caddisfly run agent --config {box.file}" in agent
    assert "Wants=" in shown.split("caddisfly.target\n")[-1]


@pytest.mark.skipif(Path("/run/systemd/system").exists(), reason="would install units on this computer")
def test_install_without_systemd_is_refused(box: Box) -> None:
    done = box.caddis("install")
    assert done.returncode == 1
    assert done.stderr.startswith("Error: this computer is not run by systemd\n")


def test_an_unknown_part_is_refused(box: Box) -> None:
    done = box.caddis("run", "nonsense")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: unknown part 'nonsense'\n")
