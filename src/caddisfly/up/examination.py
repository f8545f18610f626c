"""What every check of `caddis doctor` works with: a result in words, a place to make a mess, commands with an end.

Checks try things instead of looking for signs of them: a `/dev/kvm` that opens may not boot a guest, a runtime that is
installed may not start a container. To leave nothing behind, whatever can be is done in namespaces of its own, which
the kernel takes back when the command ends, however it ends.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

Result = Literal["ok", "warn", "fail"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """`found` is what was seen, `next` what to install or change. `took_ms` counts milliseconds."""

    name: str
    result: Result
    found: str
    next: str = ""
    took_ms: int = 0

    def took(self, milliseconds: int) -> Check:
        return replace(self, took_ms=milliseconds)

    def to_record(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Ran:
    """How a command ended. `code` -1: it was given up after its time."""

    code: int
    output: str

    @property
    def last_line(self) -> str:
        lines = [line for line in self.output.splitlines() if line.strip()]
        return lines[-1].strip()[:200] if lines else f"exit code {self.code}"


@dataclass(frozen=True, slots=True)
class Bench:
    """`directory` is removed afterwards. `name` is unique, for what must be named system-wide."""

    directory: Path
    name: str

    def run(self, argv: Sequence[str | Path], *, timeout_s: float = 10.0) -> Ran:
        """Run to its end or kill it with all it started. Never raises for what the command does."""
        if shutil.which(str(argv[0])) is None:
            return Ran(127, f"{argv[0]} is not installed")
        with tempfile.TemporaryFile(dir=self.directory) as output:
            process = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                start_new_session=True,
            )
            try:
                code = process.wait(timeout=timeout_s)
            except subprocess.TimeoutExpired:
                code = -1
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            output.seek(0)
            text = output.read().decode(errors="replace")
        return Ran(code, text if code != -1 else f"{text}\ngave up after {timeout_s:g} s")

    def isolated(self, script: str, *, timeout_s: float = 10.0, network: bool = False) -> Ran:
        """Run a shell script in its own mount namespace, and its own network if asked."""
        flags = ["-m", "--propagation", "private", *(["-n"] if network else [])]
        return self.run(["unshare", *flags, "sh", "-euc", script], timeout_s=timeout_s)


@contextmanager
def bench() -> Iterator[Bench]:
    """On disk, not in /tmp, which may be memory: file systems are tried here."""
    directory = Path(tempfile.mkdtemp(prefix="caddis-doctor-", dir="/var/tmp"))
    try:
        yield Bench(directory, directory.name)
    finally:
        shutil.rmtree(directory)
