"""What a test must not leave behind: everything of ours that a host can hold, counted before and after."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

from caddisfly.host.network.firewall import LINK_PREFIX, TABLE
from caddisfly.host.network.network import is_ours

TEST_DIRECTORY = "caddis-host-"
"""Part of the name of every directory that a test's host lives in: it stands in every path and command line."""


def traces() -> frozenset[str]:
    """Every trace on this machine that our code could have made, each as a line for people."""
    return frozenset({*_processes(), *_namespaces(), *_mounts(), *_groups(), *_tables(), *_links(), *_loop_devices()})


def _processes() -> set[str]:
    found = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            continue
        # A zombie has left nothing but its number; whoever is its parent reaps it in its own time.
        if state != "Z" and TEST_DIRECTORY in line:
            # Without its number: an agent that was started again is the same one.
            found.add(f"process {' '.join(line.split())[:200]}")
    return found


def _namespaces() -> set[str]:
    directory = Path("/run/netns")
    names = (entry.name for entry in directory.iterdir()) if directory.is_dir() else ()
    return {f"network namespace {name}" for name in names if is_ours(name)}


def _mounts() -> set[str]:
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {f"mount {line.split()[4]}" for line in lines if TEST_DIRECTORY in line}


def _groups() -> set[str]:
    top = Path("/sys/fs/cgroup")
    parents = [place for name in ("caddisfly", "caddisfly-builds") for place in (top / name, *top.glob(f"*/{name}"))]
    found = (entry for parent in parents if parent.is_dir() for entry in parent.iterdir() if entry.is_dir())
    return {f"control group {entry}" for entry in found}


def _tables() -> set[str]:
    listed = subprocess.run(["nft", "-j", "list", "tables"], capture_output=True, check=True).stdout
    tables = (item["table"] for item in json.loads(listed)["nftables"] if "table" in item)
    return {f"nft table {table['name']}" for table in tables if table["name"] == TABLE}


def _links() -> set[str]:
    names = (entry.name for entry in Path("/sys/class/net").iterdir())
    return {f"link {name}" for name in names if name.startswith(LINK_PREFIX)}


def _loop_devices() -> set[str]:
    found = set()
    for entry in Path("/sys/block").glob("loop*/loop/backing_file"):
        try:
            file = entry.read_text().strip()
        except OSError:
            continue
        if TEST_DIRECTORY in file:
            found.add(f"loop device of {file}")
    return found
