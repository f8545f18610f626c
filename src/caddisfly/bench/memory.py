"""What the platform takes while it does nothing: PSS, which counts shared pages once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caddisfly.bench.platform import APP, IMAGE, Platform

_SLEEPER = {"image": IMAGE, "init": {"exec": ["/bin/sleep", "100000"]}}
_MACHINES = 10


async def measure(platform: Platform) -> dict[str, Any]:
    """MiB of everything that `caddis up` started, and what each idle Machine adds.

    A Machine's own part is its conmon, its init and its program; the platform's is what it remembers of it. The first
    one also makes the platform load what it had not needed before, so the cost of one more comes from ten.
    """
    without = await _platform_mb(platform)
    machines = platform.client.machines
    made = [await _idle_machine(platform)]
    with_one = await _platform_mb(platform) + _machine_mb(made[0])
    made += [await _idle_machine(platform) for _ in range(_MACHINES - 1)]
    outside = sum(_machine_mb(id) for id in made)
    grown = await _platform_mb(platform) - without
    for id in made:
        await machines.delete(APP, id, force=True)
    return {
        "platform_mb": round(without, 1),
        "with_one_machine_mb": round(with_one, 1),
        "per_machine_mb": round((grown + outside) / _MACHINES, 2),
        "of_which_outside_mb": round(outside / _MACHINES, 2),
    }


async def _idle_machine(platform: Platform) -> str:
    made = await platform.client.machines.create(APP, _SLEEPER)
    await platform.client.machines.wait(APP, made["id"], "started")
    return str(made["id"])


async def _platform_mb(platform: Platform) -> float:
    status = json.loads(await platform.caddis("status", "--json"))
    return float(status["pss_kb"]) / 1024


def _machine_mb(machine_id: str) -> float:
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
