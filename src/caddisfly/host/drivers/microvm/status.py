"""The status drive: 4 KiB that the guest writes and that outlive it, its VMM and the agent.

It is the only thing that says how the Machine's program ended. Its content is the guest's word, so it is read strictly:
at most, a Machine lies about itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

SIZE = 4096
_LINE = re.compile(rb"(running|exited (\d{1,3})( oom)?|failed ([\x20-\x7e]{1,200}?)) *\n")


@dataclass(frozen=True, slots=True)
class Status:
    """`running` from the moment at which the program was started; `exit_code` once it has ended."""

    running: bool = False
    exit_code: int | None = None
    oom: bool = False
    failure: str = ""
    """Why the guest could not start it."""

    @property
    def said(self) -> bool:
        return self.running or self.exit_code is not None or bool(self.failure)


def prepare(path: Path) -> None:
    path.touch(mode=0o600)
    path.write_bytes(bytes(SIZE))


def read(path: Path) -> Status:
    """What the guest last said; nothing, when it has not said anything yet or the file is gone."""
    try:
        with path.open("rb") as file:
            match = _LINE.match(file.read(512))
    except FileNotFoundError:
        return Status()
    if match is None:
        return Status()
    if match[2]:
        return Status(exit_code=min(255, int(match[2])), oom=bool(match[3]))
    if match[4]:
        return Status(failure=match[4].decode().strip())
    return Status(running=True)
