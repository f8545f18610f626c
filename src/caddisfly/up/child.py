"""One child of the supervisor: started, watched, restarted after a pause that grows, stopped.

waiting ──due──▶ starting ──answers──▶ ready
   ▲                │                    │
   └────── exits ───┴──────── exits ─────┘        (any) ──stop──▶ stopping ──exits──▶ gone
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections import deque
from dataclasses import dataclass, field
from typing import IO, Any

from caddisfly.up.plan import PartPlan, Plan
from caddisfly.up.presence import Process

_KEPT_LINES = 20
_LINE_MAX = 64 * 1024


@dataclass(slots=True)
class Child:
    """`due_at`, `since` and `kill_at` are seconds of the monotonic clock."""

    part: PartPlan
    plan: Plan
    state: str = "waiting"
    due_at: float = 0.0
    since: float = 0.0
    restarts: int = 0
    failures: int = 0
    """Exits since the last good run: what the pause grows with."""
    pause_s: float = 0.0
    """How long it waits before the next start."""
    ready_once: bool = False
    kill_at: float = 0.0
    process: subprocess.Popen[bytes] | None = None
    identity: Process | None = None
    pidfd: int = -1
    newest: deque[str] = field(default_factory=lambda: deque(maxlen=_KEPT_LINES))
    _partial: bytes = b""

    @property
    def kind(self) -> str:
        """`edge` of `edge@1`: alike parts stop together."""
        return self.part.name.partition("@")[0]

    @property
    def pipe(self) -> IO[bytes]:
        assert self.process is not None
        assert self.process.stdout is not None
        return self.process.stdout

    def spawn(self) -> None:
        """A session of its own: Ctrl-C on the terminal reaches the supervisor only, which stops things in order."""
        self._partial = b""
        self.process = subprocess.Popen(
            self.part.argv,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "CADDIS_SUPERVISOR": str(os.getpid())},
            start_new_session=True,
        )
        os.set_blocking(self.pipe.fileno(), False)
        self.identity = Process.of(self.process.pid)
        self.pidfd = os.pidfd_open(self.process.pid)
        self.since = time.monotonic()
        self.state = "starting"

    def collect(self) -> int:
        """Take in the exit. Plans the next start with a pause that doubles up to the plan's maximum."""
        assert self.process is not None
        code = self.process.wait()
        self.pipe.close()
        os.close(self.pidfd)
        self.pidfd = -1
        now = time.monotonic()
        if self.state == "ready" and now - self.since >= self.plan.good_after_s:
            self.failures = 0
        self.process = self.identity = None
        if self.state == "stopping":
            self.state = "gone"
            return code
        self.pause_s = min(self.plan.backoff_max_s, self.plan.backoff_first_s * 2**self.failures)
        self.failures += 1
        self.restarts += 1
        self.due_at = now + self.pause_s
        self.state = "waiting"
        return code

    def probe(self) -> bool:
        """Whether it has come to serve just now."""
        if self.state != "starting" or not answers(self.part.ready):
            return False
        self.state = "ready"
        self.ready_once = True
        return True

    def read_lines(self) -> list[str] | None:
        """Whole lines that have arrived, None at the end. A line longer than 64 KiB is cut into several."""
        try:
            data = os.read(self.pipe.fileno(), _LINE_MAX)
        except BlockingIOError:
            return []
        if not data and not self._partial:
            return None
        *lines, self._partial = (self._partial + data).split(b"\n")
        if len(self._partial) >= _LINE_MAX or (not data and self._partial):
            lines.append(self._partial)
            self._partial = b""
        texts = [line.decode(errors="replace") for line in lines]
        self.newest.extend(texts)
        return texts

    def to_record(self) -> dict[str, Any]:
        return {
            "name": self.part.name,
            "state": self.state,
            "restarts": self.restarts,
            "pid": self.identity.pid if self.identity else 0,
            "started": self.identity.started if self.identity else 0,
        }


def answers(ready: str) -> bool:
    """Whether something accepts connections at `tcp:<host>:<port>` or `unix:<path>`. Empty: always."""
    kind, _, where = ready.partition(":")
    if not kind:
        return True
    host, _, port = where.rpartition(":")
    try:
        if kind == "unix":
            with socket.socket(socket.AF_UNIX) as probe:
                probe.settimeout(0.5)
                probe.connect(where)
        else:
            socket.create_connection((host.strip("[]"), int(port)), timeout=0.5).close()
    except OSError:
        return False
    return True
