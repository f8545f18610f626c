"""conmon's idea of a runtime, for a VMM: a script that starts the command it finds in the bundle.

conmon asks it to `create` and takes whatever process it leaves behind for the sandbox. So a microVM's console, log and
end are in the same hands as a container's, and none of that code is written twice.
"""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass
from pathlib import Path

_SCRIPT = """#!/bin/sh
for group in $CADDIS_GROUPS; do echo 0 > "$group/cgroup.procs" || exit 125; done
while [ $# -gt 1 ]; do
  case $1 in
    --bundle) bundle=$2 ;;
    --pid-file) pid=$2 ;;
  esac
  shift
done
/bin/sh "$bundle/command" <&0 &
echo $! > "$pid"
"""


@dataclass(frozen=True, slots=True)
class Holder:
    """What `Shim.create` calls."""

    name: str
    maker: Path
    options: tuple[str, ...] = ()

    @classmethod
    def install(cls, name: str, *, directory: Path) -> Holder:
        path = directory / "microvm-runtime"
        draft = path.with_suffix(".new")
        draft.write_text(_SCRIPT)
        draft.chmod(0o755)
        os.replace(draft, path)
        return cls(name, path)


def prepare(bundle: Path, argv: tuple[str, ...]) -> None:
    """Say what is to be started."""
    path = bundle / "command"
    path.touch(mode=0o600)
    path.write_text(f"exec {shlex.join(argv)}\n")
