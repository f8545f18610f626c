"""A supervisor as its own process, with real small children instead of the whole platform."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caddisfly.up import presence
from caddisfly.up.plan import PartPlan, Plan

SERVE = """
import os, signal, socket, sys, time
from caddisfly.up.parts import _follow_supervisor
_follow_supervisor()
signal.signal(signal.SIGTERM, lambda *_: (print("bye", flush=True), os._exit(0)))
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen()
print("serving", os.getpid(), flush=True)
while True:
    listener.accept()[0].close()
"""


def server(name: str, port: int) -> PartPlan:
    """A child that serves on a port and stops on SIGTERM."""
    return PartPlan(name=name, argv=(sys.executable, "-c", SERVE, str(port)), ready=f"tcp:127.0.0.1:{port}")


def wait_until(check: Callable[[], Any], *, timeout_s: float = 15.0) -> Any:
    """For facts about other processes, which have no event here."""
    deadline = time.monotonic() + timeout_s
    while not (value := check()):
        assert time.monotonic() < deadline, f"not within {timeout_s} s"
        time.sleep(0.02)
    return value


class Running:
    """A supervisor process on a plan."""

    def __init__(self, directory: Path) -> None:
        self.run_dir = directory / "run"
        self.log_dir = directory / "logs"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *parts: PartPlan, **options: Any) -> None:
        lock = presence.lock(self.run_dir)
        assert lock is not None
        plan = Plan(run_dir=self.run_dir, log_dir=self.log_dir, parts=parts, **options)
        plan.save(self.run_dir / "plan.json")
        argv = [sys.executable, "-m", "caddisfly.up.supervisor", str(self.run_dir / "plan.json"), str(lock)]
        self.process = subprocess.Popen(argv, pass_fds=(lock,))
        os.close(lock)

    def children(self) -> dict[str, dict[str, Any]]:
        return {part["name"]: part for part in presence.read(self.run_dir).get("parts", ())}

    def ready(self, *names: str) -> dict[str, dict[str, Any]] | None:
        found = self.children()
        return found if names and all(found.get(name, {}).get("state") == "ready" for name in names) else None

    def log(self, name: str) -> str:
        path = self.log_dir / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def stop(self, number: int = signal.SIGTERM) -> int:
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=30)


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    instance = Running(tmp_path)
    try:
        yield instance
    finally:
        if instance.process is not None and instance.process.poll() is None:
            instance.process.kill()
            instance.process.wait()
        if instance.run_dir.exists():
            presence.end_leftovers(instance.run_dir)
