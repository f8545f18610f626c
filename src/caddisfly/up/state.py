"""`caddis status`: what of the platform runs on this computer, asked of the kernel and of the agent."""

from __future__ import annotations

import asyncio
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from caddisfly.bus import contract
from caddisfly.bus.rpc import LocalCaller
from caddisfly.model import registry as model_registry
from caddisfly.model.errors import Problem
from caddisfly.up import presence
from caddisfly.up.settings import Settings


@dataclass(frozen=True, slots=True, kw_only=True)
class PartState:
    """`pss_kb` is the part's own share of memory in KiB: what would be free without it."""

    name: str
    state: str
    pid: int
    uptime_s: int
    restarts: int
    pss_kb: int


def platform(settings: Settings) -> dict[str, Any]:
    """Everything, as `--json` shows it. A part that does not answer is told in words, it does not fail the command."""
    run_dir = settings.platform.run_dir
    record = presence.read(run_dir)
    running = presence.held(run_dir)
    parts = [asdict(part) for part in _parts(record)] if running else []
    status = _host(settings)
    return {
        "running": running,
        "parts": parts,
        "pss_kb": sum(part["pss_kb"] for part in parts),
        "api_url": api_url(settings),
        "edge_listen": list(settings.edge.http_listen),
        "apps_domain": settings.platform.domain,
        "registry": model_registry.host_name(settings.platform.domain),
        "registry_address": settings.registry.address,
        "log_dir": record.get("log_dir"),
        "settings_file": str(settings.source) if settings.source else None,
        "host": status if isinstance(status, dict) else None,
        "host_error": status if isinstance(status, str) else None,
    }


def api_url(settings: Settings) -> str:
    """Where programs on this computer reach the API."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(settings.control.listen_host, settings.control.listen_host)
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.control.listen_port}"


def edge_port(settings: Settings) -> int:
    return int(settings.edge.http_listen[0].rpartition(":")[2])


def pss_kb(pid: int) -> int:
    """Proportional set size in KiB, 0 when the process is gone or not ours to look into."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    except OSError:
        return 0
    return 0


def _parts(record: dict[str, Any]) -> list[PartState]:
    supervisor = {"name": "up", "state": "ready", "restarts": 0, **record.get("supervisor", {})}
    found = []
    for raw in (supervisor, *record.get("parts", ())):
        process = presence.Process(raw.get("pid", 0), raw.get("started", 0))
        alive = bool(process.pid) and process.alive
        found.append(
            PartState(
                name=raw["name"],
                state=raw["state"] if alive or raw["state"] == "waiting" else "gone",
                pid=process.pid if alive else 0,
                uptime_s=int(process.uptime_s) if alive else 0,
                restarts=raw["restarts"],
                pss_kb=pss_kb(process.pid) if alive else 0,
            )
        )
    return found


def _host(settings: Settings) -> dict[str, Any] | str:
    async def ask() -> contract.HostStatus:
        return await LocalCaller(settings.host.socket).call(contract.HOST_STATUS, contract.Nothing())

    try:
        return asyncio.run(ask()).model_dump()
    except Problem as problem:
        return str(problem)
