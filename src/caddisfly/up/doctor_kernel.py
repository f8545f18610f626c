"""What the kernel of this computer does: control groups, overlays, cloned files, networks, filters."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from caddisfly.host.network.firewall import LINK_PREFIX, TABLE
from caddisfly.up.examination import Bench, Check
from caddisfly.up.settings import Settings

_ROOT = Path("/sys/fs/cgroup")
_LIMIT_MB = 32
_GREED = f"""
block = bytearray({_LIMIT_MB} * 4 * 1024 * 1024)
block[::4096] = b"x" * len(block[::4096])
print("unbounded")
"""
_FORWARD = ("/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding")


def layout() -> str:
    """`v2`, `v1`, `hybrid` (v1 controllers beside a v2 tree) or empty."""
    if (_ROOT / "cgroup.controllers").exists():
        return "v2"
    if not (_ROOT / "memory").exists():
        return ""
    return "hybrid" if (_ROOT / "unified" / "cgroup.controllers").exists() else "v1"


def control_groups(_: Bench, __: Settings) -> list[Check]:
    kind = layout()
    if not kind:
        return [Check(name="control groups", result="fail", found="none at /sys/fs/cgroup", next="mount them")]
    if kind == "v2":
        have = set((_ROOT / "cgroup.controllers").read_text().split())
    else:
        have = {path.name for path in _ROOT.iterdir()} - {"unified"}
    missing = {"cpu", "memory", "pids"} - have
    return [
        Check(
            name="control groups",
            result="fail" if missing else "ok",
            found=f"{kind}, without {', '.join(sorted(missing))}" if missing else kind,
            next="boot a kernel that has these controllers" if missing else "",
        )
    ]


def memory_limit(bench: Bench, _: Settings) -> list[Check]:
    """A process with 32 MiB that takes 128 must die of it."""
    name = "memory limit"
    group = (_ROOT if layout() == "v2" else _ROOT / "memory") / bench.name
    if not group.parent.exists():
        return [Check(name=name, result="fail", found="no memory controller", next="boot a kernel that has it")]
    try:
        group.mkdir()
        try:
            _limit(group)
            output = _spend(group)
        finally:
            group.rmdir()
    except OSError as error:
        why = f"{error.strerror} at {error.filename}"
        return [Check(name=name, result="fail", found=why, next="run as root, outside of a container without cgroups")]
    if "unbounded" in output:
        return [
            Check(name=name, result="fail", found="a limit is accepted and not enforced", next="mount control groups")
        ]
    return [Check(name=name, result="ok", found=f"bites at {_LIMIT_MB} MiB")]


def _limit(group: Path) -> None:
    if layout() == "v2":
        controllers = group.parent / "cgroup.subtree_control"
        if "memory" not in controllers.read_text().split():
            controllers.write_text("+memory")
        (group / "memory.max").write_text(f"{_LIMIT_MB}M")
        with suppress(OSError):  # no swap accounting: then there is no swap to hide in, or it shows below
            (group / "memory.swap.max").write_text("0")
    else:
        (group / "memory.limit_in_bytes").write_text(f"{_LIMIT_MB}M")
        with suppress(OSError):
            (group / "memory.memsw.limit_in_bytes").write_text(f"{_LIMIT_MB}M")


def _spend(group: Path) -> str:
    """The process enters the group by itself, before it grows."""
    enter = f"open({str(group / 'cgroup.procs')!r}, 'w').write('0')\n"
    done = subprocess.run(
        [sys.executable, "-I", "-c", enter + _GREED], capture_output=True, text=True, timeout=20, check=False
    )
    return done.stdout + ("" if done.returncode == -9 else "unbounded" if done.returncode == 0 else done.stderr)


def overlay(bench: Bench, _: Settings) -> list[Check]:
    base = bench.directory / "overlay"
    for name in ("lower", "upper", "work", "merged"):
        (base / name).mkdir(parents=True)
    (base / "lower" / "file").write_text("below")
    ran = bench.isolated(
        "cd overlay; mount -t overlay none -o lowerdir=lower,upperdir=upper,workdir=work merged; "
        'test "$(cat merged/file)" = below; echo above > merged/file; test "$(cat lower/file)" = below'
    )
    return [_outcome("overlay", ran.code, ran.last_line, "mounts, and keeps writes apart", "modprobe overlay")]


def reflink(bench: Bench, _: Settings) -> list[Check]:
    if shutil.which("mkfs.xfs") is None:
        return [
            Check(name="image store", result="warn", found="no mkfs.xfs: plain directories", next="install xfsprogs")
        ]
    ran = bench.isolated(
        "truncate -s 320M xfs.img; mkfs.xfs -q -m reflink=1 xfs.img; mkdir xfs; mount -o loop xfs.img xfs; "
        "cd xfs; dd if=/dev/zero of=one bs=1M count=4 2>/dev/null; cp --reflink=always one two; cmp one two",
        timeout_s=30,
    )
    if ran.code == 0:
        return [Check(name="image store", result="ok", found="XFS on a loop device, clones files")]
    return [
        Check(name="image store", result="warn", found=ran.last_line, next="modprobe xfs loop; else plain directories")
    ]


def network(bench: Bench, _: Settings) -> list[Check]:
    ran = bench.isolated(
        "ip link add caddis0 type veth peer name caddis1; ip address add 10.99.99.1/30 dev caddis0; "
        "ip link set caddis0 up; ip link set caddis1 up; ip -6 address add fdaa::1/64 dev caddis0",
        network=True,
    )
    return [_outcome("network", ran.code, ran.last_line, "namespaces, veth, IPv6", "install iproute2; modprobe veth")]


def firewall(bench: Bench, _: Settings) -> list[Check]:
    rules = bench.directory / "rules.nft"
    rules.write_text(
        """
        table inet caddis {
          set known { typeof meta mark . ip6 daddr; }
          chain forward {
            type filter hook forward priority 0; policy drop;
            ct state established,related accept
            meta mark . ip6 daddr @known accept
          }
          chain out {
            type nat hook postrouting priority 100;
            masquerade
          }
        }
        """
    )
    ran = bench.isolated("nft -f rules.nft; nft list table inet caddis > listed; grep -q known listed", network=True)
    works = _outcome(
        "firewall", ran.code, ran.last_line, "nftables with sets, connection state, NAT", "install nftables"
    )
    return [works, *rules_of_machines([name for _, name in socket.if_nameindex() if name.startswith(LINK_PREFIX)])]


def rules_of_machines(links: list[str]) -> list[Check]:
    """Only where there are Machines: a firewall script may have taken the rules away while no agent ran."""
    if not links or shutil.which("nft") is None:
        return []
    ran = subprocess.run(["nft", "--terse", "list", "table", "inet", TABLE], capture_output=True, check=False)
    return [
        _outcome(
            "rules of Machines",
            ran.returncode,
            f"{len(links)} Machines are plugged in, and nothing stands between them: no table inet {TABLE}",
            f"in place for {len(links)} Machines",
            "caddis up: the agent makes them anew, within milliseconds",
        )
    ]


def forwarding(_: Bench, __: Settings) -> list[Check]:
    off = [name for name in _FORWARD if Path(name).exists() and Path(name).read_text().strip() == "0"]
    if not off:
        return [Check(name="forwarding", result="ok", found="on")]
    if all(os.access(name, os.W_OK) for name in off):
        return [Check(name="forwarding", result="ok", found="off now; the agent turns it on")]
    return [
        Check(
            name="forwarding", result="fail", found=f"{off[0]} is 0 and read-only", next="sysctl net.ipv4.ip_forward=1"
        )
    ]


def seccomp(_: Bench, __: Settings) -> list[Check]:
    actions = Path("/proc/sys/kernel/seccomp/actions_avail")
    if not actions.exists():
        return [
            Check(name="seccomp", result="fail", found="no filters", next="boot a kernel with CONFIG_SECCOMP_FILTER")
        ]
    missing = {"errno", "kill_process", "allow"} - set(actions.read_text().split())
    if missing:
        return [Check(name="seccomp", result="fail", found=f"without {', '.join(missing)}", next="boot a newer kernel")]
    return [Check(name="seccomp", result="ok", found="filters")]


def _outcome(name: str, code: int, said: str, works: str, next: str) -> Check:
    if code == 0:
        return Check(name=name, result="ok", found=works)
    return Check(name=name, result="fail", found=said, next=next)
