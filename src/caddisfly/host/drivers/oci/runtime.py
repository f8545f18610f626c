"""An OCI runtime as a command: crun, runc or runsc, and what each needs around it on this host.

Two of them need a wrapper, written once as a shell script so that conmon can run it as if it were the runtime:

- crun refuses the hybrid layout of control groups. Where it makes a process, it is shown a mount namespace in which
  only the v2 tree is mounted (`view.py`), inside groups that the agent made, named in CADDIS_GROUPS, which its children
  inherit. What it does beyond that needs no wrapper.
- runsc of 2022 takes every network namespace of a newer kernel for the host's, because /proc/sys/net/core is visible in
  all of them. It is shown an empty /proc/sys/net. Its platform is always ptrace: where /dev/kvm opens but does not
  work, `--platform=kvm` hangs.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

from caddisfly.host.drivers.oci import view
from caddisfly.host.drivers.oci.cgroups import ControlGroups
from caddisfly.model.errors import DeadlineExceeded, FailedPrecondition, Internal

Name = Literal["crun", "runc", "runsc"]
NAMES: tuple[Name, ...] = get_args(Name)

_HYBRID_CRUN = """#!/bin/sh
for group in $CADDIS_GROUPS; do echo 0 > "$group/cgroup.procs" || exit 125; done
exec nsenter --mount={view} {binary} "$@"
"""
_RUNSC = """#!/bin/sh
exec unshare --mount --propagation slave -- /bin/sh -c \
'mount -t tmpfs -o size=4k,mode=555 none /proc/sys/net && exec "$0" "$@"' {binary} --platform=ptrace "$@"
"""

FLOORS: dict[Name, tuple[int, ...]] = {"crun": (1, 8), "runc": (1, 1, 5)}
"""Versions below these have known escapes (CVE-2024-21626 and older) and are refused. gVisor counts by days.

Distributions patch without raising the upstream number: Debian's runc 1.1.5+ds1-1+deb12u1 holds the fix of 1.1.12.
"""
_VERSION = re.compile(r"version (\d+(?:\.\d+)*)")


def outdated(name: Name, said: str) -> str:
    """Why no Machine may run in a runtime that says this of its version, and what to do; empty: it may."""
    floor = FLOORS.get(name)
    if floor is None:
        return ""
    oldest = ".".join(map(str, floor))
    found = _VERSION.search(said)
    if found is None:
        return f"{name} does not say its version ({said[:80]}), and below {oldest} containers are known to escape"
    if tuple(map(int, found[1].split("."))) >= floor:
        return ""
    return f"containers are known to escape from {name} {found[1]}: upgrade it to {oldest} or later"


@dataclass(frozen=True, slots=True)
class Runtime:
    """How to call it. `makes_groups` is false where the agent makes the control groups for it."""

    name: Name
    command: Path
    maker: Path
    """The same, for `create` and `exec`, which make a process."""
    state: Path
    makes_groups: bool

    @classmethod
    def install(cls, name: Name, *, directory: Path, groups: ControlGroups) -> Runtime:
        """Find the binary and write the wrapper it needs. Raises `FailedPrecondition` when it is not installed."""
        binary = shutil.which(name)
        if binary is None:
            raise FailedPrecondition(f"{name} is not installed", next=f"apt-get install {name}")
        state = directory / name
        state.mkdir(parents=True, exist_ok=True)
        state.chmod(0o700)  # the runtime copies the bundle's description to here
        makes_groups = not (name == "crun" and groups.layout == "hybrid")
        command = maker = Path(binary)
        if name == "runsc":
            command = maker = _script(directory / "runsc-wrapper", _RUNSC.format(binary=binary))
        elif not makes_groups:
            text = _HYBRID_CRUN.format(view=view.groups_of_version_2(), binary=binary)
            maker = _script(directory / "crun-wrapper", text)
        return cls(name, command, maker, state, makes_groups)

    @property
    def options(self) -> tuple[str, ...]:
        """Options that go before every sub-command."""
        manager = () if self.name == "runsc" or not self.makes_groups else self._manager()
        return (f"--root={self.state}", *manager)

    def _manager(self) -> tuple[str, ...]:
        return ("--cgroup-manager=cgroupfs",) if self.name == "crun" else ()

    async def run(self, *args: str, timeout_s: float) -> str:
        """Run a sub-command. Raises `Internal` with what it printed, `DeadlineExceeded` after killing it."""
        process = await asyncio.create_subprocess_exec(
            str(self.command),
            *self.options,
            *args,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment(),
        )
        try:
            async with asyncio.timeout(timeout_s):
                out, err = await process.communicate()
        except TimeoutError as error:
            await end(process)
            raise DeadlineExceeded(f"{self.name} {args[0]} took longer than {timeout_s:g} s") from error
        if process.returncode:
            said = err.decode(errors="replace").strip() or out.decode(errors="replace").strip()
            raise Internal(f"{self.name} {args[0]} failed", why=said[-2000:])
        return out.decode(errors="replace")


async def end(process: asyncio.subprocess.Process) -> None:
    """Kill a process of our own and reap it. One that has just ended is no error."""
    with suppress(ProcessLookupError):
        process.kill()
    await process.wait()


def environment(groups: tuple[Path, ...] = ()) -> dict[str, str]:
    """A runtime sees only this: nothing of the agent's own environment leaks into it."""
    return {
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "XDG_RUNTIME_DIR": "/run",
        "CADDIS_GROUPS": " ".join(str(group) for group in groups),
    }


def _script(path: Path, text: str) -> Path:
    temporary = path.with_suffix(".new")
    temporary.write_text(text)
    temporary.chmod(0o755)
    os.replace(temporary, path)
    return path
