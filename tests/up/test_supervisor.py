"""What `caddis up` promises of its children: restarted when they die, stopped with it, never left behind."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from pathlib import Path

from caddisfly.bus import server as bus_server
from caddisfly.up import presence
from caddisfly.up.child import answers
from caddisfly.up.plan import PartPlan
from tests.conftest import free_port
from tests.up.conftest import Running, server, wait_until


def test_a_killed_part_is_started_again(running: Running) -> None:
    running.start(server("web", free_port()), backoff_first_s=0.05)
    first = wait_until(lambda: running.ready("web"))["web"]
    os.kill(first["pid"], signal.SIGKILL)
    second = wait_until(lambda: (now := running.ready("web")) and now["web"]["pid"] != first["pid"] and now)["web"]
    assert second["restarts"] == 1
    assert running.stop() == 0
    assert presence.Process.of(second["pid"]) is None


def test_a_real_bus_is_restarted_and_stopped(running: Running, tmp_path: Path) -> None:
    port = free_port()
    config = tmp_path / "bus.conf"
    config.write_text(bus_server.configuration(host="127.0.0.1", port=port, token="t", directory=tmp_path / "js"))
    bus = PartPlan(name="bus", argv=(str(bus_server.binary()), "-c", str(config)), ready=f"tcp:127.0.0.1:{port}")
    running.start(bus, backoff_first_s=0.05)
    pid = wait_until(lambda: running.ready("bus"))["bus"]["pid"]
    os.kill(pid, signal.SIGKILL)
    wait_until(lambda: (now := running.ready("bus")) and now["bus"]["pid"] != pid)
    assert "Server is ready" in running.log("bus")
    assert running.stop() == 0
    assert not answers(f"tcp:127.0.0.1:{port}")


def test_the_pause_between_restarts_doubles_up_to_its_maximum(running: Running) -> None:
    crash = PartPlan(name="crash", argv=(sys.executable, "-c", "raise SystemExit(3)"), ready="")
    running.start(
        server("web", free_port()), crash, backoff_first_s=0.05, backoff_max_s=0.2, ready_timeout_s=60, good_after_s=60
    )
    pauses = wait_until(
        lambda: len(found := re.findall(r"part=crash code=3 restart_in_s=([\d.]+)", running.log("up"))) >= 5 and found
    )
    assert pauses[:5] == ["0.05", "0.1", "0.2", "0.2", "0.2"]
    assert running.stop() == 0


def test_stopping_goes_backwards_and_leaves_nothing(running: Running) -> None:
    names = ("first", "second", "third")
    running.start(*(server(name, free_port()) for name in names))
    pids = [part["pid"] for part in wait_until(lambda: running.ready(*names)).values()]
    assert running.stop(signal.SIGINT) == 0
    assert re.findall(r"up\.exited part=(\w+) code=0", running.log("up")) == ["third", "second", "first"]
    assert all(presence.Process.of(pid) is None for pid in pids)
    assert not presence.held(running.run_dir)


def test_a_part_that_will_not_stop_is_killed(running: Running) -> None:
    deaf = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    )
    running.start(PartPlan(name="deaf", argv=(sys.executable, "-c", deaf), ready="", stop_timeout_s=0.2))
    wait_until(lambda: "deaf" in running.log("deaf"))
    assert running.stop() == 0
    assert "up.killed part=deaf" in running.log("up")


def test_parts_end_when_the_supervisor_is_killed(running: Running) -> None:
    port = free_port()
    running.start(server("web", port))
    pid = wait_until(lambda: running.ready("web"))["web"]["pid"]
    running.stop(signal.SIGKILL)
    wait_until(lambda: presence.Process.of(pid) is None)
    assert not presence.held(running.run_dir)
    assert not answers(f"tcp:127.0.0.1:{port}")


def test_what_a_killed_supervisor_left_is_ended_by_the_next(running: Running) -> None:
    stubborn = "import time; print('here', flush=True); time.sleep(600)"  # does not follow its supervisor
    running.start(PartPlan(name="stubborn", argv=(sys.executable, "-c", stubborn), ready=""))
    pid = wait_until(lambda: running.ready("stubborn"))["stubborn"]["pid"]
    running.stop(signal.SIGKILL)
    assert presence.Process.of(pid) is not None
    assert presence.end_leftovers(running.run_dir) == ["stubborn"]
    assert presence.Process.of(pid) is None


def test_a_recycled_pid_is_nobodys_leftover(running: Running) -> None:
    running.run_dir.mkdir()
    stranger = {"name": "web", "pid": os.getpid(), "started": 1}
    presence.write(running.run_dir, {"parts": [stranger]})
    assert presence.end_leftovers(running.run_dir) == []


def test_only_one_supervisor_per_directory(running: Running) -> None:
    running.start(server("web", free_port()))
    wait_until(lambda: running.ready("web"))
    assert presence.held(running.run_dir)
    assert presence.lock(running.run_dir) is None


def test_a_first_start_that_fails_says_why_and_stops_the_rest(running: Running) -> None:
    reader, writer = os.pipe()
    crash = PartPlan(
        name="crash", argv=(sys.executable, "-c", "print('no disk'); raise SystemExit(3)"), ready="tcp:127.0.0.1:1"
    )
    good = server("good", free_port())
    running.run_dir.mkdir()
    lock = presence.lock(running.run_dir)
    assert lock is not None
    import subprocess

    from caddisfly.up.plan import Plan

    Plan(run_dir=running.run_dir, log_dir=running.log_dir, parts=(good, crash), backoff_first_s=0.02).save(
        running.run_dir / "plan.json"
    )
    argv = [sys.executable, "-m", "caddisfly.up.supervisor", str(running.run_dir / "plan.json"), str(lock), str(writer)]
    running.process = subprocess.Popen(argv, pass_fds=(lock, writer))
    os.close(writer)
    os.close(lock)
    with open(reader) as report:
        messages = [json.loads(line) for line in report]
    assert running.process.wait(timeout=20) == 1
    assert messages[-1]["failed"] == "crash"
    assert "no disk" in messages[-1]["lines"]
    assert "code 3" in messages[-1]["why"]


def test_logs_rotate_by_size(running: Running) -> None:
    chatty = "import time\nfor n in range(400): print('x' * 100, n)\nprint('end', flush=True)\ntime.sleep(600)"
    running.start(PartPlan(name="chatty", argv=(sys.executable, "-c", chatty), ready=""), log_size_bytes=20_000)
    older = running.log_dir / "chatty.log.1"
    wait_until(older.exists)
    assert running.stop() == 0
    assert older.stat().st_size < 200_000


def test_it_weighs_little(running: Running) -> None:
    from caddisfly.up.state import pss_kb

    running.start(server("web", free_port()))
    wait_until(lambda: running.ready("web"))
    assert running.process is not None
    assert 0 < pss_kb(running.process.pid) < 16_000
    loaded = Path(f"/proc/{running.process.pid}/maps").read_text()
    assert "pydantic" not in loaded
    assert running.stop() == 0
