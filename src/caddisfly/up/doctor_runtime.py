"""Which OCI runtimes really run a container here, each in the way the `oci` driver would have to call it."""

from __future__ import annotations

import json
import platform
import shutil
from pathlib import Path
from typing import Any

from caddisfly.host.drivers.oci.runtime import NAMES, outdated
from caddisfly.up.doctor_kernel import layout
from caddisfly.up.examination import Bench, Check, Ran
from caddisfly.up.settings import Settings

_WORD = "caddis-alive"
_TIMEOUT_S = 20.0

# runsc takes /proc/sys/net/core/rmem_default for a sign of the root network namespace; newer kernels show it in all.
_WITHOUT_NET_SYSCTLS = "mount -t tmpfs -o size=4k,mode=555 none /proc/sys/net; "
# crun refuses a hybrid layout; shown the v2 tree alone it runs, and limits come from the v1 groups it is put in.
_V2_ONLY = "umount -l /sys/fs/cgroup; mount -t cgroup2 none /sys/fs/cgroup; "


def conmon(bench: Bench, _: Settings) -> list[Check]:
    ran = bench.run(["conmon", "--version"])
    if ran.code == 0:
        return [
            Check(name="conmon", result="ok", found=ran.output.splitlines()[0].removeprefix("conmon version ").strip())
        ]
    return [Check(name="conmon", result="fail", found=ran.last_line, next="install conmon")]


def runtimes(bench: Bench, settings: Settings) -> list[Check]:
    """One check per runtime; all may be missing but the one that is wanted, or any when it is `auto`."""
    busybox = shutil.which("busybox")
    if busybox is None:
        return [Check(name="runtimes", result="warn", found="not tried: no busybox", next="install busybox-static")]
    checks = []
    for name in NAMES:
        if shutil.which(name) is None:
            checks.append(Check(name=name, result="warn", found="not installed", next=f"install {name}"))
            continue
        ran, how = _try(bench, name, Path(busybox))
        version = " ".join(bench.run([name, "--version"]).output.splitlines()[:1])
        works = ran.code == 0 and _WORD in ran.output
        refusal = outdated(name, version) if works else ran.last_line or f"exit code {ran.code}"
        checks.append(
            Check(
                name=name,
                result="warn" if refusal else "ok",
                found=refusal or f"runs a container{how} ({version})",
                next=f"upgrade or configure {name}; the other runtimes do without it" if refusal else "",
            )
        )
    wanted = settings.host.runtime
    able = [check.name for check in checks if check.result == "ok"]
    usable = able if wanted == "auto" else [name for name in able if name == wanted]
    if not usable:
        found = "none works" if wanted == "auto" else f"{wanted}, which is set, does not work"
        checks.append(Check(name="runtimes", result="fail", found=found, next="install runc, or set [host] runtime"))
    return checks


def _try(bench: Bench, name: str, busybox: Path) -> tuple[Ran, str]:
    bundle = _bundle(bench, name, busybox)
    id = f"{bench.name}-{name}"
    root = bench.directory / f"{name}-state"
    call = f"{name} --root {root} run --bundle {bundle} {id}"
    if name == "runsc":
        flags = "--platform=ptrace --network=none --ignore-cgroups"
        ran = bench.isolated(
            _WITHOUT_NET_SYSCTLS + call.replace(name, f"{name} {flags}", 1), timeout_s=_TIMEOUT_S, network=True
        )
        _forget(bench, f"{name} {flags} --root {root} delete -force {id}", root)
        return ran, ", platform ptrace"
    ran = bench.isolated(call, timeout_s=_TIMEOUT_S)
    how = ""
    if ran.code != 0 and name == "crun" and layout() == "hybrid":
        ran, how = bench.isolated(_V2_ONLY + call, timeout_s=_TIMEOUT_S), ", shown cgroup v2 only"
    _forget(bench, f"{name} --root {root} delete -f {id}", root)
    return ran, how


def _forget(bench: Bench, command: str, root: Path) -> None:
    """Only when `run` was cut short is there something left to delete."""
    if root.exists() and any(root.iterdir()):
        bench.isolated(command, timeout_s=_TIMEOUT_S)


def _bundle(bench: Bench, name: str, busybox: Path) -> Path:
    bundle = bench.directory / f"{name}-bundle"
    (bundle / "rootfs" / "bin").mkdir(parents=True)
    for directory in ("proc", "dev", "sys"):
        (bundle / "rootfs" / directory).mkdir()
    shutil.copy(busybox, bundle / "rootfs" / "bin" / "busybox")
    (bundle / "config.json").write_text(json.dumps(_spec(bench.name, name)))
    return bundle


def _spec(group: str, name: str) -> dict[str, Any]:
    machine = platform.machine()
    spec: dict[str, Any] = {
        "ociVersion": "1.0.2",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["/bin/busybox", "echo", _WORD],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "noNewPrivileges": True,
            "capabilities": {kind: [] for kind in ("bounding", "effective", "permitted")},
        },
        "root": {"path": "rootfs", "readonly": True},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {
            "cgroupsPath": f"/{group}-{name}",
            "namespaces": [{"type": kind} for kind in ("pid", "mount", "ipc", "uts", "network")],
            "maskedPaths": ["/proc/kcore"],
        },
    }
    if machine == "x86_64":
        spec["linux"]["seccomp"] = {
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mount", "ptrace"], "action": "SCMP_ACT_ERRNO"}],
        }
    return spec
