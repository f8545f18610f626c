"""What the platform takes while it does nothing: PSS, which counts shared pages once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caddisfly.bench.platform import APP, IMAGE, Platform

_SLEEPER = {"image": IMAGE, "init": {"exec": ["/bin/sleep", "100000"]}}
_MACHINES = 10


async def idle(platform: Platform) -> dict[str, Any]:
    """MiB of everything that `caddis up` started, and what each idle Machine adds (its conmon and its program)."""
    without = await _pss_mb(platform)
    machines = platform.client.machines
    made = [await machines.create(APP, config=_SLEEPER) for _ in range(_MACHINES)]
    for machine in made:
        await machines.wait(APP, machine["id"], "started")
    grown = await _pss_mb(platform) - without
    outside = sum(_tree_pss_mb(machine["id"]) for machine in made)
    for machine in made:
        await machines.delete(APP, machine["id"], force=True)
    return {"platform_mb": round(without, 1), "per_machine_mb": round((grown + outside) / _MACHINES, 2)}


async def _pss_mb(platform: Platform) -> float:
    status = json.loads(await platform.caddis("status", "--json"))
    return float(status["pss_kb"]) / 1024


def _tree_pss_mb(machine_id: str) -> float:
    """A Machine's conmon and all below it."""
    total_kb = 0
    pending = [pid for pid in map(int, filter(str.isdigit, _names("/proc"))) if _is_conmon_of(pid, machine_id)]
    while pending:
        pid = pending.pop()
        rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        total_kb += next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:"))
        for task in _names(f"/proc/{pid}/task"):
            pending += map(int, Path(f"/proc/{pid}/task/{task}/children").read_text().split())
    return total_kb / 1024


def _is_conmon_of(pid: int, machine_id: str) -> bool:
    try:
        words = Path(f"/proc/{pid}/cmdline").read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return words.startswith(b"conmon\0") and machine_id.encode() in words


def _names(directory: str) -> list[str]:
    return [entry.name for entry in Path(directory).iterdir()]
