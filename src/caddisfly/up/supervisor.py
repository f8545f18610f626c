"""The supervisor: starts the parts, starts again what dies, stops everything in reverse order.

It is one loop over pipes, pidfds and signals, without asyncio and without anything outside the standard library: it is
there all the time and does almost nothing, so it should weigh almost nothing.

The parts end with it: each asks the kernel for SIGTERM when its parent dies (`caddis run` does that), so a supervisor
that was killed never leaves parts that nobody would restart, and the next `caddis up` finds free ports. What must
outlive it does: Machines are not its children nor the agent's, and keep running until an agent adopts them again. Who
wants the edge to outlive a kill of its parent runs the parts as systemd units (`caddis install`), which have none.
"""

from __future__ import annotations

import json
import os
import selectors
import signal
import sys
import time
from pathlib import Path
from typing import Any

from caddisfly.up import presence
from caddisfly.up.child import Child
from caddisfly.up.lines import Files, Sink, Terminal
from caddisfly.up.plan import Plan

_PROBE_S = 0.03
_IDLE_S = 3600.0
_GIVE_UP_FAILURES = 3


class Supervisor:
    """`report` is a descriptor that gets one JSON object per line while starting, or -1."""

    def __init__(self, plan: Plan, *, report: int = -1) -> None:
        self._plan = plan
        self._report_to = report
        self._children = [Child(part, plan) for part in plan.parts]
        self._selector = selectors.DefaultSelector()
        names = [part.name for part in plan.parts] + ["up"]
        self._sink: Sink = Files(plan.log_dir, size_bytes=plan.log_size_bytes) if plan.log_dir else Terminal(names)
        self._stopping = False
        self._failed = False
        self._announced = False
        self._began = time.monotonic()

    def run(self) -> int:
        """Until SIGTERM or SIGINT. Returns the exit code: 1 when the parts could not be brought up."""
        wake = self._catch_signals()
        try:
            while not (self._stopping and all(child.state == "gone" for child in self._children)):
                self._turn(wake)
        finally:
            for child in self._children:
                if child.process is not None:
                    child.process.kill()
        presence.write(self._plan.run_dir, {})
        self._say("up.stopped")
        return 1 if self._failed else 0

    def _catch_signals(self) -> int:
        reader, writer = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(writer)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._selector.register(reader, selectors.EVENT_READ, None)
        return reader

    def _turn(self, wake: int) -> None:
        now = time.monotonic()
        if self._stopping:
            self._stop_next(now)
        else:
            self._start_due(now)
        for key, _ in self._selector.select(self._patience_s(now)):
            if key.fd == wake:
                self._on_signal(os.read(wake, 64))
            elif key.fd == key.data.pidfd:
                self._on_exit(key.data)
            else:
                self._on_output(key.data)

    def _patience_s(self, now: float) -> float:
        if any(child.state == "starting" for child in self._children):
            return _PROBE_S
        moments = [child.due_at for child in self._children if child.state == "waiting" and not self._stopping]
        if self._stopping:
            moments += [child.kill_at for child in self._children if child.state == "stopping"]
        return max(0.0, min(moments) - now) if moments else _IDLE_S

    def _start_due(self, now: float) -> None:
        for child in self._children:
            if child.state == "waiting" and child.due_at <= now:
                self._spawn(child)
            elif child.probe():
                took_ms = int((time.monotonic() - child.since) * 1000)
                self._say(f"up.ready part={child.part.name} took_ms={took_ms}")
                self._tell({"part": child.part.name, "pid": child.identity and child.identity.pid, "took_ms": took_ms})
                self._record()
        if self._announced:
            return
        late = [child for child in self._children if not child.ready_once]
        if not late:
            self._announced = True
            self._say(f"up.complete took_ms={int((now - self._began) * 1000)}")
            self._tell({"ready": True})
        elif now - self._began > self._plan.ready_timeout_s:
            self._give_up(late[0], f"did not answer at {late[0].part.ready} in {self._plan.ready_timeout_s:g} s")

    def _spawn(self, child: Child) -> None:
        try:
            child.spawn()
        except OSError as error:
            self._give_up(child, f"cannot be started: {error}")
            return
        self._selector.register(child.pidfd, selectors.EVENT_READ, child)
        self._selector.register(child.pipe, selectors.EVENT_READ, child)
        self._record()

    def _on_output(self, child: Child) -> None:
        if child.process is None:
            return
        lines = child.read_lines()
        if lines is None:
            self._selector.unregister(child.pipe)
        elif lines:
            self._sink.write(child.part.name, lines)

    def _on_exit(self, child: Child) -> None:
        while lines := child.read_lines():
            self._sink.write(child.part.name, lines)
        self._selector.unregister(child.pidfd)
        if child.pipe.fileno() in self._selector.get_map():
            self._selector.unregister(child.pipe)
        wanted = child.state == "stopping"
        code = child.collect()
        again = "" if wanted else f" restart_in_s={child.pause_s:g}"
        self._say(f"up.exited part={child.part.name} code={code}{again}")
        self._record()
        if not wanted and not self._announced and not child.ready_once and child.failures >= _GIVE_UP_FAILURES:
            self._give_up(child, f"exited {child.failures} times, at last with code {code}")

    def _give_up(self, child: Child, why: str) -> None:
        """The first start failed: say why and leave nothing half running."""
        if self._stopping:
            return
        self._failed = True
        self._say(f"up.failed part={child.part.name} why={json.dumps(why)}")
        self._tell({"failed": child.part.name, "why": why, "lines": list(child.newest)})
        self._begin_stop()

    def _on_signal(self, numbers: bytes) -> None:
        if set(numbers) & {signal.SIGTERM, signal.SIGINT} and not self._stopping:
            self._say("up.stopping")
            self._begin_stop()

    def _begin_stop(self) -> None:
        self._stopping = True
        for child in self._children:
            if child.state == "waiting":
                child.state = "gone"

    def _stop_next(self, now: float) -> None:
        """Last started, first stopped, alike ones together; the next only when these are gone."""
        left = [child for child in self._children if child.process is not None]
        for child in left:
            if child.kind != left[-1].kind or child.process is None:
                continue
            if child.state != "stopping":
                child.state = "stopping"
                child.kill_at = now + child.part.stop_timeout_s
                child.process.terminate()
            elif now >= child.kill_at:
                self._say(f"up.killed part={child.part.name} after_s={child.part.stop_timeout_s:g}")
                child.process.kill()
                child.kill_at = now + child.part.stop_timeout_s

    def _record(self) -> None:
        me = presence.Process.of(os.getpid())
        assert me is not None
        record = {
            "supervisor": {"pid": me.pid, "started": me.started},
            "log_dir": str(self._plan.log_dir) if self._plan.log_dir else None,
            "parts": [child.to_record() for child in self._children],
        }
        presence.write(self._plan.run_dir, record)

    def _say(self, text: str) -> None:
        stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime())
        self._sink.write("up", [f"{stamp}Z INFO up {text}"])

    def _tell(self, message: dict[str, Any]) -> None:
        if self._report_to < 0:
            return
        try:
            os.write(self._report_to, json.dumps(message).encode() + b"\n")
        except BrokenPipeError:
            self._report_to = -1  # whoever asked for the report went away; the platform stays


def main(arguments: list[str]) -> int:
    """`PLAN LOCK_FD [REPORT_FD]`: the lock was taken by `caddis up` and is passed on, so that nobody comes between."""
    plan = Plan.load(Path(arguments[0]))
    for descriptor in arguments[1:]:
        os.set_inheritable(int(descriptor), False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    return Supervisor(plan, report=int(arguments[2]) if len(arguments) > 2 else -1).run()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
