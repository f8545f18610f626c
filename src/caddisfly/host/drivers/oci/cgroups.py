"""Control groups, whichever way this host has them mounted.

Three layouts are in use: v1 (a tree for each controller), v2 (one tree) and hybrid (v1 controllers beside a v2 tree
without any). runc handles all three by itself. crun refuses the hybrid layout, so for it the groups are made here and
the runtime is started inside them. Reading counters is done here for all: a runtime takes 13 ms to tell what two files
say in half of one.
"""

from __future__ import annotations

import errno
import logging
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from caddisfly.host.drivers.driver import Limits, Stats
from caddisfly.model.errors import FailedPrecondition, Unavailable

log = logging.getLogger(__name__)

ROOT = Path("/sys/fs/cgroup")
PARENT = "caddisfly"
Layout = Literal["v1", "hybrid", "v2"]
_V1_CONTROLLERS = ("cpu", "cpuacct", "memory", "pids", "freezer")
_PERIOD_US = 100_000
_SWAPS = Path("/proc/swaps")


def layout(root: Path = ROOT) -> Layout:
    """How this host mounts its control groups."""
    if (root / "cgroup.controllers").exists():
        return "v2"
    return "hybrid" if (root / "unified").is_dir() else "v1"


@dataclass(frozen=True, slots=True)
class ControlGroups:
    """The groups under one parent in every tree."""

    layout: Layout
    root: Path = ROOT
    parent: str = PARENT

    def weigh(self, weight: int) -> None:
        """How much CPU all groups here get together against the host's other work, where 100 is what one group gets."""
        tree = self.root if self.layout == "v2" else self.root / "cpu"
        group = tree / self.parent
        group.mkdir(exist_ok=True)
        if self.layout == "v2" and not (group / "cpu.weight").exists():
            (tree / "cgroup.subtree_control").write_text("+cpu")
        if self.layout == "v2":
            _write(group / "cpu.weight", weight)
        else:
            _write(group / "cpu.shares", max(2, weight * 1024 // 100))

    def path(self, id: str) -> str:
        """What goes into a bundle as `cgroupsPath`."""
        return f"/{self._below(id)}"

    def directories(self, id: str) -> tuple[Path, ...]:
        """Every directory that belongs to a sandbox."""
        if self.layout == "v2":
            return (self.root / self._below(id),)
        trees = {tree.resolve() for tree in self.root.iterdir() if tree.is_dir()}
        return tuple(tree / self._below(id) for tree in sorted(trees))

    def limit(self, group: str, limits: Limits) -> None:
        """Make the group that several sandboxes are in, and limit what they use together. Once: limits may change."""
        last = self.root / ("" if self.layout == "v2" else "pids") / self._below(group) / "pids.max"
        if _read(last).strip() == str(limits.pids):
            return
        if self.layout != "v2":
            self.make(group, limits)
            return
        parent = self.root / self.parent
        directory = parent / group
        directory.mkdir(parents=True, exist_ok=True)
        for above in (self.root, parent, directory):
            (above / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        _limit_v2(directory, limits)

    def enclose(self, id: str, limits: Limits) -> tuple[Path, ...]:
        """Make the groups of a sandbox that no runtime makes them for. Returns those that its process must join."""
        if self.layout != "v2":
            return self.make(id, limits)
        directory = self.root / self._below(id)
        directory.mkdir(parents=True, exist_ok=True)
        for above in (self.root, directory.parent):
            (above / "cgroup.subtree_control").write_text("+cpu +memory +pids")
        _limit_v2(directory, limits)
        return (directory,)

    def make(self, id: str, limits: Limits | None) -> tuple[Path, ...]:
        """Make the v1 groups, with limits or without. Returns those that a process must join to be inside."""
        made = []
        for controller in _V1_CONTROLLERS:
            group = self.root / controller / self._below(id)
            if not (self.root / controller).is_dir():
                continue
            group.mkdir(parents=True, exist_ok=True)
            made.append(group.resolve())
        if limits is None:
            return tuple(dict.fromkeys(made))
        _write(self.root / "memory" / self._below(id) / "memory.limit_in_bytes", limits.memory_mb << 20)
        swap = self.root / "memory" / self._below(id) / "memory.memsw.limit_in_bytes"
        if swap.exists():
            _write(swap, (limits.memory_mb + limits.swap_mb) << 20)
        _write(self.root / "cpu" / self._below(id) / "cpu.cfs_quota_us", int(limits.cores * _PERIOD_US))
        _write(self.root / "cpu" / self._below(id) / "cpu.shares", max(2, limits.weight * 1024 // 100))
        _write(self.root / "pids" / self._below(id) / "pids.max", limits.pids)
        return tuple(dict.fromkeys(made))

    def warm(self) -> None:
        """Make the next move of a process into a group quick.

        The kernel lets a group's members change only once all its readers have noticed, which takes it about 10 ms; for
        some milliseconds afterwards they still have. Moving ourselves to where we are anyway pays that in advance.
        """
        for line in Path("/proc/self/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            tree = self.root / (controllers.removeprefix("name=") if self.layout != "v2" else "")
            try:
                (tree / path.lstrip("/") / "cgroup.procs").write_text("0")
            except OSError as error:
                log.debug("cgroups.not_warmed", extra={"reason": str(error)})
            else:
                return

    def memory_limit(self, id: str) -> int:
        """Bytes. Raises `FailedPrecondition` where the group has no limit, because it is gone."""
        text = _read(self._memory(id)).strip()
        if not text.isdecimal():
            raise FailedPrecondition("machine not running", why="its control group has no memory limit")
        return int(text)

    def limit_memory(self, id: str, limit: int) -> None:
        """Raises `FailedPrecondition` when more is in use and cannot be taken back."""
        before = self.memory_limit(id)
        writes = [(self._memory(id), limit)]
        swap = self._memory(id).with_name("memory.memsw.limit_in_bytes")
        if swap.exists():  # memory and swap together, which may never be less than memory alone
            both = limit + max(0, _number(swap) - before)
            writes.insert(0 if limit > before else 1, (swap, both))
        try:
            for file, value in writes:
                file.write_text(str(value))
        except OSError as error:
            raise FailedPrecondition(
                f"the memory cannot be limited to {limit >> 20} MiB", why=os.strerror(error.errno or 0)
            ) from error

    def reclaim_memory(self, id: str, amount: int) -> None:
        """Ask the kernel to take so many bytes back. It may find fewer."""
        if self.layout == "v2":
            try:
                (self.root / self._below(id) / "memory.reclaim").write_text(str(amount))
            except OSError as error:
                if error.errno != errno.EAGAIN:  # what there was is back, and it was less
                    raise
            return
        # Version 1 takes back what is above a limit that is lowered, and refuses the limit if it cannot.
        before = self.memory_limit(id)
        try:
            self._memory(id).write_text(str(max(0, self.stats(id).memory_bytes - amount)))
        except OSError as error:
            log.debug("cgroups.not_all_reclaimed", extra={"sandbox": id, "reason": str(error)})
        finally:
            self._memory(id).write_text(str(before))

    def _memory(self, id: str) -> Path:
        if self.layout == "v2":
            return self.root / self._below(id) / "memory.max"
        return self.root / "memory" / self._below(id) / "memory.limit_in_bytes"

    def freeze(self, id: str, *, frozen: bool) -> bool:
        """Stop or let go every process of a sandbox. Says whether all have noticed; ask again until they have."""
        if self.layout == "v2":
            group = self.root / self._below(id)
            (group / "cgroup.freeze").write_text("1" if frozen else "0")
            return (_field(group / "cgroup.events", "frozen") == 1) == frozen
        state = self.root / "freezer" / self._below(id) / "freezer.state"
        state.write_text("FROZEN" if frozen else "THAWED")
        return state.read_text().strip() == ("FROZEN" if frozen else "THAWED")

    def thaw(self, id: str) -> None:
        """Let every process go on; nothing if there are none."""
        state = self.root / "freezer" / self._below(id) / "freezer.state"
        if self.layout != "v2" and _read(state).strip() not in ("", "THAWED"):
            state.write_text("THAWED")

    def remove(self, id: str) -> None:
        """Remove every group of a sandbox whose processes are gone. Raises `Unavailable` while some are not."""
        for directory in self.directories(id):
            if not directory.is_dir():
                continue
            children = [Path(parent) for parent, _, _ in os.walk(directory, topdown=False)]
            for child in children:
                try:
                    child.rmdir()
                except FileNotFoundError:
                    continue
                except OSError as error:
                    if error.errno == errno.EBUSY:
                        raise Unavailable(f"control group {child} still has processes") from error
                    raise

    def processes(self, id: str) -> frozenset[int]:
        """Every process in a sandbox, by the host's numbers."""
        found: set[int] = set()
        for directory in self._counting(id):
            for parent, _, files in os.walk(directory):
                if "cgroup.procs" in files:
                    found |= {int(pid) for pid in _read(Path(parent) / "cgroup.procs").split()}
        return frozenset(found)

    def known(self) -> frozenset[str]:
        """Ids that have a group in any tree."""
        trees = [self.root] if self.layout == "v2" else [tree for tree in self.root.iterdir() if tree.is_dir()]
        found: set[str] = set()
        for tree in trees:
            parent = tree / self.parent
            if parent.is_dir():
                found |= {entry.name for entry in parent.iterdir() if entry.is_dir()}
        return frozenset(found)

    def stats(self, id: str) -> Stats:
        """Counters of a sandbox; zero for what this host does not count."""
        if self.layout == "v2":
            group = self.root / self._below(id)
            return Stats(
                cpu_ns=_field(group / "cpu.stat", "usage_usec") * 1000,
                memory_bytes=_number(group / "memory.current"),
                pids=_number(group / "pids.current"),
                oom_kills=_field(group / "memory.events", "oom_kill"),
            )
        return Stats(
            cpu_ns=_number(self.root / "cpuacct" / self._below(id) / "cpuacct.usage"),
            memory_bytes=_number(self.root / "memory" / self._below(id) / "memory.usage_in_bytes"),
            pids=_number(self.root / "pids" / self._below(id) / "pids.current"),
            oom_kills=_field(self.root / "memory" / self._below(id) / "memory.oom_control", "oom_kill"),
        )

    def _below(self, id: str) -> str:
        """Where a sandbox's group is: under the parent, or in the group that a dot in its id names."""
        group, dot, _ = id.partition(".")
        return f"{self.parent}/{group}/{id}" if dot else f"{self.parent}/{id}"

    def _counting(self, id: str) -> tuple[Path, ...]:
        if self.layout == "v2":
            return (self.root / self._below(id),)
        return (self.root / "pids" / self._below(id), self.root / "memory" / self._below(id))


def has_swap(root: Path = ROOT) -> bool:
    """Whether a group can be given swap: the host has some, and counts it."""
    lines = _read(_SWAPS).splitlines()[1:]  # after the heading
    return bool(lines) and (layout(root) == "v2" or (root / "memory" / "memory.memsw.limit_in_bytes").exists())


def resources(limits: Limits) -> dict[str, Any]:
    """The same limits as a bundle states them, for a runtime that makes the groups itself."""
    return {
        "memory": {"limit": limits.memory_mb << 20, "swap": (limits.memory_mb + limits.swap_mb) << 20},
        "cpu": {
            "shares": max(2, limits.weight * 1024 // 100),
            "quota": int(limits.cores * _PERIOD_US),
            "period": _PERIOD_US,
        },
        "pids": {"limit": limits.pids},
    }


def _limit_v2(directory: Path, limits: Limits) -> None:
    _write(directory / "memory.max", limits.memory_mb << 20)
    if (directory / "memory.swap.max").exists():
        _write(directory / "memory.swap.max", limits.swap_mb << 20)
    _write(directory / "cpu.max", f"{int(limits.cores * _PERIOD_US)} {_PERIOD_US}")
    _write(directory / "cpu.weight", limits.weight)
    _write(directory / "pids.max", limits.pids)


def _write(path: Path, value: int | str) -> None:
    try:
        path.write_text(str(value))
    except OSError as error:
        raise Unavailable(f"a limit cannot be set: {path}", why=str(error), next="caddis doctor") from error


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (FileNotFoundError, ProcessLookupError):
        return ""
    except OSError as error:
        if error.errno == errno.ENODEV:  # the group went away while it was read
            return ""
        raise


def _number(path: Path) -> int:
    return int(_read(path).strip() or 0)


def _field(path: Path, name: str) -> int:
    for line in _read(path).splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0
