"""Somebody at a terminal: a real one, with `caddis` in it."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Mapping
from pathlib import Path


class Person:
    """Types, reads, changes the size of the window, and goes away."""

    def __init__(self, *words: str, env: Mapping[str, str], cwd: Path, size: tuple[int, int] = (80, 24)) -> None:
        self._master, slave = pty.openpty()
        self.before = termios.tcgetattr(slave)
        self.resize(*size)
        try:
            self.process = subprocess.Popen(
                ["setsid", "--ctty", sys.executable, "-m", "caddisfly", *words],
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={"PATH": os.environ["PATH"], "TERM": "xterm-256color", **env},
                cwd=cwd,
            )
        finally:
            self._slave = slave
        self.shown = b""

    def types(self, text: str) -> None:
        os.write(self._master, text.encode())

    def resize(self, columns: int, rows: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def reads(self, what: str, *, within_s: float = 20) -> str:
        """What is shown since the last time, up to and including these words."""
        deadline = time.monotonic() + within_s
        while what.encode() not in self.shown:
            ready, _, _ = select.select([self._master], [], [], max(0.0, deadline - time.monotonic()))
            assert ready, f"no {what!r} within {within_s} s in {self.shown!r}"
            self.shown += os.read(self._master, 65536)
        seen, found, self.shown = self.shown.partition(what.encode())
        return (seen + found).decode(errors="replace")

    def ends(self, *, within_s: float = 20) -> int:
        """The exit code. The terminal has to be as it was."""
        deadline = time.monotonic() + within_s
        while self.process.poll() is None:  # it may wait for somebody to read
            ready, _, _ = select.select([self._master], [], [], 0.02)
            if ready:
                self.shown += os.read(self._master, 65536)
            assert time.monotonic() < deadline, f"still there after {within_s} s: {self.shown!r}"
        assert termios.tcgetattr(self._slave) == self.before, "the terminal was left in another mode"
        return self.process.returncode

    def is_killed(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def leaves(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._slave)
        os.close(self._master)
