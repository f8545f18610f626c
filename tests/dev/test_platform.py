"""The platform as a whole: options, hosts, what it keeps, and how it ends."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from caddisfly.client import ApiError, Client, ConflictError, UnauthorizedError
from caddisfly.pytest_plugin import CaddisApp, CaddisDev
from tests.dev.conftest import COMMAND, Dev

Start = Callable[..., Dev]


def run(*options: str, **process: Any) -> subprocess.CompletedProcess[str]:
    """A `caddis dev` that is expected to end by itself."""
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=30, check=False, **process)


def test_many_at_once_make_as_many_machines(caddis_app: CaddisApp) -> None:
    with ThreadPoolExecutor(16) as pool:
        made = list(pool.map(lambda number: caddis_app.create(wait="", name=""), range(100)))
    listed = caddis_app.machines()
    assert {machine["id"] for machine in listed} == {machine["id"] for machine in made}
    assert len({machine["name"] for machine in listed}) == 100
    assert len({machine["private_ip"] for machine in listed}) == 100
    for machine in made:
        caddis_app.client.machines.wait(caddis_app.name, machine["id"], "started", timeout_s=20)


def test_regions_are_where_machines_go(caddis_dev: CaddisDev, caddis_app: CaddisApp) -> None:
    assert {region["code"] for region in caddis_dev.client.regions()["Regions"]} == {"ams", "fra", "ord"}
    for wanted, got in (("", "ams"), ("fra", "fra"), ("na", "ord"), ("lhr,ord", "ord")):
        assert caddis_app.create(region=wanted)["region"] == got
    with pytest.raises(ApiError, match="no host in region 'lhr'"):
        caddis_app.create(region="lhr")


def test_a_region_named_twice_has_two_hosts(start: Start) -> None:
    dev = start("--regions", "lab,lab,syd")
    dev.app()
    made = [dev.machine(region="lab") for _ in range(4)]
    hosts = Counter(machine["private_ip"].rpartition(":")[0].rsplit(":", 2)[0] for machine in made)
    assert dev.facts["regions"] == ["lab", "syd"]
    assert {machine["region"] for machine in made} == {"lab"}
    assert sorted(hosts.values()) == [2, 2], hosts


def test_hosts_have_a_size(start: Start) -> None:
    dev = start("--regions", "ams", "--memory", "512")
    dev.app()
    first = dev.machine()
    dev.machine()
    with pytest.raises(ConflictError, match="insufficient memory"):
        dev.machine()
    dev.client.machines.delete("demo", first["id"], force=True)
    dev.client.machines.wait("demo", first["id"], "destroyed", timeout_s=20)
    assert dev.machine()["state"] == "started"


def test_chaos_is_for_all_but_the_calm(start: Start) -> None:
    dev = start("--chaos", "start-error=100%,slow-start=0s..20ms", "--image", "quiet/*=calm")
    dev.app()
    assert dev.machine()["state"] == "failed"
    assert dev.machine(act="calm")["state"] == "started"
    assert dev.machine(image="quiet/one:2")["state"] == "started"


def test_an_image_may_be_told_how_to_act(start: Start) -> None:
    dev = start("--image", "registry.fly.io/worker:*=start-error")
    dev.app()
    assert dev.machine(image="registry.fly.io/worker:v7")["state"] == "failed"
    assert dev.machine(image="registry.fly.io/web:v7")["state"] == "started"


def test_a_seed_gives_one_course_of_things(start: Start) -> None:
    courses = []
    for seed in ("7", "7", "8"):
        dev = start("--chaos", "start-error=50%", "--seed", seed, "--regions", "ams,fra")
        dev.app()
        courses.append([dev.machine(region=region)["state"] for region in ("ams", "fra") * 8])
        dev.end()
    assert courses[0] == courses[1] != courses[2]
    assert set(courses[0]) == {"started", "failed"}


def test_what_there_is_is_forgotten_unless_it_is_to_be_kept(start: Start, tmp_path: Path) -> None:
    first = start("--data-dir", str(tmp_path))
    first.app()
    machine = first.machine(region="fra")
    refused = run("--port", "0", "--data-dir", str(tmp_path))
    assert refused.returncode == 1
    assert f"process {first.facts['pid']} has it" in refused.stderr
    assert first.end() == 0
    again = start("--data-dir", str(tmp_path))
    assert again.facts["token"] == first.facts["token"]
    again.client.machines.wait("demo", machine["id"], "started", timeout_s=20)
    kept = again.client.machines.get("demo", machine["id"])
    assert [kept[name] for name in ("name", "region", "private_ip")] == [
        machine[name] for name in ("name", "region", "private_ip")
    ]
    other = start()
    assert other.client.apps.list() == []
    with Client(other.facts["url"], token=first.facts["token"]) as stranger, pytest.raises(UnauthorizedError):
        stranger.apps.list()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_without_a_trace(start: Start, temporary: Path, number: int) -> None:
    dev = start(env={**os.environ, "TMPDIR": str(temporary)}, start_new_session=True)
    dev.app()
    dev.machine(act="log-every=10ms")
    assert list(temporary.iterdir())
    assert dev.end(number) == 0
    assert not list(temporary.iterdir())
    with pytest.raises(ProcessLookupError):
        os.killpg(dev.process.pid, 0)


def test_what_a_kill_leaves_behind_is_removed_by_the_next_start(start: Start, temporary: Path) -> None:
    environment = {**os.environ, "TMPDIR": str(temporary)}
    alive = start(env=environment)
    killed = start(env=environment)
    killed.end(signal.SIGKILL)
    assert len(list(temporary.iterdir())) == 2
    last = start(env=environment)
    assert len(list(temporary.iterdir())) == 2
    last.end()
    alive.app()
    assert alive.machine()["state"] == "started"
    alive.end()
    assert not list(temporary.iterdir())


def test_a_wait_under_way_does_not_hold_up_the_end(start: Start) -> None:
    dev = start()
    dev.app()
    machine = dev.machine()
    with ThreadPoolExecutor(1) as pool:
        waits = pool.submit(dev.client.machines.wait, "demo", machine["id"], "stopped", timeout_s=50)
        while not waits.running():
            pass
        dev.process.send_signal(signal.SIGTERM)
        assert dev.process.wait(5) == 0
        assert waits.exception(10) is not None


def test_it_may_end_with_the_program_that_started_it(start: Start) -> None:
    dev = start("--until-eof", stdin=subprocess.PIPE)
    dev.app()
    assert dev.process.stdin is not None
    dev.process.stdin.close()
    assert dev.process.wait(10) == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_nobody_in_particular_may_run_it(start: Start, temporary: Path) -> None:
    environment = {"PATH": os.environ["PATH"], "TMPDIR": str(temporary), "HOME": "/nonexistent"}
    dev = start(user=65534, group=65534, extra_groups=[], env=environment, cwd="/")
    dev.app()
    assert dev.machine()["state"] == "started"
    assert (dev.end(), list(temporary.iterdir())) == (0, [])


def test_people_get_the_line_to_paste(temporary: Path) -> None:
    process = subprocess.Popen(
        [*COMMAND, "--port", "0"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        words = dict(word.split("=", 1) for word in line.removeprefix("export ").split())
        assert list(words) == ["FLY_API_TOKEN", "FLY_FLAPS_BASE_URL"]
        with Client(words["FLY_FLAPS_BASE_URL"], token=words["FLY_API_TOKEN"]) as client:
            client.apps.create("shown")
            made = client.machines.create("shown", {"image": "nginx", "metadata": {"caddis-dev": "start-error"}})
            client.machines.wait("shown", made["id"], "failed", timeout_s=20)
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=10)
    finally:
        process.kill()
    assert process.returncode == 0
    assert "ready in" in said
    assert f"{made['id']}  shown/{made['name']}  created" in said
    assert "failed  (failed_precondition: the simulated host cannot start this machine" in said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--chaos", "strat-error=5%"), "--chaos: unknown word 'strat-error'"),
        (("--chaos", "oom=101%"), "'101%' is no chance"),
        (("--chaos", "code=1"), "code says nothing without exit-after"),
        (("--chaos", "slow-start=2s..1s"), "the first duration must not be longer"),
        (("--regions", "Amsterdam"), "'Amsterdam' is not a region"),
        (("--regions", ","), "from 1 to 50 regions"),
        (("--image", "worker:1"), "is not PATTERN=WORDS"),
        (("--image", "worker:1=crash"), "--image worker:1: unknown word 'crash'"),
        (("--port", "70000"), "less than or equal to 65535"),
        (("--until-eof",), "--until-eof needs a pipe"),
    ],
)
def test_a_wrong_option_is_refused_in_words(options: tuple[str, ...], said: str) -> None:
    refused = run("--port", "0", *options, stdin=subprocess.DEVNULL)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert "Traceback" not in refused.stderr


def test_a_port_that_is_taken_is_refused_in_words() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        refused = run("--port", str(taken.getsockname()[1]))
    assert refused.returncode == 1
    assert f"(pid {os.getpid()}) listens there" in refused.stderr
    assert "--port 0" in refused.stderr


def test_it_listens_where_it_is_told(start: Start) -> None:
    dev = start("--listen", "0.0.0.0")
    assert dev.facts["url"].startswith("http://127.0.0.1:")
    assert dev.client.apps.list() == []
    refused = run("--port", "0", "--listen", "192.0.2.1")
    assert refused.returncode == 1
    assert "on 192.0.2.1 cannot be listened on" in refused.stderr


def test_the_words_are_listed() -> None:
    listed = run("--words").stdout
    assert all(word in listed for word in ("start-error", "host-loss", "calm"))


def test_a_standby_is_started_when_the_host_of_its_machine_is_lost(start: Start) -> None:
    dev = start("--regions", "lab,lab")
    dev.app()
    config = {"image": "nginx", "restart": {"policy": "no"}}
    watched = {**config, "metadata": {"caddis-dev": "host-loss=4s"}}
    first = dev.client.machines.create("demo", {**watched}, skip_launch=True)
    dev.client.machines.wait("demo", first["id"], "stopped")
    standbys = [dev.client.machines.create("demo", {**config, "standbys": [first["id"]]}) for _ in range(2)]
    for one in standbys:
        dev.client.machines.wait("demo", one["id"], "stopped")
        assert dev.client.machines.get("demo", one["id"])["config"]["standbys"] == [first["id"]]
        assert _host(one) != _host(first)
    dev.client.machines.start("demo", first["id"])
    dev.client.machines.wait("demo", first["id"], "started")

    def states() -> list[str]:
        return sorted(dev.client.machines.get("demo", one["id"])["state"] for one in standbys)

    deadline = time.monotonic() + 20
    while states() != ["started", "stopped"]:
        assert time.monotonic() < deadline
    lost = dev.client.machines.get("demo", first["id"])
    assert (lost["host_status"], lost["state"]) == ("unreachable", "started")
    (up,) = (one for one in standbys if dev.client.machines.get("demo", one["id"])["state"] == "started")
    dev.client.machines.stop("demo", up["id"])
    dev.client.machines.wait("demo", up["id"], "stopped")
    while dev.client.machines.get("demo", first["id"])["host_status"] != "ok":
        assert time.monotonic() < deadline
    assert states() == ["stopped", "stopped"]
    events = dev.client.machines.get("demo", up["id"])["events"]
    starts = [event["source"] for event in events if (event["type"], event["status"]) == ("start", "starting")]
    assert starts == ["flyd"], "once for one loss, whoever stops it"


def _host(machine: dict[str, Any]) -> str:
    """The part of the address that is the host's."""
    return str(machine["private_ip"]).rpartition(":")[0].rsplit(":", 2)[0]


def test_a_standby_is_for_another_machine_of_its_app(caddis_app: CaddisApp) -> None:
    machine = caddis_app.create()
    for wrong in ("0" * 14, machine["id"]):
        with pytest.raises(ApiError, match="no other machine"):
            caddis_app.client.machines.update(caddis_app.name, machine["id"], {"image": "nginx", "standbys": [wrong]})
    with pytest.raises(ApiError, match="no other machine"):
        caddis_app.create(standbys=["0" * 14])
    standby = caddis_app.create(wait="", standbys=[machine["id"]])
    caddis_app.client.machines.wait(caddis_app.name, standby["id"], "stopped")
    caddis_app.client.machines.delete(caddis_app.name, machine["id"], force=True)
    caddis_app.client.machines.wait(caddis_app.name, machine["id"], "destroyed")
    caddis_app.client.machines.update(caddis_app.name, standby["id"], {**standby["config"], "env": {"A": "1"}})
